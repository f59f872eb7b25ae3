"""What the outbox reports of an answer: its thread is opened, all of it is shown, its channel takes none of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bot.answer import Answer
from bot.parts import ROOT
from config.logging import get_logger
from sessions.errors import StoreUnavailable
from sessions.types import SessionId

log = get_logger(__name__)

UNHELD = 0.1  # seconds until it is asked again whether a session may be shown


class Reports:
    """Each is repeated until the database takes it. The callbacks are the outbox's own."""

    def __init__(
        self,
        *,
        opened: Callable[[Answer, str], Awaitable[None]],
        delivered: Callable[[Answer], Awaitable[None]],
        refused: Callable[[Answer, str], Awaitable[None]],
        may_show: Callable[[SessionId], bool],
    ) -> None:
        self._opened = opened
        self._delivered = delivered
        self._refused = refused
        self._may_show = may_show

    async def opened(self, answer: Answer) -> None:
        """The root of its thread may be known now."""
        root = answer.messages.get(ROOT)
        if answer.thread_ts is None and root is not None and root.ts is not None and not answer.released:
            ts = root.ts
            await self._insist(lambda: self._opened(answer, ts), "a new thread")
            answer.thread_ts = ts

    async def delivered(self, answer: Answer) -> bool:
        """All is shown. False: another process shows it by now, and reports it."""
        while not self._may_show(answer.session_id) and not answer.released:  # noqa: ASYNC110 - time decides it
            await asyncio.sleep(UNHELD)

        async def report() -> None:
            if not answer.released:  # it may be another's since the database refused, and be shown anew
                await self._delivered(answer)

        await self._insist(report, "a turn's delivery")
        return not answer.released

    async def refused(self, answer: Answer, sentence: str) -> None:
        await self._insist(lambda: self._refused(answer, sentence), "a refusal")

    async def _insist(self, call: Callable[[], Awaitable[None]], what: str) -> None:
        """Until the database takes it. After a restart whatever was not reported is shown, and reported, again."""
        delay = 0.5
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                log.debug(f"cannot store {what}; trying again", seconds=delay, error=str(error))
            except Exception:
                log.exception(f"cannot report {what}")
                return None
            await asyncio.sleep(delay)
            delay = min(30.0, delay * 2)
