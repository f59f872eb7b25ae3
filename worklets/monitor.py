"""What the worklets of this program use, and what became of them: the newest figures of each, asked of nobody twice.

Each relay tells its own every 15 seconds while Flow is connected to it (worklets/relay/stats.py), and when it is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from worklets.stats import Stats, stderr_of
from worklets.tally import Durations

_ENDING = 180.0  # seconds that an end takes at most, on an engine that has much to do
_MOST_EXPECTED = 1_000  # ends: of some nothing is ever heard
_SHORTEST = 0.2  # seconds between two figures of which a rate is made


@dataclass(frozen=True, slots=True)
class Reading:
    """`cpus`: processors that it kept busy since the reading before, None: there is none. `at`: monotonic seconds."""

    stats: Stats
    cpus: float | None
    at: float
    stderr: str


class Gauge:
    """One connection to a worklet's relay. `ask` is called to have it tell now."""

    def __init__(self, monitor: Monitor, name: str, clock: Callable[[], float]) -> None:
        self.reading: Reading | None = None
        self.ask: Callable[[], None] = _nobody
        self._monitor, self._name, self._clock = monitor, name, clock

    def note(self, frame: Mapping[str, Any]) -> None:
        """What the relay says: anything."""
        stats = Stats.of(frame)
        if stats is None:
            return
        now, before = self._clock(), self.reading
        cpus = before.cpus if before is not None else None
        if before is not None and now - before.at >= _SHORTEST:
            cpus = max(0.0, stats.cpu - before.stats.cpu) / (now - before.at)
        self.reading = Reading(stats, cpus, now, stderr_of(frame))
        self._monitor.changed()

    def leave(self) -> None:
        """Nobody is connected any more. Idempotent."""
        self._monitor.left(self._name, self)


class Monitor:
    """One per program. Holds as much as there are connected worklets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.starting = 0  # worklets on their way, also those that wait for their turn
        #: Until Claude's relay answers, with the wait for a turn where somebody waits; cloning is not counted.
        #: The kinds: see `timed`.
        self.starts = {kind: Durations() for kind in ("start", "wake", "prepare", "bind", "rouse")}
        #: Worklets that stood ready and were taken: with their Claude ("warm"), or another had to be started ("cold").
        self.handouts = Counter({"warm": 0, "cold": 0})
        self.failures = Counter[str]()  # starts that came to nothing, by kind
        self.ends = Counter[str]()  # worklets that ended unasked ("exit"), processes in them ended for memory ("oom")
        self._clock = clock
        self._gauges: dict[str, Gauge] = {}
        self._expected: dict[str, float] = {}
        self._news = asyncio.Event()

    def gauge(self, name: str) -> Gauge:
        """For a new connection to that worklet; it takes the place of an older one."""
        made = self._gauges[name] = Gauge(self, name, self._clock)
        return made

    def left(self, name: str, gauge: Gauge) -> None:
        if self._gauges.get(name) is gauge:
            del self._gauges[name]
            self.changed()

    def readings(self) -> dict[str, Reading]:
        """The newest of each worklet, by its name; of those only that have told any."""
        return {name: gauge.reading for name, gauge in self._gauges.items() if gauge.reading is not None}

    async def fresh(self, timeout: float = 2.0) -> dict[str, Reading]:
        """`readings`, after all were asked; who has not answered in `timeout` seconds keeps what it told before."""
        asked = self._clock()
        waiting = dict(self._gauges)
        for gauge in waiting.values():
            gauge.ask()
        try:
            async with asyncio.timeout(timeout):
                while waiting := {n: g for n, g in waiting.items() if self._lacks(n, g, asked)}:
                    await self._changed()
        except TimeoutError:
            pass
        return self.readings()

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Around a worklet's start: "start", or "wake" where it has been there before.

        "prepare" where nobody has asked for it yet, "bind" when such a one becomes somebody's,
        "rouse" when only its Claude is started.
        """
        began = self._clock()
        self.starting += 1
        try:
            yield
        except Exception:
            self.failures[kind] += 1
            raise
        else:
            self.starts[kind].note(self._clock() - began)
        finally:
            self.starting -= 1

    def expect_end(self, name: str) -> None:
        """Flow is about to end that worklet."""
        self._expected[name] = self._clock()
        while len(self._expected) > _MOST_EXPECTED:
            del self._expected[next(iter(self._expected))]

    def was_expected(self, name: str) -> bool:
        """Whether the end that was heard of is one that Flow made; asked once for each."""
        asked = self._expected.pop(name, None)
        return asked is not None and self._clock() - asked < _ENDING

    def changed(self) -> None:
        """Who waits looks again."""
        self._news.set()
        self._news = asyncio.Event()

    async def _changed(self) -> None:
        await self._news.wait()

    def _lacks(self, name: str, gauge: Gauge, asked: float) -> bool:
        return self._gauges.get(name) is gauge and (gauge.reading is None or gauge.reading.at < asked)


def _nobody() -> None:
    """There is no connection yet."""
