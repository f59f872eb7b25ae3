"""*Now* and *Take back*, on the message that tells of waiting: for whoever asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.below import NOW, TAKE_BACK, person
from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from config.logging import get_logger
from sessions.types import TurnId

log = get_logger(__name__)

_BEGUN = "It does not wait any more. To end it, press Stop or write `stop`."
Do = Callable[[TurnId, str], Awaitable[bool]]


def register(app: AsyncApp, door: Door) -> None:
    def button(action_id: str, do: Do) -> None:
        async def pressed(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
            await ack()
            turn_id, user_id = TurnId(str(action.get("value", ""))), str(body["user"]["id"])
            door.after.start(_press(door, do, turn_id, user_id, respond), action_id)

        app.action(action_id)(pressed)

    button(NOW, door.sessions.hurry)
    button(TAKE_BACK, door.sessions.withdraw)


async def _press(door: Door, do: Do, turn_id: TurnId, user_id: str, respond: Respond) -> None:
    try:
        turn = await door.sessions.turn(turn_id)
        if turn.user_id != user_id:
            text = f"Only {person(turn.user_id)}, who asked, can do that."
        else:
            text = "" if await do(turn_id, user_id) else _BEGUN
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        text = sentence_for(error, "a button on a waiting message")
    if text:
        await respond(text=text, response_type="ephemeral", replace_original=False)
