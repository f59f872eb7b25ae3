"""`fork`: a thread of its own that goes on from here."""

from __future__ import annotations

from bot.below import person
from bot.door import Door
from bot.listing import link, title
from bot.parts import context, fallback, section
from bot.refusals import place_sentence, refusal
from bot.threadwords import Word
from config.logging import get_logger
from sessions.types import Session

log = get_logger(__name__)

FORK = "flow_fork"  # event type of the metadata of a root message
_WHOLE = "It knows what was said there until now, and has a copy of the workspace. Reply here to go on."
_TOLD = "It is told what was said there until now; the workspace of that time is gone. Reply here to go on."


async def fork(door: Door, session: Session, word: Word) -> str:
    """Once for a message: its session is found by the message, its root message by the metadata."""
    forked = await door.sessions.fork(session.id, word.source_id, word.user_id)
    if forked.thread.thread_ts is None:
        ts = await _root_of(door, forked, since=word.ts)
        if ts is None:
            try:
                ts = await _open(door, session, forked, word.user_id)
            except Exception as error:  # noqa: BLE001 - worded for the person who wrote
                told = refusal(error)
                log.warning("a fork cannot be opened", session=forked.id, error=told.error)
                return place_sentence(told.error)
        forked = await door.sessions.opened(forked.id, ts)
        log.info("forked", session=session.id, fork=forked.id, by=word.user_id)
    return f"Forked: {title(forked, door.me)}"


async def _root_of(door: Door, forked: Session, *, since: str) -> str | None:
    """Where an earlier attempt has posted it. None: it has not, as far as can be read."""
    try:
        answer = await door.client.conversations_history(
            channel=forked.thread.channel, oldest=since, limit=100, include_all_metadata=True
        )
    except Exception as error:  # noqa: BLE001 - a second root is better than none
        log.warning("cannot look for a fork's thread", error=refusal(error).error)
        return None
    for message in answer.get("messages") or []:
        metadata = message.get("metadata") or {}
        if metadata.get("event_type") == FORK and (metadata.get("event_payload") or {}).get("session") == forked.id:
            return str(message["ts"])
    return None


async def _open(door: Door, origin: Session, forked: Session, user_id: str) -> str:
    where = title(origin, door.me)
    blocks = [
        section(f"⑂ {person(user_id)} forked {where if link(origin, door.me) else f'*{where}*'}"),
        context(_TOLD if forked.retired_at is not None else _WHOLE),
    ]
    answer = await door.client.chat_postMessage(
        channel=forked.thread.channel, text=fallback(blocks), blocks=blocks, unfurl_links=False, unfurl_media=False,
        metadata={"event_type": FORK, "event_payload": {"session": forked.id}},
    )  # fmt: skip
    return str(answer["ts"])
