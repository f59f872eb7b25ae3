"""Stop: a button, a word, a command, a reaction. Each ends what runs and leaves the session usable."""

from __future__ import annotations

from typing import Any

from slack_bolt.async_app import AsyncApp
from slack_bolt.request.async_request import AsyncBoltRequest

from bot.below import STOP_TURN
from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.inbound import StopWord
from bot.listing import BUSY, sessions_blocks, title
from bot.parts import Block, fallback, section
from bot.refusals import refusal
from config.logging import get_logger
from sessions.types import Session, ThreadId, Turn, TurnId

log = get_logger(__name__)

EMOJI = "octagonal_sign"
_LATE = 60.0  # seconds: a stop that took longer to arrive might end something that was asked since
_NAMED = 15  # sessions, of all that were stopped
_NOTHING_HERE = "Nothing is running here, so there is nothing to stop."


def register(app: AsyncApp, door: Door) -> None:
    async def pressed(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
        await ack()
        turn_id, user_id = TurnId(str(action.get("value", ""))), str(body["user"]["id"])
        door.after.start(_stop_turn(door, turn_id, user_id, respond), "stop")

    async def reacted(event: dict[str, Any], request: AsyncBoltRequest) -> None:
        item = event.get("item") or {}
        if event.get("reaction") != EMOJI or item.get("type") != "message":
            return
        ts = str(event["event_ts"])
        if is_redelivered(request) and is_late(door, ts):
            log.info("a stop came too late", by=event["user"])
        elif door.acted.first(f"reaction {ts} {event['user']}"):
            work = _stop_by_reaction(door, str(item["channel"]), str(item["ts"]), str(event["user"]))
            door.after.start(work, "stop")

    app.action(STOP_TURN)(pressed)
    app.event("reaction_added")(reacted)


def is_redelivered(request: AsyncBoltRequest) -> bool:
    return request.headers.get("x-slack-retry-num", ["0"])[0] != "0"


def is_late(door: Door, ts: str) -> bool:
    return door.now() - float(ts) > _LATE


# ---- the button on the live message ------------------------------------------------------------------------------


async def _stop_turn(door: Door, turn_id: TurnId, user_id: str, respond: Respond) -> None:
    """Anybody who sees the button may press it; who did is shown."""
    try:
        turn = await door.sessions.turn(turn_id)
        log.info("stopping a turn", turn=turn_id, session=turn.session_id, by=user_id)
        text = "" if await _end(door, turn, user_id) else "That has ended already."
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        text = sentence_for(error, "stopping a turn")
    if text:
        await respond(text=text, response_type="ephemeral", replace_original=False)


async def _end(door: Door, turn: Turn, user_id: str) -> bool:
    """This turn and no other, whether it runs or waits, or begins in this moment. False: it is over."""
    sessions = door.sessions
    return (
        await sessions.interrupt(turn.session_id, user_id, only=turn.id)
        or await sessions.withdraw(turn.id, user_id)
        or await sessions.interrupt(turn.session_id, user_id, only=turn.id)
    )


# ---- the word ----------------------------------------------------------------------------------------------------


async def stop_word(door: Door, asked: StopWord, *, late: bool) -> None:
    """Acts once on each message. `late`: it may have been on its way for long. Raises StoreUnavailable.

    A late one ends nothing that was asked after it.
    """
    if late and is_late(door, asked.ts):
        log.info("a stop came too late", by=asked.user_id)
        return
    if not door.acted.first(asked.source_id):
        return
    try:
        await _act_on_word(door, asked, late=late)
    except Exception:
        door.acted.forget(asked.source_id)
        raise


async def _act_on_word(door: Door, asked: StopWord, *, late: bool) -> None:
    thread = asked.thread
    if thread.thread_ts is None:
        if not late:
            blocks = await stop_in_channel(door, thread.channel, asked.user_id)
            door.after.start(door.whisper(thread, asked.user_id, fallback(blocks), blocks), "nothing to stop")
        return
    session = await door.sessions.find(thread)
    if session is None and not asked.called:  # people among themselves
        return
    if session is not None and late and not await _has_older_work(door, session, asked.ts):
        return
    if session is not None and await door.sessions.halt(session.id, asked.user_id):
        log.info("stopped by a word", session=session.id, by=asked.user_id)
    elif not late:
        door.after.start(door.whisper(thread, asked.user_id, _NOTHING_HERE), "nothing to stop")


async def _has_older_work(door: Door, session: Session, ts: str) -> bool:
    return any(not turn.state.settled and turn.ts < ts for turn in await door.sessions.turns(session.id))


# ---- the command -------------------------------------------------------------------------------------------------


async def stop_in_channel(door: Door, channel: str, user_id: str) -> list[Block]:
    """Ends the one thing that works for this person in the channel; the answer for that person."""
    busy = await door.sessions.list(user_id=user_id, states=BUSY)
    here = [session for session in busy if session.thread.channel == channel]
    if len(here) == 1 and await door.sessions.halt(here[0].id, user_id):
        log.info("stopped by a command", session=here[0].id, by=user_id)
        return [section(f"Stopping {title(here[0], door.me)}. Reply in its thread to go on.")]
    if len(here) > 1:
        return sessions_blocks(here, door.me, "*Which one?* `/flow stop all` ends them all.", "", choose=True)
    elsewhere = [session for session in busy if session.thread.channel != channel]
    none = "Nothing is working for you here, so there is nothing to stop."
    return sessions_blocks(elsewhere, door.me, f"{none} *Elsewhere:*", none)


async def stop_all(door: Door, user_id: str) -> list[Block]:
    """Ends whatever works for this person, wherever it is; the answer for that person."""
    ended: list[Session] = []
    for session in await door.sessions.list(user_id=user_id, states=BUSY, limit=1_000):
        if await door.sessions.halt(session.id, user_id):
            ended.append(session)
    log.info("stopped all of a person's", by=user_id, sessions=len(ended))
    if not ended:
        return [section("Nothing is working for you, so there is nothing to stop.")]
    names = "\n".join(f"• {title(session, door.me)} in <#{session.thread.channel}>" for session in ended[:_NAMED])
    more = f"\nand {len(ended) - _NAMED} more" if len(ended) > _NAMED else ""
    return [section(f"Stopping all that works for you. Reply in a thread to go on there.\n{names}{more}")]


# ---- the reaction ------------------------------------------------------------------------------------------------


async def _stop_by_reaction(door: Door, channel: str, ts: str, user_id: str) -> None:
    session = await _session_of(door, channel, ts)
    if session is not None and await door.sessions.halt(session.id, user_id):
        log.info("stopped by a reaction", session=session.id, by=user_id)


async def _session_of(door: Door, channel: str, ts: str) -> Session | None:
    """The session in whose thread the message stands. Only Slack knows the thread of a message that is no root."""
    team = door.me.team_id
    found = await door.sessions.find(ThreadId(team, channel, ts))
    if found is not None:
        return found
    try:
        read = await door.reader.replies(channel, ts, oldest=ts)
    except Exception as error:  # noqa: BLE001 - people see that nothing stops, and have other ways
        log.warning("cannot read which thread a reaction is in", error=refusal(error).error)
        return None
    roots = {str(message["thread_ts"]) for message in read.messages if message.get("thread_ts")}
    return await door.sessions.find(ThreadId(team, channel, roots.pop())) if len(roots) == 1 else None
