"""The session that somebody means on the command line."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bot.core import open_store
from sessions.errors import SessionNotFound
from sessions.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from config.settings import Settings
    from sessions.types import Session

_LINK = re.compile(r"https?://[^/\s]+/archives/([A-Z0-9]+)/p(\d+)(\d{6})(?:\?(?:.*&)?thread_ts=(\d+\.\d+))?")


@asynccontextmanager
async def looking(settings: Settings) -> AsyncIterator[Store]:
    """The sessions' store, beside or without a running Flow."""
    database = await open_store(settings, exclusive=False)
    try:
        yield Store(database)
    finally:
        await asyncio.shield(database.close())


async def find_session(store: Store, given: str) -> Session:
    """By its id, the first letters of that, or the link of its thread or of a message in it. Raises SessionNotFound."""
    if not given:  # each id begins with nothing
        raise SessionNotFound(
            "No session is named.", suggestion="Write its id, its first letters or its thread's link."
        )
    found = await store.list(limit=100_000)
    if (link := _LINK.match(given)) is not None:
        channel, seconds, micros, thread_ts = link.groups()
        at = (channel, thread_ts or f"{seconds}.{micros}")
        matches = [s for s in found if (s.thread.channel, s.thread.thread_ts) == at]
        if not matches:
            raise SessionNotFound(
                "No session has that thread.", suggestion="Copy the link of the thread's first message."
            )
        return matches[0]
    matches = [s for s in found if s.id.startswith(given.lower())]
    if len(matches) > 1:
        raise SessionNotFound(f"{len(matches)} sessions begin with {given}.", suggestion="Write more of the id.")
    if not matches:
        raise SessionNotFound(f"No session begins with {given}.")
    return matches[0]
