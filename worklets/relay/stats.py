"""What the worklet uses, read from its own control group: a few small files, so that nobody has to ask the engine.

The kernel's files are described in cgroup-v1/{cpuacct,memory,pids}.rst and cgroup-v2.rst of its admin guide. Where
there are none of one's own (plain processes on a machine, an OCI runtime that hides them) the process tree is added up.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worklets.relay.disk import Watch
    from worklets.relay.forward import Traffic

CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 62  # version 1 says "no limit" as the largest number that its pages allow


class Meter:
    """All that is told of this worklet. `shared`: its control group is the machine's, or that of others too."""

    def __init__(self, traffic: Traffic, *, shared: bool = False, disk_limit: int | None = None) -> None:
        self.watch: Watch | None = None  # over the disk, where that is limited
        self.shared = shared
        self._traffic, self._cgroup, self._disk_limit = traffic, None if shared else CGROUP, disk_limit
        self._began = time.monotonic()

    def read(self) -> dict[str, Any]:
        """`used`, with `disk`, `disk_limit`, `sent`, `received` in bytes, `uptime` in seconds; None: not known."""
        return {
            **used(self._cgroup),
            "uptime": round(time.monotonic() - self._began, 1),
            "disk": self.watch.used if self.watch is not None else None,
            "disk_limit": self._disk_limit,
            "sent": self._traffic.sent,
            "received": self._traffic.received,
        }


def used(cgroup: Path | None = CGROUP, proc: Path = Path("/proc"), root_pid: int | None = None) -> dict[str, Any]:
    """`cpu` in seconds, `memory` in bytes, `pids` with threads; `memory_limit`, `pids_limit`, `oom_kills` or None.

    Memory is what cannot be had back: without the page cache that is not in use. `cgroup` None: of the tree of
    processes below `root_pid` (None: this one).
    """
    if cgroup is not None:
        found = _version2(cgroup) if (cgroup / "cgroup.controllers").exists() else _version1(cgroup)
        if found["cpu"] is not None and found["memory"] is not None:
            return found
    return _tree(proc, root_pid or os.getpid())


def _version1(root: Path) -> dict[str, Any]:
    nanoseconds = _number(root / "cpuacct" / "cpuacct.usage")
    memory = root / "memory"
    return {
        "cpu": nanoseconds / 1e9 if nanoseconds is not None else None,
        "memory": _in_use(
            _number(memory / "memory.usage_in_bytes"), _field(memory / "memory.stat", "total_inactive_file")
        ),
        "memory_limit": _number(memory / "memory.limit_in_bytes"),
        "pids": _number(root / "pids" / "pids.current"),
        "pids_limit": _number(root / "pids" / "pids.max"),
        "oom_kills": _field(memory / "memory.oom_control", "oom_kill"),
    }


def _version2(root: Path) -> dict[str, Any]:
    microseconds = _field(root / "cpu.stat", "usage_usec")
    return {
        "cpu": microseconds / 1e6 if microseconds is not None else None,
        "memory": _in_use(_number(root / "memory.current"), _field(root / "memory.stat", "inactive_file")),
        "memory_limit": _number(root / "memory.max"),
        "pids": _number(root / "pids.current"),
        "pids_limit": _number(root / "pids.max"),
        "oom_kills": _field(root / "memory.events", "oom_kill"),
    }


def _in_use(memory: int | None, cache: int | None) -> int | None:
    return None if memory is None else max(0, memory - (cache or 0))


def _number(path: Path) -> int | None:
    """None: no such file, or no limit ("max")."""
    text = _text(path).strip()
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def _field(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _tree(proc: Path, root_pid: int) -> dict[str, Any]:
    """proc(5), /proc/<pid>/stat. The command's name, in brackets, may hold anything, spaces and brackets too."""
    processes: dict[int, list[str]] = {}
    for path in proc.glob("[0-9]*/stat"):
        fields = _text(path).rpartition(")")[2].split()
        if len(fields) > 21:
            processes[int(path.parent.name)] = fields
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    found, children = {"cpu": 0.0, "memory": 0, "pids": 0}, _children(processes)
    waiting = [root_pid]
    while waiting:
        pid = waiting.pop()
        waiting += children.pop(pid, [])
        if fields := processes.get(pid, []):
            found["cpu"] += sum(map(int, fields[11:15])) / ticks  # its own, and of children that ended
            found["pids"] += int(fields[17])
            found["memory"] += int(fields[21]) * page
    return {**found, "memory_limit": None, "pids_limit": None, "oom_kills": None}


def _children(processes: dict[int, list[str]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for pid, fields in processes.items():
        found.setdefault(int(fields[1]), []).append(pid)
    return found
