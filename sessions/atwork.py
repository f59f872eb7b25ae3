"""When a turn works though people are asked: sub-agents and tools go on beside the one that waits. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from sessions.asks import Ask, AskKind
from sessions.transcript import REMARKS, Entry
from worklets.events import ToolFinished, ToolStarted

PARENTS = ("Agent", "Task")  # tools that run as long as what they have started
MOST = 2_000  # calls at a time; a turn that says it has more is not followed any further
DEEPEST = 32  # sub-agents, one within the other

Span: TypeAlias = tuple[datetime, datetime]


@dataclass(slots=True)
class Call:
    """A tool call of the turn. `ended` None: it runs."""

    name: str
    parent: str | None
    begun: datetime
    ended: datetime | None = None


class Calls:
    """The tool calls of one turn, as far as `note` has heard of them.

    They are what the worklet says, so what is kept and looked through is bounded. Beyond that, everything is work.
    """

    def __init__(self) -> None:
        self.cursor = 0
        self._calls: dict[str, Call] = {}
        self._epoch = ""
        self._too_many = False  # it stays so

    def note(self, entries: Iterable[Entry], since: datetime) -> None:
        """What came after `cursor`, in order. Of the time before `since` nobody asks any more."""
        for entry in entries:
            self.cursor = entry.cursor
            if entry.epoch.startswith(REMARKS):
                continue
            if entry.epoch != self._epoch:  # of a process that is gone nothing runs any more
                self._epoch = entry.epoch
                for call in self._calls.values():
                    call.ended = call.ended or entry.created_at
            event = entry.event
            if isinstance(event, ToolStarted) and not self._too_many:
                self._calls[event.tool_id] = Call(event.name, event.parent, entry.created_at)
            elif isinstance(event, ToolFinished) and (found := self._calls.get(event.tool_id)) is not None:
                found.ended = entry.created_at
        self._forget(since)

    def _forget(self, since: datetime) -> None:
        """Calls that ended before that; but sub-agents that were sent into the background still call."""
        self._calls = {
            name: call
            for name, call in self._calls.items()
            if call.ended is None or call.ended >= since or call.name in PARENTS
        }
        if len(self._calls) > MOST:
            self._calls, self._too_many = {}, True

    def waited(self, since: datetime, now: datetime, asks: Sequence[Ask]) -> list[Span]:
        """When between the two nothing but people was waited for. An ask of no call of the turn's stops all of it."""
        everything: list[Span] = []
        waiting: list[Span] = []
        stopped = defaultdict[str, list[Span]](list)  # by call: when people were asked, by it or below it
        for ask in asks:
            asked = _within(_span(ask, now), since, now)
            if asked[0] >= asked[1]:
                continue
            if ask.kind is AskKind.BUDGET:
                everything.append(asked)
            above = self._above(ask.tool_id)
            waiting.append(self._until_left_behind(above, asked))
            for name in (ask.tool_id, *above):
                stopped[name].append(asked)
        if self._too_many:
            return merged(everything)
        working = [
            span
            for name, call in self._calls.items()
            for span in without([_within((call.begun, call.ended or now), since, now)], merged(stopped.get(name, ())))
        ]
        return merged([*without(merged(waiting), merged(working)), *everything])

    def _until_left_behind(self, above: Sequence[str], asked: Span) -> Span:
        """A sub-agent that was sent into the background, whose call has ended, stops nobody but itself."""
        ended = self._calls[above[-1]].ended if above and above[-1] in self._calls else None
        return (asked[0], min(asked[1], max(ended, asked[0]))) if ended is not None else asked

    def _above(self, tool_id: str) -> list[str]:
        """The calls of the sub-agents that made it, the innermost first. Those beyond the deepest count as working."""
        found: list[str] = []
        call = self._calls.get(tool_id)
        while call is not None and call.parent is not None and call.parent not in found and len(found) < DEEPEST:
            found.append(call.parent)
            call = self._calls.get(call.parent)
        return found


def _span(ask: Ask, now: datetime) -> Span:
    return ask.asked_at, now if ask.is_open else max(ask.decided_at or ask.asked_at, ask.asked_at)


def merged(spans: Iterable[Span]) -> list[Span]:
    """In order, none touching another, none empty."""
    found: list[Span] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return found


def without(spans: Iterable[Span], holes: Sequence[Span]) -> list[Span]:
    """What is left of the spans; `holes` are merged."""
    left: list[Span] = []
    for begin, end in spans:
        for number in range(bisect_right(holes, begin, key=_end), len(holes)):
            hole_begin, hole_end = holes[number]
            if hole_begin >= end:
                break
            if begin < hole_begin:
                left.append((begin, hole_begin))
            begin = hole_end
        if begin < end:
            left.append((begin, end))
    return left


def _end(span: Span) -> datetime:
    return span[1]


def _within(span: Span, since: datetime, now: datetime) -> Span:
    """Empty, or turned round, where it lies outside."""
    return max(span[0], since), min(span[1], now)


def length(spans: Iterable[Span]) -> timedelta:
    return sum((end - begin for begin, end in spans), timedelta())
