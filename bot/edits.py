"""Messages that people edit or delete: what waits follows them."""

from __future__ import annotations

from typing import Any

from bot.door import Door
from bot.inbound import Amendment, read_edit
from bot.threadwords import as_asked
from config.logging import bind, get_logger

log = get_logger(__name__)


async def take_edit(door: Door, event: dict[str, Any], *, admitted: bool = False) -> None:
    """A `message_changed` or `message_deleted` event. Raises StoreUnavailable: then Slack sends it again."""
    amendment = read_edit(event, door.me)
    if amendment is not None and (admitted or await door.guard.admits_edit(event, amendment.thread)):
        await follow(door, amendment)


async def follow(door: Door, amendment: Amendment) -> None:
    thread = amendment.thread
    # Whoever edits in a thread that is none of ours, or anywhere in a channel, changes nothing here.
    if not amendment.addressed and await door.sessions.find(thread) is None:
        return
    text = as_asked(amendment.text, thread.channel) if amendment.text and amendment.addressed else amendment.text
    if amendment.aside is not None:
        text = await door.people.readable(amendment.aside)
    with bind(thread=thread.thread_ts, channel=thread.channel):
        turn = await door.sessions.amend(
            thread.team, thread.channel, amendment.source_id, text, amendment.edited_ts, amendment.files
        )
        if turn is not None:
            log.info("a waiting turn follows its message", turn=turn.id, deleted=text is None)
