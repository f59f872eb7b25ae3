"""`flow` with a trap: it kills itself with SIGKILL, or stops itself, the n-th time that a named point of it is reached.

    CHAOS_TRAP=trap.json python tests/chaos/program.py serve

`trap.json` holds `{"point": "sessions.store:Store.submit:return", "times": 2, "signal": "SIGKILL"}`; it is read at the
start, if it is there, and again at each SIGUSR1. The program itself is untouched: Python's own profiler hook watches
for the one function. A coroutine function is called when its body begins, and returns when its body has returned,
however often it waited in between. At SIGUSR2 it prints what its tasks wait for (`stacks.py`).
"""

from __future__ import annotations

import dis
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import stacks

CAUGHT = "trap: caught"


def code_of(point: str) -> tuple[CodeType, str]:
    """The code of "module:Class.method:event", and the event. Raises AttributeError, ImportError, ValueError."""
    module, name, event = point.split(":")
    if event not in ("call", "return"):
        raise ValueError(f"{event!r} is neither call nor return")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return getattr(found, "__wrapped__", found).__code__, event


def arm(point: str, times: int, what: signal.Signals) -> None:
    """From now on the point is watched; the `times`-th time it sends itself that signal, and watches no more."""
    code, wanted = code_of(point)
    left = times

    def watch(frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal left
        if frame.f_code is not code or event != wanted or not _is_real(frame, event):
            return
        left -= 1
        if not left:
            sys.setprofile(None)
            os.write(1, f"{CAUGHT}: {point}\n".encode())
            os.kill(os.getpid(), what)

    sys.setprofile(watch)


def _is_real(frame: FrameType, event: str) -> bool:
    """Not one of the steps in between: a coroutine that waits returns, and is called again when it goes on."""
    code, at = frame.f_code.co_code, frame.f_lasti
    name = dis.opname[code[at]] if at >= 0 else "RESUME"
    if event == "return":
        return name.startswith("RETURN_")
    return name != "RESUME" or at < 0 or code[at + 1] & 3 == 0  # dis: RESUME 0 stands at a function's beginning


def _read_trap(path: Path) -> None:
    sys.setprofile(None)
    if path.exists():
        trap = json.loads(path.read_text())
        arm(trap["point"], trap["times"], signal.Signals[trap["signal"]])


def main() -> int:
    from bot.cli import main as flow

    for module in ("bot.serve", "bot.slackdoor", "worklets.local", "worklets.docker"):
        importlib.import_module(module)  # before the trap is armed: under a profiler they take long
    path = Path(os.environ["CHAOS_TRAP"])
    signal.signal(signal.SIGUSR1, lambda *_: _read_trap(path))
    stacks.install()
    _read_trap(path)
    return flow(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
