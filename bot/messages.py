"""Mentions, replies and direct messages: each is stored as a turn, then acknowledged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slack_bolt.async_app import AsyncApp
from slack_bolt.request.async_request import AsyncBoltRequest
from slack_sdk.errors import SlackApiError

from bot.door import Door
from bot.errors import sentence_for
from bot.inbound import EmptyMention, read_message
from bot.listing import help_text
from config.errors import FlowError
from config.logging import bind, get_logger
from sessions.types import Prompt, ThreadId

log = get_logger(__name__)


def register(app: AsyncApp, door: Door) -> None:
    async def heard(event: dict[str, Any], request: AsyncBoltRequest) -> None:
        asked = read_message(event, door.me)
        if isinstance(asked, Prompt):
            await _submit(door, asked, first_try=_is_first_try(request))
        elif isinstance(asked, EmptyMention) and event.get("type") != "app_mention":
            # The same words come as app_mention too; one help is enough.
            door.after.start(_whisper(door, asked.thread, asked.user_id, help_text(door.me)), "help")

    app.event("app_mention")(heard)
    app.event("message")(heard)


def _is_first_try(request: AsyncBoltRequest) -> bool:
    return request.headers.get("x-slack-retry-num", ["0"])[0] == "0"


async def _submit(door: Door, prompt: Prompt, *, first_try: bool) -> None:
    """Returning acknowledges; raising leaves the event to Slack's redelivery."""
    with bind(thread=prompt.thread.thread_ts, channel=prompt.thread.channel):
        try:
            submitted = await door.sessions.submit(prompt)
        except FlowError as error:
            log.warning("message not stored; Slack will send it again", error=error.sentence())
            raise
        except Exception as error:
            told = sentence_for(error, "storing a message")
            if first_try:
                thread = prompt.thread
                here = thread if thread.thread_ts != prompt.ts else replace(thread, thread_ts=None)
                door.after.start(_whisper(door, here, prompt.user_id, told), "apology")
            raise
        if submitted is None:
            log.debug("message in a thread without a session", source=prompt.source_id)
        elif not submitted.fresh:
            log.debug("message known already", source=prompt.source_id)


async def _whisper(door: Door, thread: ThreadId, user_id: str, text: str) -> None:
    """Visible to one person. Slack shows nothing of it in a thread that has no reply yet."""
    channel, thread_ts = thread.channel, thread.thread_ts
    try:
        await door.client.chat_postEphemeral(channel=channel, thread_ts=thread_ts, user=user_id, text=text)
    except SlackApiError as error:
        log.warning("cannot answer privately", error=error.response.get("error"))
