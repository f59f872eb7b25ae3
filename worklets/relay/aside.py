"""Processes started where nobody waits for them, once the agent runs.

They are of the agent's user, who can stop them (SIGSTOP) before they have become another program. Who starts one with
vfork stands still in the kernel then, with all its threads; who forks waits for a word from the child, in Python. So it
is a fork, in a thread of its own, which may hang for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

subprocess._USE_VFORK = False  # type: ignore[misc]  # noqa: SLF001 - it is documented, for whom vfork does not suit


async def aside(call: Callable[[], T], seconds: float) -> T:
    """What it returns, or raises. Raises TimeoutError, and it goes on; RuntimeError where no thread can be had."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(settled: Callable[[], None]) -> None:
        if not done.done():
            settled()

    def run() -> None:
        try:
            made = call()
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            settled: Callable[[], None] = _bound(done, error)
        else:
            settled = lambda: done.set_result(made)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, settled)

    threading.Thread(target=run, daemon=True).start()
    async with asyncio.timeout(seconds):
        return await done


def _bound(done: asyncio.Future[T], error: Exception) -> Callable[[], None]:
    return lambda: done.set_exception(error)
