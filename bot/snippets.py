"""The *Full output* button below a tool's line: all that was kept of what it printed, as a file in the thread.

The output comes from the transcript, so it can be had as long as that is kept. Slack shows a text file as a snippet.
"""

from __future__ import annotations

import re
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.toollines import FULL
from bot.toolnames import describe
from bot.upload import upload
from config.logging import get_logger
from sessions.types import Session, TurnId
from worklets.events import ToolFinished, ToolStarted
from worklets.wire import MOST_OUTPUT

log = get_logger(__name__)

_GONE = "I do not have this output any more: the thread's transcript has been archived or removed."
_CUT = "[… what came before was not kept]\n"
_TITLE = 80


def register(app: AsyncApp, door: Door) -> None:
    async def pressed(ack: Ack, action: dict[str, Any], respond: Respond) -> None:
        await ack()
        door.after.start(give(door, action, respond), "snippet")

    app.action(re.compile(rf"{FULL}(_\d+)?"))(pressed)


async def give(door: Door, action: dict[str, Any], respond: Respond) -> None:
    """A press that Slack tells of twice counts once (`action_ts` names it), and so does a double click."""
    value = str(action.get("value", ""))
    press, under_way = f"snippet {value} {action.get('action_ts') or door.ts()}", f"snippet {value}"
    if not door.acted.first(press) or not door.acted.first(under_way):
        return
    try:
        turn_id, _, tool_id = value.partition(" ")
        session, title, output = await _find(door, TurnId(turn_id), tool_id)
        told = await _upload(door, session, title, output) if output else _GONE
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        told = sentence_for(error, "a tool's output")
    finally:
        door.acted.forget(under_way)
    if told:
        await respond(text=told, response_type="ephemeral", replace_original=False)


async def _upload(door: Door, session: Session, title: str, output: str) -> str:
    thread = session.thread
    content = (snippet(output)).encode("utf-8", "replace")
    await upload(door.client, thread.channel, thread.thread_ts, "output.txt", content, title)
    return ""


async def _find(door: Door, turn_id: TurnId, tool_id: str) -> tuple[Session, str, str]:
    """The session, what the tool was about, and its output; empty for what is not kept. Raises SessionNotFound."""
    session = await door.sessions.get((await door.sessions.turn(turn_id)).session_id)
    title, output, cursor = "Output", "", 0
    while entries := await door.sessions.transcript.read(session.id, turn_id=turn_id, after=cursor):
        for event in (entry.event for entry in entries):
            if isinstance(event, ToolStarted) and event.tool_id == tool_id:
                title = " ".join(" ".join(describe(event.name, event.input)).split())
            elif isinstance(event, ToolFinished) and event.tool_id == tool_id:
                output = event.output
        cursor = entries[-1].cursor
    return session, title if len(title) <= _TITLE else title[: _TITLE - 1] + "…", output


def snippet(output: str) -> str:
    """The output as a text file. Pure."""
    text = output if output.endswith("\n") else output + "\n"
    return _CUT + text.partition("\n")[2] if len(output) >= MOST_OUTPUT and "\n" in output.rstrip("\n") else text
