"""Buttons of lists."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.home import publish_home
from bot.listing import CHOOSE, title
from config.logging import get_logger
from sessions.types import Session, SessionId

log = get_logger(__name__)

#: Does it, and says what became of it.
Act = Callable[[Door, Session, str], Awaitable[str]]


def register(app: AsyncApp, door: Door) -> None:
    def button(action_id: str, act: Act, *, replace: bool = False) -> None:
        async def pressed(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
            await ack()
            session_id, user_id = SessionId(str(action.get("value", ""))), str(body["user"]["id"])
            work = _at_home(door, act, session_id, user_id) if "view" in body else None
            door.after.start(work or _said(door, act, session_id, user_id, respond, replace=replace), action_id)

        app.action(action_id)(pressed)

    async def other(ack: Ack, action: dict[str, Any]) -> None:
        log.info("a button that is not ours any more", action=action.get("action_id"))
        await ack()

    button("stop", _stop)
    button(CHOOSE, _stop, replace=True)
    button("sleep", _sleep)
    app.action(re.compile(".*"))(other)


async def _stop(door: Door, session: Session, user_id: str) -> str:
    """Anybody who sees the button may press it; who did is logged."""
    log.info("stopping a session", session=session.id, by=user_id)
    if await door.sessions.halt(session.id, user_id):
        return f"Stopped {title(session, door.me)}. Reply in its thread to go on."
    return f"{title(session, door.me)} is not working any more."


async def _sleep(door: Door, session: Session, user_id: str) -> str:
    log.info("putting a session to sleep", session=session.id, by=user_id)
    if await door.sessions.sleep(session.id):
        return f"{title(session, door.me)} sleeps now. Reply in its thread to wake it."
    return f"{title(session, door.me)} got a new message meanwhile and goes on with that."


async def _said(
    door: Door, act: Act, session_id: SessionId, user_id: str, respond: Respond, *, replace: bool = False
) -> None:
    """`replace`: what is said takes the place of the list, which was a question."""
    try:
        text = await act(door, await door.sessions.get(session_id), user_id)
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        text = sentence_for(error, "a button of a list")
    await respond(text=text, response_type="ephemeral", replace_original=replace)


async def _at_home(door: Door, act: Act, session_id: SessionId, user_id: str) -> None:
    """A home tab has no place for an answer: the new list is the answer."""

    async def unheard(**said: Any) -> None:
        log.info("pressed in the home tab", said=said.get("text"), by=user_id)

    await _said(door, act, session_id, user_id, unheard)
    await publish_home(door, user_id)
