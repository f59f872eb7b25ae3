"""Buttons."""

from __future__ import annotations

import re
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.home import publish_home
from bot.listing import title
from config.logging import get_logger
from sessions.types import SessionId

log = get_logger(__name__)


def register(app: AsyncApp, door: Door) -> None:
    async def stop(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
        await ack()
        session_id, user_id = SessionId(str(action.get("value", ""))), str(body["user"]["id"])
        if "view" in body:
            door.after.start(_stop_at_home(door, session_id, user_id), "stop")
        else:
            door.after.start(stop_session(door, session_id, user_id, respond), "stop")

    async def other(ack: Ack, action: dict[str, Any]) -> None:
        log.info("a button that is not ours any more", action=action.get("action_id"))
        await ack()

    app.action("stop")(stop)
    app.action(re.compile(".*"))(other)


async def stop_session(
    door: Door, session_id: SessionId, user_id: str, respond: Respond, *, quiet: bool = False
) -> None:
    """Anybody who sees the button may press it; who did is logged. `quiet`: say something only if it failed."""
    try:
        session = await door.sessions.get(session_id)
        log.info("stopping a session", session=session_id, by=user_id)
        stopped = await door.sessions.stop(session_id, by=user_id)
        text = f"Stopped {title(session, door.me)}. Reply in its thread to go on."
        if not stopped:
            text = f"{title(session, door.me)} got a new message meanwhile and goes on with that."
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        text, quiet = sentence_for(error, "stopping a session"), False
    if not quiet:
        await respond(text=text, response_type="ephemeral", replace_original=False)


async def _stop_at_home(door: Door, session_id: SessionId, user_id: str) -> None:
    """A home tab has no place for an answer: the new list is the answer."""

    async def unheard(**said: Any) -> None:
        log.info("stopped from the home tab", said=said.get("text"), by=user_id)

    await stop_session(door, session_id, user_id, unheard)
    await publish_home(door, user_id)
