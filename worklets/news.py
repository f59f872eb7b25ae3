"""What a runtime tells of its worklets without being asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class News:
    """`kind`: "exit", the worklet has ended, wanted or not; "oom", a process in it was ended for want of memory;
    "missed", something may have happened of which nothing was heard: look at all of them.

    `worklet` is its name, empty for "missed"; `code` how it exited, where that is known.
    """

    kind: Literal["exit", "oom", "missed"]
    worklet: str = ""
    code: int | None = None


Tell: TypeAlias = Callable[[News], None]
