"""Load of the key-value figures: so many clients, each with one call after the other, for a fixed number of calls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.harness import percentile

#: One call of client `number` (0…), the `turn`th of that client.
Call = Callable[[int, int], Awaitable[object]]
BlockingCall = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Figure:
    """Calls a second, and how long one takes in seconds."""

    rate: float
    p50: float
    p99: float

    def __str__(self) -> str:
        rate = f"{self.rate:,.0f}" if self.rate >= 100 else f"{self.rate:.1f}"
        return f"{rate}/s ({_milliseconds(self.p50)} / {_milliseconds(self.p99)} ms)"


def _milliseconds(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def middle(figures: list[Figure]) -> Figure:
    """The median of each, over runs."""
    return Figure(median(f.rate for f in figures), median(f.p50 for f in figures), median(f.p99 for f in figures))


async def drive(call: Call, clients: int, calls: int) -> Figure:
    """`calls` in all, shared out among `clients` tasks of this loop."""
    each = max(1, calls // clients)
    times: list[float] = []

    async def one(number: int) -> None:
        for turn in range(each):
            began = time.perf_counter()
            await call(number, turn)
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(clients)))
    return _figure(times, time.perf_counter() - began)


def drive_here(call: BlockingCall, calls: int) -> Figure:
    """One client, in this thread, without a loop."""
    times = []
    began = time.perf_counter()
    for turn in range(calls):
        at = time.perf_counter()
        call(0, turn)
        times.append(time.perf_counter() - at)
    return _figure(times, time.perf_counter() - began)


def drive_threads(call: BlockingCall, clients: int, calls: int) -> Figure:
    """Like `drive`, each client a thread of this process."""
    each = max(1, calls // clients)
    times: list[list[float]] = [[] for _ in range(clients)]
    failures: list[BaseException] = []

    def one(number: int) -> None:
        try:
            for turn in range(each):
                at = time.perf_counter()
                call(number, turn)
                times[number].append(time.perf_counter() - at)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            failures.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return _figure([taken for of_one in times for taken in of_one], time.perf_counter() - began)


def _figure(times: list[float], took: float) -> Figure:
    return Figure(len(times) / took, percentile(times, 50), percentile(times, 99))
