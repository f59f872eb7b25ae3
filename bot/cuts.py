"""How to go on after a turn that was cut off: Continue, Start over, Leave it."""

from __future__ import annotations

from typing import Any, Literal

from slack_bolt.async_app import AsyncApp

from bot.below import CONTINUE, LEAVE, START_OVER, cut_question, person
from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.parts import Block, context, fallback
from bot.refusals import refusal
from config.logging import get_logger
from sessions.types import Turn, TurnId

log = get_logger(__name__)

How = Literal["continue", "again"]
_HOW: dict[str, How] = {CONTINUE: "continue", START_OVER: "again"}
_CHOSE = {
    CONTINUE: "▸ {who} let me continue.",
    START_OVER: "▸ {who} let me start over.",
    LEAVE: "■ {who} left it there. Reply to go on.",
}


def register(app: AsyncApp, door: Door) -> None:
    async def pressed(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
        await ack()
        door.after.start(_choose(door, str(action["action_id"]), action, body, respond), "choice")

    for action_id in _CHOSE:
        app.action(action_id)(pressed)


async def _choose(door: Door, choice: str, action: dict[str, Any], body: dict[str, Any], respond: Respond) -> None:
    """Anybody in the thread may choose; the first choice counts."""
    turn_id, user_id = TurnId(str(action.get("value", ""))), str(body["user"]["id"])
    try:
        turn = await door.sessions.turn(turn_id)
        said, private = await _decide(door, choice, turn, user_id)
        await _replace(door, body, [*cut_question(turn.error or "", None), context(said)])
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        private = sentence_for(error, "going on after a cut")
    if private:
        await respond(text=private, response_type="ephemeral", replace_original=False)


async def _decide(door: Door, choice: str, turn: Turn, user_id: str) -> tuple[str, str]:
    """What the thread is told, and what only the person who pressed is (or nothing)."""
    if choice == LEAVE:
        if (resumed := await door.sessions.resumed(turn)) is not None:
            return _decided(resumed)
        log.info("a cut turn is left", turn=turn.id, by=user_id)
        return _CHOSE[LEAVE].format(who=person(user_id)), ""
    submitted = await door.sessions.resume(turn.id, user_id, _HOW[choice], door.ts())
    if submitted is None:
        return "▸ This has been settled.", "That is settled already."
    log.info("going on after a cut", turn=turn.id, how=_HOW[choice], by=submitted.turn.user_id, fresh=submitted.fresh)
    if submitted.fresh:
        return _CHOSE[choice].format(who=person(user_id)), ""
    return _decided(submitted.turn)


def _decided(resumed: Turn) -> tuple[str, str]:
    first = person(resumed.user_id)
    return f"▸ {first} decided how to go on.", f"{first} was quicker and has decided already."


async def _replace(door: Door, body: dict[str, Any], blocks: list[Block]) -> None:
    """The question is a message of its own, so all of it is known. That it keeps its buttons is no harm."""
    where = body["container"]
    try:
        await door.client.chat_update(
            channel=where["channel_id"], ts=where["message_ts"], text=fallback(blocks), blocks=blocks
        )
    except Exception as error:  # noqa: BLE001 - pressed again, they say who decided
        log.warning("cannot take the buttons away", error=refusal(error).error)
