"""The reaper: puts idle sessions to sleep, and sets right what rows, worklets and tasks disagree about.

Its first pass at boot is the recovery. It keeps no state, so each pass may be cut off anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from config.errors import FlowError
from config.logging import get_logger
from sessions.agents import AgentHost
from sessions.manager import Sessions
from sessions.store import Clock, Store, utcnow
from sessions.types import Session, SessionState
from worklets.errors import WorkletError
from worklets.runtime import Worklet

if TYPE_CHECKING:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

log = get_logger(__name__)

_RECOVERY_SECONDS = 15.0  # what the doors wait for a silent engine


class Reaper:
    def __init__(
        self,
        sessions: Sessions,
        store: Store,
        host: AgentHost,
        *,
        session_timeout: timedelta,
        clock: Clock = utcnow,
    ) -> None:
        self.last_sweep: datetime | None = None
        self._sessions = sessions
        self._store = store
        self._host = host
        self._timeout = session_timeout
        self._clock = clock
        self._sweeping = asyncio.Lock()

    async def recover(self) -> None:
        """Takes over what ran before, at boot: quick, so that the doors can open. A `sweep` should follow soon."""
        async with self._sweeping:
            try:
                async with asyncio.timeout(_RECOVERY_SECONDS):
                    await self._take_over()
                    await self._ring()
            except (FlowError, TimeoutError) as error:
                log.warning("not all could be taken over yet; the next pass goes on", reason=str(error))

    async def _take_over(self) -> None:
        running = await self._host.running()
        for session in await self._store.live():
            await self._correct(session, running)

    async def sweep(self) -> None:
        """One pass. A part that the database or the runtime does not serve is left to the next pass."""
        async with self._sweeping:
            for part in (self._reconcile, self._ring, self._put_to_sleep):
                try:
                    await part()
                except FlowError as error:
                    log.warning("the reaper could not do its part", part=part.__name__, error=error.sentence())
            self.last_sweep = self._clock()

    async def _reconcile(self) -> None:
        # Worklets first: one that starts later is not in the list, and its row says "starting" before it runs.
        running = await self._host.running()
        rows = await self._store.live()
        await self._remove_strays(running, {row.worklet for row in rows})
        for session in rows:
            await self._correct(session, running)

    async def _remove_strays(self, running: Mapping[str, Worklet], claimed: Collection[str]) -> None:
        for name in running:
            if name not in claimed:
                log.warning("removing a worklet that no session claims", worklet=name)
                try:
                    await self._host.close(name)
                except WorkletError as error:
                    log.warning("it stays", worklet=name, error=error.sentence())

    async def _correct(self, session: Session, running: Mapping[str, Worklet]) -> None:
        """The row, by what really runs. A session with an agent notices by itself, so only dead ones are looked at."""
        has_worklet = session.worklet in running
        if self._sessions.is_live(session.id):
            if not has_worklet and session.state is SessionState.IDLE:
                await self._sessions.sleep(session.id)
        elif has_worklet:
            self._sessions.adopt(session)
        elif await self._store.put_to_sleep(session.id):
            log.info("its worklet is gone: the session sleeps", session=session.id)

    async def _ring(self) -> None:
        for session_id in await self._store.with_work(self._sessions.owner):
            self._sessions.ring(session_id)

    async def _put_to_sleep(self) -> None:
        for session in await self._store.idle_since(self._clock() - self._timeout):
            if await self._sessions.sleep(session.id):
                log.info("idle for too long: the session sleeps", session=session.id)


def schedule(reaper: Reaper, interval: timedelta = timedelta(minutes=1)) -> AsyncIOScheduler:
    """A started scheduler that rings the reaper on the running loop; the caller shuts it down.

    Late or doubled rings become one, and a pass that takes long is not joined by another.
    """
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    scheduler = AsyncIOScheduler(timezone="UTC")
    scheduler.add_job(
        reaper.sweep,
        "interval",
        seconds=interval.total_seconds(),
        next_run_time=datetime.now(UTC),
        id="reaper",
        coalesce=True,
        max_instances=1,
        misfire_grace_time=None,
    )
    scheduler.start()
    return scheduler
