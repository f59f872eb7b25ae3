"""What else is killed: Claude's process, the relay, a container, all containers at once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from collections import defaultdict
from pathlib import Path

from dockerlists import listed
from law_remains import processes


def strike(kind: str, runtime: str, share_dir: Path, dice: random.Random) -> int:
    """Kills one "cli", "relay" or "container", or with "engine" every container at once. How many died.

    A worklet without a container is the processes that carry its mark.
    """
    worklets = _containers(share_dir) if runtime == "docker" else _groups(share_dir)
    names = sorted(worklets)
    if not names:
        return 0
    chosen = names if kind == "engine" else [dice.choice(names)]
    if runtime == "docker" and kind in ("container", "engine"):
        done = subprocess.run(["docker", "kill", *chosen], capture_output=True, text=True)
        return len(done.stdout.split())
    return sum(_kill(pid) for name in chosen for pid in _of_kind(kind, worklets[name]))


def _of_kind(kind: str, members: dict[int, str]) -> list[int]:
    """The relay is the one that runs `relay.py`, and Claude's process the one that it started."""
    if kind in ("container", "engine"):
        return list(members)
    relays = [pid for pid, command in members.items() if "relay" in command and "python" in command]
    if kind == "relay":
        return relays
    return [pid for pid in members if _parent(pid) in relays]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _groups(share_dir: Path) -> dict[str, dict[int, str]]:
    """Mark of each worklet to its living processes."""
    found: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for pid, command in processes(_instance(share_dir)).items():
        with contextlib.suppress(OSError):
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            mark = next(item for item in environ if item.startswith(b"WORKLET_ID="))
            found[mark.decode()][pid] = command
    return dict(found)


def _containers(share_dir: Path) -> dict[str, dict[int, str]]:
    """Name of each running container to its processes, by their ids on this machine."""
    names = listed("ps", "--filter", f"label=flow.instance={_instance(share_dir)}", "--format", "{{.Names}}")
    found = {}
    for name in names:
        top = subprocess.run(["docker", "top", name, "-eo", "pid,args"], capture_output=True, text=True)
        rows = [line.split(None, 1) for line in top.stdout.splitlines()[1:]]
        found[name] = {int(pid): command for pid, command in rows}
    return found


def _instance(share_dir: Path) -> str:
    return str(json.loads((share_dir / "instance.json").read_text())["instance"])


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
