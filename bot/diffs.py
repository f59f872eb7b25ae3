"""The *Diff* button below the line of a tool that changed a file: a modal with what it changed.

The diff comes from the transcript, so it can be looked at as long as that is kept.
"""

from __future__ import annotations

import re
from typing import Any

from slack_bolt.async_app import AsyncApp
from slack_sdk.errors import SlackApiError

from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.markdown import clean, clip
from bot.parts import Block, context, section
from bot.toollines import DIFF
from config.logging import get_logger
from sessions.types import TurnId
from worklets.events import ToolFinished

log = get_logger(__name__)

_GONE = "I do not have this diff any more: the thread's transcript has been archived or removed."
_CHUNK = 2_800  # characters of one element
_TITLE = 24  # docs.slack.dev, modal


def register(app: AsyncApp, door: Door) -> None:
    async def pressed(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
        await ack()
        trigger_id, value = str(body.get("trigger_id", "")), str(action.get("value", ""))
        door.after.start(_open(door, trigger_id, value, respond), "diff")

    app.action(re.compile(rf"{DIFF}(_\d+)?"))(pressed)


async def _open(door: Door, trigger_id: str, value: str, respond: Respond) -> None:
    """Slack takes a trigger for three seconds."""
    try:
        turn_id, _, tool_id = value.partition(" ")
        found = await _find(door, TurnId(turn_id), tool_id)
        if found is None:
            return await _tell(respond, _GONE)
        await _show(door, trigger_id, found.details)
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        await _tell(respond, sentence_for(error, "a diff"))


async def _tell(respond: Respond, text: str) -> None:
    await respond(text=text, response_type="ephemeral", replace_original=False)


async def _find(door: Door, turn_id: TurnId, tool_id: str) -> ToolFinished | None:
    """Raises SessionNotFound for a turn that is not known."""
    session_id, cursor = (await door.sessions.turn(turn_id)).session_id, 0
    while entries := await door.sessions.transcript.read(session_id, turn_id=turn_id, after=cursor):
        for entry in entries:
            event = entry.event
            if isinstance(event, ToolFinished) and event.tool_id == tool_id and event.details.get("patch"):
                return event
        cursor = entries[-1].cursor
    return None


async def _show(door: Door, trigger_id: str, details: dict[str, Any]) -> None:
    try:
        await door.client.views_open(trigger_id=trigger_id, view=diff_modal(details, coloured=True))
    except SlackApiError as error:
        if error.response.get("error") != "invalid_arguments":
            raise
        log.info("this workspace colours no diffs", error=error.response.get("error"))
        await door.client.views_open(trigger_id=trigger_id, view=diff_modal(details, coloured=False))


def diff_modal(details: dict[str, Any], *, coloured: bool) -> Block:
    """`details` of a ToolFinished with a patch. `coloured`: Slack is told that the code is a diff."""
    path, patch = str(details.get("path") or "a file"), clean(str(details["patch"]))
    name = clean(path).rpartition("/")[2] or "a file"
    blocks = [section(f"`{clip(clean(path).replace('`', chr(39)), 300)}` {_counts(details)}")]
    for chunk in _chunks(patch.split("\n")):
        element: Block = {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": chunk}]}
        blocks.append({"type": "rich_text", "elements": [element | {"language": "diff"} if coloured else element]})
    if cut := details.get("patch_cut"):
        blocks.append(context(f"… and {cut} more lines, which were not kept."))
    title = name if len(name) <= _TITLE else "…" + name[1 - _TITLE :]
    return {
        "type": "modal",
        "title": {"type": "plain_text", "text": title, "emoji": False},
        "close": {"type": "plain_text", "text": "Close"},
        "blocks": blocks,
    }


def _counts(details: dict[str, Any]) -> str:
    added, removed = (details.get(key) for key in ("added", "removed"))
    return f"+{added if isinstance(added, int) else 0} −{removed if isinstance(removed, int) else 0}"


def _chunks(lines: list[str]) -> list[str]:
    """The lines in as few elements as their size allows; no line is cut."""
    chunks: list[str] = []
    for line in lines:
        if chunks and len(chunks[-1]) + len(line) < _CHUNK:
            chunks[-1] += "\n" + line
        else:
            chunks.append(line)
    return [chunk or " " for chunk in chunks]
