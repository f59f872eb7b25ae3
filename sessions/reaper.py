"""The reaper: puts idle sessions to sleep, and sets right what rows, worklets and tasks disagree about.

Each process looks after the sessions that it runs, and takes over what nobody runs. What concerns the others too is
done by the leader, and each firing of it once (leader.py). These wait for no other, nor for relays that do not answer:
taking over is what people notice. The first pass at boot is the recovery. Each pass may be cut off anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from config.errors import FlowError
from config.logging import get_logger
from sessions.agents import AgentHost
from sessions.errors import StoreUnavailable
from sessions.housekeeping import Housekeeping
from sessions.leader import Leader
from sessions.manager import Sessions
from sessions.retention import Retention
from sessions.silence import Silences
from sessions.store import Clock, Store, utcnow
from sessions.types import Session, SessionId, SessionState
from worklets.errors import WorkletError

if TYPE_CHECKING:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

log = get_logger(__name__)

_RECOVERY_SECONDS = 15.0  # what the doors wait for a silent engine
_MOST_IDLE = 1_000  # rows looked at in one pass


class Reaper:
    def __init__(
        self,
        sessions: Sessions,
        store: Store,
        host: AgentHost,
        *,
        session_timeout: timedelta,
        rest_after: timedelta | None = None,
        interval: timedelta = timedelta(seconds=30),
        silence: timedelta = timedelta(seconds=30),
        retention: Retention | None = None,
        clock: Clock = utcnow,
    ) -> None:
        """`rest_after`: idle for so long, Claude's process ends.

        `interval`: how often it is rung. `silence`: a relay that says nothing for less is only slow. `retention` None:
        everything is kept.
        """
        self.last_sweep: datetime | None = None
        #: Awaited when an idle session's worklet was ended because its relay did not answer any more.
        self.tell_silence: Callable[[Session], Awaitable[None]] = _tell_nobody
        self._silences = Silences(host, silence.total_seconds())
        self._sessions = sessions
        self._store = store
        self._host = host
        self._timeout = session_timeout
        self._rest_after = rest_after
        self._interval = interval.total_seconds()
        self._leader = Leader(store.db, sessions.owner, seconds=2.5 * self._interval)
        self._housekeeping = retention.housekeeping if retention else Housekeeping(store.db, sessions.ring)
        self._retention = retention
        self._clock = clock
        self._taking_over, self._looking_after, self._leading = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._listening = asyncio.Lock()
        self._telling: set[asyncio.Task[None]] = set()
        self._passes: dict[str, asyncio.Task[None]] = {}  # by part, the last one
        self._correcting: SessionId | None = None  # nobody takes it over meanwhile
        self._troubles: dict[str, str] = {}  # by part: why it could not be done last time

    async def recover(self) -> None:
        """Takes over what ran before, at boot: quick, so that the doors can open. A `sweep` should follow soon."""
        async with self._taking_over:
            try:
                async with asyncio.timeout(_RECOVERY_SECONDS):
                    await self._take_over()
                    await self._ring()
            except (FlowError, TimeoutError) as error:
                log.warning("not all could be taken over yet; the next pass goes on", reason=str(error))

    async def sweep(self) -> None:
        """One pass. A part that the database or the runtime does not serve is left to the next pass."""
        await self.take_over()
        await self._tend()
        await self._hearken()
        await self._rule()

    async def take_over(self) -> None:
        """The part of a pass that others wait for: what nobody runs any more goes on here."""
        async with self._taking_over:
            await self._each(self._housekeeping.settle, self._take_over, self._ring)

    async def _tend(self) -> None:
        async with self._looking_after:
            await self._each(self._look_after, self._mind_asks, self._put_to_sleep, self._put_to_rest)
            self.last_sweep = self._clock()

    async def _hearken(self) -> None:
        async with self._listening:
            await self._each(self._listen)

    async def _rule(self) -> None:
        async with self._leading:
            await self._each(self._lead)

    async def ring(self) -> None:
        """A pass begins now; returns at once. Its parts wait for no other: removing volumes may take minutes.

        A part that is still under way from before is not begun again.
        """
        self._begin(self.take_over)
        self._begin(self._tend)
        self._begin(self._hearken)
        self._begin(self._rule)

    async def ring_take_over(self) -> None:
        self._begin(self.take_over)

    def _begin(self, part: Callable[[], Coroutine[None, None, None]]) -> None:
        name = f"reaper: {part.__name__}"
        if name not in self._passes or self._passes[name].done():
            self._passes[name] = asyncio.create_task(part(), name=name)

    async def close(self) -> None:
        """Cuts off what is under way. Another process may lead at once."""
        under_way = {*self._passes.values(), *self._telling}
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)
        try:
            await self._housekeeping.settle()
            await self._leader.resign()
        except StoreUnavailable as error:
            log.debug("the lead and what is kept run out by themselves", error=error.sentence())

    async def _each(self, *parts: Callable[[], Coroutine[None, None, None]]) -> None:
        for part in parts:
            name, trouble = part.__qualname__, ""
            try:
                await part()
            except FlowError as error:
                trouble = error.sentence()
                # The database itself says so once, and other trouble is no news when it lasts.
                known = isinstance(error, StoreUnavailable) or self._troubles.get(name) == trouble
                (log.debug if known else log.warning)("the reaper could not do its part", part=name, error=trouble)
            except Exception as error:
                trouble = repr(error)
                if self._troubles.get(name) != trouble:
                    log.exception("a part of the reaper failed", part=name)
            self._troubles[name] = trouble

    # -- what each process does ---------------------------------------------------------

    async def _look_after(self) -> None:
        """Sessions that run here. One with an agent notices by itself, so only dead worklets are looked for."""
        # Worklets first: one that starts later is not in the list, and its row says "starting" before it runs.
        running = await self._host.running()
        for session in await self._store.live():
            dead = session.state is SessionState.IDLE and session.worklet not in running
            if dead and self._sessions.is_live(session.id):
                await self._sessions.sleep(session.id)

    async def _listen(self) -> None:
        """To relays of the sessions here, at work or not. One that hangs watches over nothing: its worklet ends."""
        running, live = await self._host.running(), await self._store.live()
        asked = {one.worklet: one for one in live if one.worklet in running and self._has_relay(one)}
        for silent in await self._silences.lasting({name: running[name].id for name in asked}):
            session = asked[silent.worklet]
            log.warning("a relay does not answer: its worklet is ended", worklet=silent.worklet, session=session.id)
            if await self._sessions.sleep(session.id):
                if not silent.is_old:
                    self._tell(session)
            elif self._sessions.has_agent(session.id):
                now = (await self._host.running()).get(silent.worklet)
                if now is not None and now.id == silent.container_id:
                    await self._close(silent.worklet, grace=0)  # its turn notices, and goes on as after any loss

    def _has_relay(self, session: Session) -> bool:
        """One that has shown by now that it is there; a worklet that starts has none yet."""
        idle = session.state is SessionState.IDLE and self._sessions.is_live(session.id)
        return idle or self._sessions.has_agent(session.id)

    def _tell(self, session: Session) -> None:
        """Nobody else waits for Slack."""
        task = asyncio.create_task(_to_its_end(self.tell_silence(session)), name=f"tell of silence {session.id}")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def ended(self, worklet: str) -> None:
        """The worklet is said to have ended: its session, if it runs here and is idle, sleeps from now on.

        A session at work notices by itself, and goes on as after any loss. Raises StoreUnavailable, WorkletError.
        """
        session = await self.session_of(worklet)
        if session is None or session.state is not SessionState.IDLE or not self._sessions.is_live(session.id):
            return
        if worklet not in await self._host.running():  # else it was an older one of that name
            await self._sessions.sleep(session.id)

    async def session_of(self, worklet: str) -> Session | None:
        """Whose worklet that is. Raises StoreUnavailable."""
        return (await self._housekeeping.named([worklet])).get(worklet)

    async def _take_over(self) -> None:
        """Worklets whose process is gone: they take places, and somebody must hear what they say."""
        running = await self._host.running()
        for session in await self._unheld():
            if session.worklet in running and session.id != self._correcting:
                self._sessions.adopt(session)

    async def _ring(self) -> None:
        for session_id in await self._store.with_work(self._sessions.owner):
            self._sessions.ring(session_id)

    async def _mind_asks(self) -> None:
        await self._sessions.expire_asks()
        await self._sessions.park_waiting(self._clock() - self._timeout)

    async def _put_to_sleep(self) -> None:
        for session in await self._store.idle_since(self._clock() - self._timeout, _MOST_IDLE):
            if self._sessions.is_live(session.id) and await self._sessions.sleep(session.id):
                log.info("idle for too long: the session sleeps", session=session.id)

    async def _put_to_rest(self) -> None:
        """The first step of sleep: most of what an idle session costs is Claude's process."""
        if self._rest_after is not None and self._rest_after < self._timeout:
            for session in await self._store.idle_since(self._clock() - self._rest_after, _MOST_IDLE):
                self._sessions.rest(session.id)

    # -- what the leader does ---------------------------------------------------------

    async def _lead(self) -> None:
        if await self._leader.turn("sweep", self._interval):
            await self._each(
                self._correct, self._remove_strays, self._clean, self._sessions.data.sweep, self._host.sweep
            )
            if self._retention is not None:
                await self._each(self._retention.sweep)

    async def _correct(self) -> None:
        """Rows that claim a worklet which is gone, or which nobody took over until it was idle for too long."""
        running = await self._host.running()
        idle_since = self._clock() - self._timeout
        for session in await self._unheld():
            if session.worklet in running and session.last_activity_at > idle_since:
                continue
            if not self._sessions.is_live(session.id):
                await self._put_right(session)

    async def _put_right(self, session: Session) -> None:
        self._correcting = session.id
        try:
            async with self._housekeeping.keeping(session) as kept:
                if kept is not None and await self._close(session.worklet):
                    await self._sessions.data.end(session.id)
                    kept.sleeps()
                    log.info("nobody runs its worklet: the session sleeps", session=session.id)
        finally:
            self._correcting = None

    async def _remove_strays(self) -> None:
        """Worklets of no session, stopped ones too. Of one that has a row, another process may be about to make use."""
        standing = await self._host.standing()
        # Before the sessions: one that is taken meanwhile is in the pool still, or a session's already.
        pooled = await self._housekeeping.pooled()
        rows = await self._housekeeping.named(standing)
        for name in standing:
            session = rows.get(name)
            if session is None and name in pooled:
                continue
            if session is None:
                log.warning("removing a worklet that no session claims", worklet=name)
                await self._close(name)
            elif session.state in (SessionState.NEW, SessionState.ASLEEP) and not self._sessions.is_live(session.id):
                async with self._housekeeping.keeping(session) as kept:
                    if kept is not None:
                        log.warning("removing the worklet of a session that sleeps", worklet=name, session=session.id)
                        await self._close(name)
                        await self._sessions.data.end(session.id)

    async def _clean(self) -> None:
        await self._housekeeping.clean(self._clock())

    async def _unheld(self) -> list[Session]:
        return [session for session in await self._housekeeping.unheld() if not self._sessions.is_live(session.id)]

    async def _close(self, name: str, grace: float = 5.0) -> bool:
        """Also what is left of a container that has ended. False: the runtime cannot now."""
        try:
            await self._host.close(name, grace)
        except WorkletError as error:
            log.warning("a worklet stays", worklet=name, error=error.sentence())
            return False
        return True


async def _to_its_end(telling: Awaitable[None]) -> None:
    try:
        await telling
    except Exception:
        log.exception("a thread could not be told that its worklet was ended")


async def _tell_nobody(_session: Session) -> None:
    """There is no door."""


def schedule(
    reaper: Reaper, interval: timedelta = timedelta(seconds=30), lease: timedelta | None = None
) -> AsyncIOScheduler:
    """A started scheduler that rings the reaper on the running loop; the caller shuts it down, then closes the reaper.

    `lease`: how long leases last, where other processes share the database; so soon they are taken over. Late or
    doubled rings become one.
    """
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    scheduler = AsyncIOScheduler(timezone="UTC")
    once: dict[str, Any] = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    seconds = interval.total_seconds()
    scheduler.add_job(reaper.ring, "interval", seconds=seconds, next_run_time=datetime.now(UTC), id="reaper", **once)
    if lease is not None:
        seconds = lease.total_seconds() / 3
        scheduler.add_job(reaper.ring_take_over, "interval", seconds=seconds, id="take over", **once)
    scheduler.start()
    return scheduler
