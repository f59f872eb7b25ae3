"""What every figure is made of: medians, percentiles, and rows of one table."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. `beside`: what it is measured against, or what else was seen. `aim`: in words."""

    figure: str
    value: str
    beside: str = ""
    aim: str = ""


def percentile(values: Iterable[float], percent: float) -> float:
    """The nearest-rank percentile: a value that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def middle(runs: Sequence[T], key: Callable[[T], float]) -> float:
    """The median over runs."""
    return median(key(run) for run in runs)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def megabytes(kibibytes: float) -> str:
    return f"{kibibytes / 1024:.0f} MB"


def ratio(value: float, floor: float) -> str:
    return f"{value / floor:.2f}×"


def say(text: str) -> None:
    """Progress, out of the table's way."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    return (
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def table(rows: Sequence[Row]) -> str:
    """Plain text with aligned columns."""
    cells = [("figure", "measured", "beside", "aim"), *((r.figure, r.value, r.beside, r.aim) for r in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
