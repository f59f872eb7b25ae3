"""Figures that are kept while the program runs, for whoever scrapes them: plain values, written on the event loop."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # of starts
LONG_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0)  # of turns


@dataclass(slots=True)
class Durations:
    """How many took how long. `counts` has one more than `bounds` (seconds, ascending): what was longer than all."""

    bounds: Sequence[float] = SECONDS
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def note(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, seconds)] += 1
        self.total += seconds
