"""What the runtime tells of worklets, passed on to who should know: the log, the figures, the reaper.

News come in faster than they can be acted on where a worklet means harm: of each kind, only the newest of a worklet
waits.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

from bot.tasks import Tasks
from config.errors import FlowError
from config.logging import get_logger
from worklets.news import News

if TYPE_CHECKING:
    from types import TracebackType

    from slack_sdk.web.async_client import AsyncWebClient

    from sessions.manager import Sessions
    from sessions.reaper import Reaper
    from sessions.types import Session
    from worklets.monitor import Monitor
    from worklets.runtime import Runtime

log = get_logger(__name__)

_QUIET = 60.0  # seconds
_TELLINGS = 10  # while Slack says that it is asked too often
_SILENT = (
    "I ended my worklet here, because the program that watches over it did not answer any more. Nothing is lost but "
    "what still ran in it: write again, and I go on with all files."
)


class Watching:
    """An async context manager; it listens as long as it is entered."""

    def __init__(self, runtime: Runtime, monitor: Monitor, sessions: Sessions, reaper: Reaper) -> None:
        self._runtime, self._monitor, self._sessions, self._reaper = runtime, monitor, sessions, reaper
        self._waiting: dict[tuple[str, str], News] = {}
        self._told: dict[str, float] = {}  # when the log was told that memory ran out, by worklet
        self._bell = asyncio.Event()
        self._tasks = Tasks("watching")

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.start(self._runtime.watch(self.hear), "news of worklets")
        self._tasks.start(self._act(), "what they mean")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, error, trace)

    def hear(self, news: News) -> None:
        """Never waits."""
        if news.kind == "oom":
            self._monitor.ends["oom"] += 1
        self._waiting[news.kind, news.worklet] = news
        self._bell.set()

    async def _act(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            while self._waiting:
                news = self._waiting.pop(next(iter(self._waiting)))
                try:
                    await self._take(news)
                except FlowError as error:  # the reaper's next pass finds out too
                    log.debug("nothing could be done about a worklet's end", error=error.sentence())

    async def _take(self, news: News) -> None:
        match news.kind:
            case "missed":
                await self._reaper.ring()
            case "exit":
                await self._ended(news)
            case "oom":
                await self._ran_out(news)

    async def _ended(self, news: News) -> None:
        """Of a session that another replica runs, or that nobody does, that replica or the reaper knows why."""
        if self._monitor.was_expected(news.worklet):
            return
        session = await self._reaper.session_of(news.worklet)
        if session is None or not self._sessions.is_live(session.id):
            return
        self._monitor.ends["exit"] += 1
        log.warning("a worklet ended by itself", worklet=news.worklet, code=news.code, session=session.id)
        await self._reaper.ended(news.worklet)

    async def _ran_out(self, news: News) -> None:
        """The thread is told by its relay (worklets/relay/scarcity.py)."""
        if not self._is_news(news.worklet):
            return
        session = await self._reaper.session_of(news.worklet)
        log.warning("memory ran out in a worklet", worklet=news.worklet, session=session.id if session else None)

    def _is_news(self, worklet: str) -> bool:
        """A program that eats memory may do so again and again: the log has it once a minute."""
        now = time.monotonic()
        self._told = {name: at for name, at in self._told.items() if now - at < _QUIET}
        return self._told.setdefault(worklet, now) == now


async def tell_silence(client: AsyncWebClient, session: Session) -> None:
    """In the thread, once; where Slack does not take it, the next turn just finds a new worklet."""
    from bot.parts import context, fallback
    from bot.refusals import Meaning, refusal

    if session.thread.thread_ts is None:
        return
    blocks = [context(_SILENT)]
    for attempt in range(_TELLINGS):
        try:
            await client.chat_postMessage(
                channel=session.thread.channel, thread_ts=session.thread.thread_ts, blocks=blocks, text=fallback(blocks)
            )
        except Exception as error:  # noqa: BLE001 - the worklet is ended all the same
            why = refusal(error)
            if why.meaning is not Meaning.LIMITED or attempt == _TELLINGS - 1:  # else it may stand there already
                log.warning("a thread was not told that its worklet was ended", session=session.id, error=why.error)
                return
            await asyncio.sleep(why.seconds)
        else:
            return
