"""What a worklet says that it uses: pure, and wary, since whatever runs in there can say anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_MOST = 1 << 62  # no figure of a machine is as large
_STDERR = 4_000  # characters, as the relay keeps them


@dataclass(frozen=True, slots=True)
class Stats:
    """`cpu`: processor seconds since its start; sizes in bytes; None: not limited, or not known.

    `memory` leaves out page cache that is not in use. `sent` and `received` went through the worklet's sockets: it has
    no network. `disk` is as of the last measuring (worklets/relay/disk.py). `oom_kills`: processes that the kernel
    ended because the memory was used up. `uptime`: seconds.
    """

    cpu: float
    memory: int
    pids: int
    memory_limit: int | None = None
    pids_limit: int | None = None
    oom_kills: int | None = None
    disk: int | None = None
    disk_limit: int | None = None
    sent: int = 0
    received: int = 0
    uptime: float = 0.0

    @classmethod
    def of(cls, frame: Mapping[str, Any]) -> Self | None:
        """None: no relay would say so."""
        cpu, memory, pids = _figure(frame.get("cpu")), _whole(frame, "memory"), _whole(frame, "pids")
        if cpu is None or memory is None:
            return None
        return cls(
            cpu,
            memory,
            pids or 0,
            memory_limit=_whole(frame, "memory_limit"),
            pids_limit=_whole(frame, "pids_limit"),
            oom_kills=_whole(frame, "oom_kills"),
            disk=_whole(frame, "disk"),
            disk_limit=_whole(frame, "disk_limit"),
            sent=_whole(frame, "sent") or 0,
            received=_whole(frame, "received") or 0,
            uptime=_figure(frame.get("uptime")) or 0.0,
        )


def stderr_of(frame: Mapping[str, Any]) -> str:
    """What the agent's process said last on its stderr. Not harmless to a terminal."""
    text = frame.get("stderr")
    return text[-_STDERR:].encode(errors="replace").decode() if isinstance(text, str) else ""


def _whole(frame: Mapping[str, Any], name: str) -> int | None:
    figure = _figure(frame.get(name))
    return None if figure is None else int(figure)


def _figure(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
        return None
    return value if math.isfinite(value) else None
