"""Tells people when the worklet's programs fail for want of memory or processes, which Claude sees as errors at most.

The kernel counts in the worklet's own control group how often it ended a process for memory, and how often it refused
a new one (cgroup-v1/memory.rst and pids.rst, cgroup-v2.rst of its admin guide).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

_LOOK = 4.0  # seconds
_AGAIN = 600.0  # seconds without another word of the same kind
#: The counter's name, and the files of version 1 and 2 that may have it. Two small files for each look: a thousand
#: idle worklets look too.
_COUNTERS = {
    "memory": ("oom_kill", ("memory/memory.oom_control", "memory.events")),
    "processes": ("max", ("pids/pids.events", "pids.events")),
}
_LIMITS = {"memory": "memory_limit", "processes": "pids_limit"}

Tell = Callable[[dict[str, Any]], Awaitable[None]]
Used = Callable[[Path], dict[str, Any]]  # stats.used


async def watch(tell: Tell, say: Callable[[str], None], used: Used, cgroup: Path) -> None:
    """Until cancelled. What cannot be read counts as nothing."""
    scarcity = Scarcity(used, cgroup)
    while True:
        try:
            for line in scarcity.look():
                await tell(line)
        except Exception as error:  # noqa: BLE001 - the next look may succeed
            say(f"memory and processes could not be looked at: {error!r}")
        await asyncio.sleep(_LOOK)


class Scarcity:
    def __init__(self, used: Used, cgroup: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._used, self._cgroup, self._clock = used, cgroup, clock
        self._counted: dict[str, int] = {}
        self._told: dict[str, float] = {}

    def look(self) -> list[dict[str, Any]]:
        """{"type": "relay_scarce", "what": "memory" | "processes", "limit": bytes or number} for each that is new."""
        news = [what for what, where in _COUNTERS.items() if self._is_news(what, self._count(*where))]
        found = self._used(self._cgroup) if news else {}
        limits = {what: found.get(_LIMITS[what]) for what in news}
        return [{"type": "relay_scarce", "what": what, "limit": limit} for what, limit in limits.items() if limit]

    def _is_news(self, what: str, count: int | None) -> bool:
        if count is None:
            return False
        before, now = self._counted.get(what), self._clock()
        self._counted[what] = count
        if before is None or count <= before or now - self._told.get(what, -_AGAIN) < _AGAIN:
            return False
        self._told[what] = now
        return True

    def _count(self, name: str, files: tuple[str, ...]) -> int | None:
        for file in files:
            try:
                lines = (self._cgroup / file).read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                key, _, value = line.partition(" ")
                if key == name and value.isdigit():
                    return int(value)
        return None
