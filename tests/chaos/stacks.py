"""What a program that was killed for a test waits for: the stacks of its tasks and threads, printed when it is asked.

`install` is called in the program; SIGUSR2 has it print what `written` returns to its standard output, between the
lines BEGIN and END. `asyncio`'s own `Task.print_stack` shows the outermost function of a waiting task only.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
from collections.abc import Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

BEGIN, END = "stacks: begin", "stacks: end"
_AWAITED = (CoroutineType, AsyncGeneratorType, GeneratorType)
_DEEPEST = 100


def install() -> None:
    """In the main thread."""
    signal.signal(signal.SIGUSR2, lambda *_: _print())


def _print() -> None:
    _write(f"\n{BEGIN}\n")
    _write(written())
    faulthandler.dump_traceback(file=1, all_threads=True)
    _write(f"\n{END}\n")


def written() -> str:
    """Of each task of the running loop: its name, the functions that it is in, the outermost first, what it awaits."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return "no event loop runs\n"
    return "".join(_of_task(task) for task in sorted(tasks, key=lambda task: task.get_name()))


def _of_task(task: asyncio.Task[Any]) -> str:
    lines = [f"task {task.get_name()}"]
    lines += [f"    {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}" for frame in _frames(task)]
    awaited = getattr(task, "_fut_waiter", None)
    return "\n".join([*lines, f"    awaits {awaited!r}"[:600], ""])


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    awaited: Any = task.get_coro()
    for _ in range(_DEEPEST):
        if awaited is None:
            return
        kind = {CoroutineType: "cr", AsyncGeneratorType: "ag", GeneratorType: "gi"}.get(type(awaited))
        if kind is None:  # an async generator's `asend`, or a coroutine's wrapper, which do not say whose they are
            awaited = next((one for one in gc.get_referents(awaited) if isinstance(one, _AWAITED)), None)
            continue
        if (frame := getattr(awaited, f"{kind}_frame")) is not None:
            yield frame
        awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")


def _write(text: str) -> None:
    rest = text.encode()
    while rest:
        rest = rest[os.write(1, rest) :]
