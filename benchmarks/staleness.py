"""How old the oldest text is that the model has written and a reader does not see yet, averaged over time.

The real outbox, schedule and renderer, in virtual time, against a Slack in memory that has the simulator's rate limits
and a latency of 150 ms a call; the table of posted messages is left out. Each thread writes a word every 100 ms (the
pace at which the CLI joins its text), without end. The best possible: a round robin that knows neither page breaks nor
anything else to send, and edits each message as often as 50 edits a minute and 3 seconds a message allow.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean
from typing import Any, cast

from benchmarks import virtual
from benchmarks.harness import Row, ratio, say
from benchmarks.workspace import LATENCY, Workspace
from bot.answer import Answer
from bot.delivery import Delivery
from bot.outbox import Outbox
from sessions.events import Queued, Started
from sessions.types import SessionId, TurnId
from worklets.events import TextDelta

_PACE = 0.1  # seconds a word
_WARM_UP, _END = 120.0, 600.0  # the first two minutes are not counted: everything starts at once in them
_EDITS_A_MINUTE, _GAP = 50, 3.0
_WORD = re.compile(r"\bw(\d+)\b")


@dataclass(slots=True)
class Thread:
    """Word n is written at `born[n]`; `views`: from a moment on, all words below a number are seen."""

    born: list[float] = field(default_factory=list)
    views: list[tuple[float, int]] = field(default_factory=list)
    pages: dict[str, tuple[int, int]] = field(default_factory=dict)  # first and last word of each message

    def show(self, now: float, ts: str, text: str) -> None:
        if words := _WORD.findall(text):
            self.pages[ts] = int(words[0]), int(words[-1])
        seen = 0
        for first, last in sorted(self.pages.values()):
            if first > seen:
                break
            seen = max(seen, last + 1)
        self.views.append((now, seen))

    def staleness(self, begin: float, end: float) -> float:
        """Time-averaged, in seconds."""
        area = 0.0
        edges = [*self.views, (end, 0)]
        for (since, seen), (until, _) in pairwise(edges):
            if seen < len(self.born):
                born = self.born[seen]
                a, b = max(since, begin, born), min(until, end)
                area += ((b - born) ** 2 - (a - born) ** 2) / 2 if b > a else 0.0
        return area / (end - begin)


class _NoTable:
    """Nothing was posted before, and nobody will ask."""

    async def of_turn(self, _turn_id: TurnId) -> list[Any]:
        return []

    async def intend(self, *_: Any) -> bool:
        return True

    async def shown(self, *_: Any) -> None: ...


async def measure(quick: bool) -> list[Row]:
    return await asyncio.to_thread(_measure, quick)


def _measure(quick: bool) -> list[Row]:
    rows = []
    for count in (1, 10) if quick else (1, 10, 50):
        say(f"staleness: {count} threads")
        threads, workspace = virtual.run(_live(count))
        ours, best = _mean(threads), _mean(_ideal(count))
        edits = workspace.calls["chat.update"] / (_END / 60)
        rows.append(
            Row(
                f"staleness, {count} thread{'s' if count > 1 else ''}",
                f"{ours:.1f} s = {ratio(ours, best)} best",
                f"best {best:.1f} s; {edits:.0f} edits a minute, {workspace.refused} refused (429)",
                "≤ 1.3× best",
            )
        )
    return rows


def _mean(threads: Sequence[Thread]) -> float:
    return mean(thread.staleness(_WARM_UP, _END) for thread in threads)


async def _live(count: int) -> tuple[list[Thread], Workspace]:
    loop = asyncio.get_running_loop()
    roots = {f"1600000000.{n:06d}": Thread() for n in range(count)}
    workspace = Workspace(lambda thread, ts, text: roots[thread].show(loop.time(), ts, text))
    delivery = Delivery(cast(Any, workspace), "B1")

    async def nothing(*_: Any) -> None: ...

    outbox = Outbox(
        delivery, cast(Any, _NoTable()), opened=nothing, delivered=nothing, refused=nothing, clock=loop.time
    )
    async with outbox, asyncio.TaskGroup() as group:
        for number, (root, thread) in enumerate(roots.items()):
            answer = Answer(TurnId(f"t{number}"), SessionId(f"s{number}"), f"C{number % 10}", root, root)
            group.create_task(_write(outbox, answer, thread, number * _PACE / count))
    return list(roots.values()), workspace


async def _write(outbox: Outbox, answer: Answer, thread: Thread, delay: float) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(delay)
    answer.view.apply(Queued(0))
    outbox.add(answer)
    answer.view.apply(Started())
    for number in range(int((_END - delay) / _PACE)):
        end = ".\n\n" if number % 60 == 59 else " "
        answer.view.apply(TextDelta(f"w{number}{end}"))
        thread.born.append(loop.time())
        outbox.changed(answer.turn_id)
        await asyncio.sleep(_PACE)


def _ideal(count: int) -> list[Thread]:
    period = max(_GAP, count * 60 / _EDITS_A_MINUTE)
    threads = []
    for number in range(count):
        thread = Thread(born=[n * _PACE for n in range(int(_END / _PACE))])
        sent = number * period / count
        while sent < _END:
            thread.views.append((sent + LATENCY, int(sent / _PACE) + 1))
            sent += period
        threads.append(thread)
    return threads
