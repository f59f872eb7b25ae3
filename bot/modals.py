"""Modals opened in time: a trigger is good for three seconds (docs.slack.dev, trigger_id)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from slack_sdk.web.async_client import AsyncWebClient

from bot.errors import sentence_for
from bot.parts import Block, context, section

_PATIENCE = 0.8  # seconds of the trigger's three that the making of the modal may take


async def open_modal(
    client: AsyncWebClient,
    trigger_id: str,
    making: Coroutine[Any, Any, Block | str],
    tell: Callable[[str], Awaitable[object]],
) -> None:
    """Opens what `making` returns; should that take long, an empty modal first, which is filled in afterwards.

    A text (mrkdwn) instead of a view says why there is none: `tell` is awaited with it, or the modal shows it.
    """
    try:
        async with asyncio.TaskGroup() as group:
            made = group.create_task(making)
            await asyncio.wait([made], timeout=_PATIENCE)
            if not made.done():
                opened = await client.views_open(trigger_id=trigger_id, view=_LOADING)
                view = await made
                view = _notice(view) if isinstance(view, str) else view
                await client.views_update(view_id=opened["view"]["id"], view=view)
            elif isinstance(view := made.result(), str):
                if view:
                    await tell(view)
            else:
                await client.views_open(trigger_id=trigger_id, view=view)
    except* Exception as errors:  # noqa: BLE001 - worded for the person who pressed
        await tell(sentence_for(errors.exceptions[0], "opening a modal"))


def _modal(*blocks: Block) -> Block:
    return {
        "type": "modal",
        "title": {"type": "plain_text", "text": "Flow"},
        "close": {"type": "plain_text", "text": "Close"},
        "blocks": list(blocks),
    }


def _notice(text: str) -> Block:
    return _modal(section(text or "That is settled already."))


_LOADING = _modal(context("⏳ One moment…"))
