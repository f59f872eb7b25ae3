"""Sidecars as plain processes, for the local runtime: nothing keeps the worklet's programs from reading them.

Each carries the worklet's mark (`worklets.local`), so it ends with its worklet at the latest, whoever ends that.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from worklets.errors import WorkletStartFailed
from worklets.local import _LAUNCH, _PATH, _kill, _Pid, _process, _wait
from worklets.rundir import worklet_dir

if TYPE_CHECKING:
    from worklets.identity import Identity
    from worklets.sidecars import Sidecar

_PROGRAM = Path(__file__).parent / "relay" / "sidecar.py"
_GRACE = 5.0  # seconds: longer than the program gives its servers
_PID = "pid.json"


class LocalSidecars:
    """See `worklets.sidecars.Place`."""

    def __init__(self, share_dir: Path, identity: Identity) -> None:
        self._share_dir, self._identity = share_dir.resolve(), identity

    async def start(self, sidecar: Sidecar) -> None:
        await asyncio.to_thread(self._start, sidecar)

    async def end(self, worklet: str) -> None:
        await asyncio.to_thread(self._end, worklet)

    async def running(self) -> dict[str, list[float]]:
        return await asyncio.to_thread(self._running)

    def _start(self, sidecar: Sidecar) -> None:
        directory = sidecar.directory
        if _alive(directory) is not None:
            return
        home = directory / "home"
        env = {
            "PATH": _PATH, "HOME": str(home), "LANG": "C.UTF-8",
            "WORKLET_ID": f"{self._identity.instance}-{sidecar.worklet}",
        }  # fmt: skip
        command = [sys.executable, "-I", str(_PROGRAM), str(directory), *(["--egress"] if sidecar.egress else [])]
        shell = ["/bin/sh", "-c", _LAUNCH, "sh", str(directory), str(directory / "log"), *command]
        done = subprocess.run(shell, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        started = _process(int(done.stdout)) if done.returncode == 0 else None
        if started is None:
            raise WorkletStartFailed(f"Its sidecar did not start: {done.stderr.strip() or 'it ended at once'}.")
        (directory / _PID).write_text(json.dumps(asdict(started)), encoding="utf-8")

    def _end(self, worklet: str) -> None:
        for directory in (worklet_dir(self._share_dir, worklet) / "sidecars").glob("*"):
            if (found := _alive(directory)) is not None:
                _kill(found, signal.SIGTERM)
                if not _wait(partial(_ended, directory), _GRACE):
                    _kill(found, signal.SIGKILL)
            (directory / _PID).unlink(missing_ok=True)

    def _running(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for pid in (self._share_dir / "worklets").glob(f"*/sidecars/*/{_PID}"):
            with suppress(OSError):
                if _alive(pid.parent) is not None:
                    found.setdefault(pid.parents[2].name, []).append(time.time() - pid.stat().st_mtime)
        return found


def _alive(directory: Path) -> int | None:
    """The id of the process that runs there."""
    try:
        told = _Pid(**json.loads((directory / _PID).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return told.pid if _process(told.pid) == told else None


def _ended(directory: Path) -> bool:
    return _alive(directory) is None
