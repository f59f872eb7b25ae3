"""How old the oldest text is that the model has written and a reader does not see yet, averaged over time.

The real outbox, schedule and renderer, in virtual time, against a Slack in memory that has the simulator's rate limits
and a latency of 150 ms a call; the table of posted messages is left out. Each thread writes a word every 100 ms (the
pace at which the CLI joins its text; with 50 threads and more every second, ten at a time), without end. The best
possible: a round robin that knows neither page breaks nor anything else to send, and edits each message as often as 50
edits a minute and 3 seconds a message allow.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, median
from typing import Any, cast

from benchmarks import virtual
from benchmarks.harness import Row, ratio, say
from benchmarks.workspace import LATENCY, Workspace
from bot.answer import Answer
from bot.delivery import Delivery
from bot.outbox import Outbox
from sessions.events import Queued, Settled, Started
from sessions.types import Done, SessionId, TurnId
from worklets.events import TextDelta

_PACE = 0.1  # seconds a word
_EDITS_A_MINUTE, _GAP = 50, 3.0
_ANSWERS = 300  # written for the figure of their ends
_END = (" ", ".\n\n")  # of a word, and of a paragraph
_WORD = re.compile(r"\bw(\d+)\b")


@dataclass(frozen=True, slots=True)
class Load:
    """`warm_up` seconds are not counted: everything starts at once in them."""

    count: int

    @property
    def period(self) -> float:
        """Seconds between two edits of one message, at best."""
        return max(_GAP, self.count * 60 / _EDITS_A_MINUTE)

    @property
    def words(self) -> int:
        """Written at a time."""
        return 1 if self.count <= 10 else 10

    @property
    def warm_up(self) -> float:
        return max(120.0, 2 * self.period)

    @property
    def end(self) -> float:
        return max(600.0, 8 * self.period)


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
    for count in (1, 10) if quick else (1, 10, 50, 200):
        say(f"staleness: {count} threads")
        load = Load(count)
        threads, workspace = virtual.run(_live(load))
        ours, best = _mean(threads, load), _mean(_ideal(load), load)
        edits = workspace.calls["chat.update"] / (load.end / 60)
        rows.append(
            Row(
                f"staleness, {count} thread{'s' if count > 1 else ''}",
                f"{ours:.1f} s = {ratio(ours, best)} best",
                f"best {best:.1f} s; {edits:.0f} edits a minute, {workspace.refused} refused (429)",
                "≤ 1.2× best",
            )
        )
    for count in (10,) if quick else (10, 50, 200):
        say(f"finals: {count} threads")
        delays, workspace = virtual.run(_ending(count))
        each = workspace.calls["chat.update"] / len(delays)
        rows.append(
            Row(
                f"end of an answer → shown, {count} threads",
                f"{median(delays):.1f} s median, {max(delays):.1f} s worst",
                f"{len(delays)} answers, {each:.1f} edits each, {workspace.refused} refused (429)",
            )
        )
    return rows


def _mean(threads: Sequence[Thread], load: Load) -> float:
    return mean(thread.staleness(load.warm_up, load.end) for thread in threads)


async def _live(load: Load) -> tuple[list[Thread], Workspace]:
    loop = asyncio.get_running_loop()
    roots = {f"1600000000.{n:06d}": Thread() for n in range(load.count)}
    workspace = Workspace(lambda thread, ts, text: roots[thread].show(loop.time(), ts, text))
    delivery = Delivery(cast(Any, workspace), "B1")

    async def nothing(*_: Any) -> None: ...

    outbox = Outbox(
        delivery, cast(Any, _NoTable()), opened=nothing, delivered=nothing, refused=nothing, clock=loop.time
    )
    async with outbox, asyncio.TaskGroup() as group:
        for number, (root, thread) in enumerate(roots.items()):
            answer = Answer(TurnId(f"t{number}"), SessionId(f"s{number}"), f"C{number % 10}", root, root)
            group.create_task(_write(outbox, answer, thread, load, number * _PACE / load.count))
    return list(roots.values()), workspace


async def _write(outbox: Outbox, answer: Answer, thread: Thread, load: Load, delay: float) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(delay)
    answer.view.apply(Queued(0))
    outbox.add(answer)
    answer.view.apply(Started())
    for first in range(0, int((load.end - delay) / _PACE), load.words):
        numbers = range(first, first + load.words)
        answer.view.apply(TextDelta("".join(f"w{n}{_END[n % 60 == 59]}" for n in numbers)))
        thread.born += [loop.time()] * load.words
        outbox.changed(answer.turn_id)
        await asyncio.sleep(_PACE * load.words)


def _ideal(load: Load) -> list[Thread]:
    threads = []
    for number in range(load.count):
        thread = Thread(born=[n // load.words * load.words * _PACE for n in range(int(load.end / _PACE))])
        sent = number * load.period / load.count
        while sent < load.end:
            seen = (int(sent / (_PACE * load.words)) + 1) * load.words
            thread.views.append((sent + LATENCY, seen))
            sent += load.period
        threads.append(thread)
    return threads


async def _ending(count: int) -> tuple[list[float], Workspace]:
    """Each thread writes an answer of a minute or more, waits until it is shown to the end, and writes the next one.

    With many threads they are longer, so that the ends alone are four fifths of what Slack allows.
    Seconds from each answer's end until all of it was shown. The first answers are not counted: all begin at once.
    """
    loop = asyncio.get_running_loop()
    workspace = Workspace(lambda *_: None)
    delays: list[float] = []
    length = max(60.0, count * 60 / (_EDITS_A_MINUTE * 0.8))
    ends: dict[TurnId, tuple[float, asyncio.Event]] = {}

    async def nothing(*_: Any) -> None: ...

    async def delivered(answer: Answer) -> None:
        ended, shown = ends.pop(answer.turn_id)
        delays.append(loop.time() - ended)
        shown.set()

    async def write(number: int) -> None:
        await asyncio.sleep(number * length / count)
        for turn in range(max(3, _ANSWERS // count)):
            root = f"1600{number:06d}.{turn:06d}"
            answer = Answer(TurnId(root), SessionId(f"s{number}"), f"C{number % 10}", root, root)
            answer.view.apply(Queued(0))
            outbox.add(answer)
            answer.view.apply(Started())
            for word in range(int(length)):
                answer.view.apply(TextDelta(f"w{word} " * 10))
                outbox.changed(answer.turn_id)
                await asyncio.sleep(1)
            shown = asyncio.Event()
            ends[answer.turn_id] = loop.time(), shown
            answer.view.apply(Settled(Done(), length))
            outbox.changed(answer.turn_id)
            await shown.wait()

    outbox = Outbox(
        Delivery(cast(Any, workspace), "B1"), cast(Any, _NoTable()), opened=nothing, delivered=delivered,
        refused=nothing, clock=loop.time,
    )  # fmt: skip
    async with outbox, asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(write(number))
    return delays[count:], workspace
