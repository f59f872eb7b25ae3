"""Warm worklets: containers that run, with their relay and Claude's process, before anybody has asked for them.

Each has a volume and a run directory of its own, under a name of its own, from which its tokens are made; a session
that takes one goes on under that name (`WorkletHost.open`). Which stand ready, and who took which, is in a table
(`Members`). This file keeps as many there as are likely to be wanted.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import structlog

from config.errors import FlowError
from config.units import format_size
from worklets.errors import WorkletError
from worklets.pooldemand import WINDOW, Demand

log = structlog.get_logger(__name__)

_IN_FLIGHT = 2  # starts at the same time, so that the engine has room for those that people wait for
_STARTING = timedelta(minutes=5)  # longer than any start takes: whoever began it is gone
_PAUSE = 10.0  # seconds between two looks
_SETTLE = 2.0  # seconds after a claim: the first prompt's way needs the processor that a start would take
_LONGEST_PAUSE = 300.0  # between two tries, while worklets cannot be started
SPARE_MEMORY = 1 << 30  # bytes that have to be free on this machine for another one
AMPLE_MEMORY = 2 * SPARE_MEMORY  # for one with Claude's process, which is most of what it costs


@dataclass(frozen=True, slots=True)
class Member:
    """A worklet of the pool. `pattern`: what it was started like. `leaving`: it is being removed."""

    name: str
    pattern: str
    created_at: datetime
    ready: bool
    leaving: bool


class Members(Protocol):
    """The pool's rows: see `sessions.poolstore.PoolStore`. Raise FlowError when the database does not serve."""

    pattern: str | None
    least_memory: int
    on_start: Callable[[bool], None]

    async def members(self) -> list[Member]: ...

    async def add(self, name: str, claude_session_id: str, pattern: str) -> None: ...

    async def ready(self, name: str) -> bool: ...

    async def take_out(self, name: str) -> bool: ...

    async def forget(self, name: str) -> None: ...

    async def taken(self, within: timedelta) -> Sequence[datetime]: ...


class Maker(Protocol):
    """What the pool needs of the worklets' host."""

    @property
    def least_memory(self) -> int:
        """Bytes: to no lower limit can one be set that was started with the settings' own."""

    async def pattern(self) -> str:
        """What a worklet that is started now is like: of those with the same, each can stand for another."""

    async def prepare(self, name: str, claude_session_id: str, *, awake: bool) -> None:
        """Starts worklet `name`; returns when its Claude answers, or, not `awake`, has ended. Raises WorkletError."""

    async def destroy(self, name: str) -> None: ...

    async def running(self) -> Mapping[str, object]: ...


class Pool:
    """One per serving program. `start` begins to keep it filled, `aclose` ends that; what stands ready stays.

    `size`: the least and the most that stand ready. `alone`: no other process has this database. `memory`: bytes that
    are free on this machine. `settle`: seconds from a claim until another one is made.
    """

    def __init__(
        self,
        members: Members,
        maker: Maker,
        size: tuple[int, int],
        *,
        alone: bool,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        memory: Callable[[], int | None] | None = None,
        settle: float = _SETTLE,
    ) -> None:
        self.wanted, self.waiting, self.claimed = 0, 0, 0  # as of the last look
        self.handed_out = self.missed = 0  # sessions that got one, and that did not
        self._members, self._maker, self._size, self._alone = members, maker, size, alone
        self._clock, self._memory, self._settle = clock, memory or free_memory, settle
        self._demand = Demand(size)
        self._news_of_claim = False  # since the last look
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._broken: set[str] = set()  # their start failed here
        self._news = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._trouble = self._stuck = ""  # why none is made, and why one is not removed
        self._failures = 0
        self._again: datetime | None = None  # not before that another start is tried
        self._left = 0  # that are still to be removed, or another replica's
        members.on_start = self._on_start

    def start(self) -> None:
        """Returns at once. Idempotent."""
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name="pool")

    async def aclose(self) -> None:
        """Starts that are under way are finished by nobody: the next program removes them."""
        self._members.pattern = None
        tasks = [task for task in (self._keeping, *self._starting.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._keeping = None

    def state(self) -> dict[str, Any]:
        """{"state", "ready", "starting", "claimed", "wanted", "handed_out", "missed"}; "error" says what is wrong.

        "claimed": sessions that took one in the last ten minutes, at all replicas.
        """
        found: dict[str, Any] = {
            "state": "ok" if self._size[1] else "disabled",
            "ready": self.waiting,
            "starting": len(self._starting),
            "claimed": self.claimed,
            "wanted": self.wanted,
            "handed_out": self.handed_out,
            "missed": self.missed,
        }
        trouble = self._trouble or self._stuck
        return found | ({"error": trouble} if trouble else {})

    def _on_start(self, got: bool) -> None:
        self._news_of_claim = True
        if got:
            self.handed_out += 1
        else:
            self.missed += 1
            self._demand.missed(self._clock())
        self._news.set()

    async def _keep(self) -> None:
        while True:
            self._news.clear()
            self._news_of_claim = False
            looked = await self._look()
            if self._size[1] == 0 and looked and not self._left:
                return  # what an earlier program left is gone
            try:
                async with asyncio.timeout(_PAUSE):
                    await self._news.wait()
            except TimeoutError:
                continue
            if self._news_of_claim:
                await asyncio.sleep(self._settle)

    async def _look(self) -> bool:
        try:
            await self.tend()
        except FlowError as error:
            self._tell(error.sentence())
        except Exception as error:  # whatever it was, the next look may do better
            if self._tell(repr(error)):
                log.exception("the pool of worklets is not kept")
        else:
            if self.waiting >= self.wanted:
                self._works()
            return True
        return False

    def _tell(self, trouble: str) -> bool:
        """False: it has been told."""
        news, self._trouble = trouble != self._trouble, trouble
        if news:
            log.warning("no worklet can be made ready", reason=trouble)
        return news

    def _failed(self, trouble: str) -> bool:
        """To start one. The next try waits, longer each time; looks go on."""
        pause = min(_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        self._failures += 1
        self._again = self._clock() + timedelta(seconds=pause)
        return self._tell(trouble)

    def _works(self) -> None:
        self._failures, self._again, self._trouble = 0, None, ""

    async def tend(self) -> None:
        """One look: starts what is missing, at most two at a time, removes what nobody can use. Raises FlowError."""
        pattern = await self._maker.pattern() if self._size[1] else None
        self._members.pattern, self._members.least_memory = pattern, self._maker.least_memory
        starting = set(self._starting)  # before the rows: what gets ready meanwhile is no leftover
        members = await self._members.members()
        running = await self._maker.running()
        self._broken &= {member.name for member in members} | starting
        good = [member for member in members if self._is_good(member, pattern, running, starting)]
        ready = [member for member in good if member.ready]
        self.waiting = len(ready)
        taken = await self._members.taken(WINDOW)
        self.claimed, self.wanted = len(taken), self._demand.target(taken, self._clock())
        if pattern is not None:  # before the removals, since those may take long
            coming = len(starting - {member.name for member in members})  # they had no row yet
            self._fill(pattern, self.wanted - len(good) - coming)
        leftovers = [member for member in members if member not in good and member.name not in self._starting]
        theirs = [member for member in leftovers if self._is_anothers(member, pattern)]
        excess = ready[: max(0, len(good) - self.wanted)]
        stuck = ""
        for member in [member for member in leftovers if member not in theirs] + excess:
            try:
                await self._remove(member)
            except WorkletError as error:  # the others can be; the next look tries again
                stuck = error.sentence()
            else:
                self.waiting -= member in excess
        if stuck and stuck != self._stuck:
            log.warning("a worklet that nobody can use is not removed", reason=stuck)
        self._stuck, self._left = stuck, len(theirs) + bool(stuck)

    def _is_good(
        self, member: Member, pattern: str | None, running: Mapping[str, object], starting: Collection[str]
    ) -> bool:
        """It can be handed out, or will be; here or at another replica."""
        if member.leaving or member.pattern != pattern or member.name in self._broken:
            return False
        if member.ready:
            return member.name in running
        under_way = not self._alone and member.created_at > self._clock() - _STARTING
        return member.name in starting or under_way

    def _is_anothers(self, member: Member, pattern: str | None) -> bool:
        """Another replica, of another version say, may want it: else each would go on removing what the other makes."""
        young = member.created_at > self._clock() - WINDOW
        return not self._alone and young and not member.leaving and member.pattern != pattern

    async def _remove(self, member: Member) -> None:
        """Out of the table last: whoever is killed on the way leaves a row by which the rest is found."""
        if await self._members.take_out(member.name):
            await self._maker.destroy(member.name)
            await self._members.forget(member.name)

    def _fill(self, pattern: str, missing: int) -> None:
        if self._again is not None and timedelta(0) < self._again - self._clock() <= timedelta(seconds=_LONGEST_PAUSE):
            return  # what could not be done a moment ago is not tried at each look
        for _ in range(min(missing, _IN_FLIGHT - len(self._starting))):
            free = self._memory()
            if free is not None and free < SPARE_MEMORY:
                self._failed(f"only {format_size(free)} of memory are free on this machine")
                return
            name = f"p{secrets.token_hex(8)}"
            awake = free is None or free >= AMPLE_MEMORY
            task = asyncio.create_task(self._prepare(name, pattern, awake), name=f"pool: {name}")
            self._starting[name] = task
            task.add_done_callback(lambda _task, name=name: self._done(name))  # type: ignore[misc]

    def _done(self, name: str) -> None:
        del self._starting[name]
        self._news.set()

    async def _prepare(self, name: str, pattern: str, awake: bool) -> None:
        claude_session_id = str(uuid4())
        try:
            await self._members.add(name, claude_session_id, pattern)
            await self._maker.prepare(name, claude_session_id, awake=awake)
            if await self._members.ready(name):
                self._works()
                log.info("a worklet stands ready", worklet=name)
            else:  # another replica took it for dead and removed it: what came after that is nobody's
                await self._maker.destroy(name)
        except FlowError as error:
            self._broken.add(name)
            self._failed(error.sentence())
        except Exception as error:
            self._broken.add(name)
            if self._failed(repr(error)):
                log.exception("a worklet could not be made ready", worklet=name)


def free_memory() -> int | None:
    """Bytes that this machine can still give to programs (`MemAvailable` of proc(5)); None: nobody knows."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None
