"""Reading conversations, at a pace that leaves Slack's allowance to whoever shows answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from slack_sdk.web.async_client import AsyncWebClient

from bot.refusals import Meaning, refusal
from bot.schedule import Allowance, Clock
from config.logging import get_logger

log = get_logger(__name__)

_PAGE = 900  # Slack gives an internal app up to 999
_PAGES = 5
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Read:
    """Messages in the order in which they were written. `complete` False: Slack has more than were read."""

    messages: list[dict[str, Any]]
    complete: bool


class Reader:
    """`conversations.replies` and `conversations.history` (docs.slack.dev: 50 a minute each), one call at a time."""

    def __init__(
        self, client: AsyncWebClient, *, per_minute: int = 20, burst: int = 5, clock: Clock = time.monotonic
    ) -> None:
        self._client = client
        self._clock = clock
        self._allowance = Allowance(per_minute, burst)
        self._turn = asyncio.Lock()

    async def replies(self, channel: str, ts: str, *, oldest: str = "0", latest: str | None = None) -> Read:
        """The root of the message's thread, and the messages after `oldest` and before `latest`.

        Raises what the client raises, after some attempts at what may pass.
        """

        async def page(cursor: str | None) -> Any:
            return await self._client.conversations_replies(
                channel=channel, ts=ts, oldest=oldest, latest=latest, limit=_PAGE, cursor=cursor
            )

        return await self._pages(page)

    async def history(self, channel: str, *, oldest: str) -> Read:
        """The messages of a conversation after `oldest`, without replies. Raises like `replies`."""

        async def page(cursor: str | None) -> Any:
            return await self._client.conversations_history(channel=channel, oldest=oldest, limit=_PAGE, cursor=cursor)

        return await self._pages(page)

    async def _pages(self, page: Callable[[str | None], Awaitable[Any]]) -> Read:
        found: dict[str, dict[str, Any]] = {}  # each page of a thread begins with its root
        cursor: str | None = None
        for _ in range(_PAGES):
            answer = await self._call(partial(page, cursor))
            found |= {str(message["ts"]): message for message in answer.get("messages") or []}
            cursor = (answer.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                break
        return Read(sorted(found.values(), key=lambda message: str(message["ts"])), complete=not cursor)

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        async with self._turn:
            for attempt in range(1, _TRIES + 1):
                await asyncio.sleep(max(0.0, self._allowance.ready_at() - self._clock()))
                self._allowance.spend(self._clock())
                try:
                    return await call()
                except Exception as error:
                    said = refusal(error)
                    if said.meaning not in (Meaning.LIMITED, Meaning.UNKNOWN) or attempt == _TRIES:
                        raise
                    log.info("cannot read a conversation; trying again", error=said.error, attempt=attempt)
                    await asyncio.sleep(said.seconds or 0.5 * 2**attempt)
        raise AssertionError("unreachable")
