"""Collects processes that nobody waits for: the relay is a container's first process, and they become its children.

It is the first process because the kernel then keeps signals from it: SIGKILL and SIGSTOP from inside do nothing, so
that the agent, whose user it has, cannot stop the watch over the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Container

_AGAIN = 0.1  # seconds until one that is waited for, and is in the way, has been collected


def collect_orphans(awaited: Callable[[], Container[int | None]]) -> None:
    """From now on, on the running loop. `awaited`: the children that others collect."""
    loop = asyncio.get_running_loop()

    def collect() -> None:
        with contextlib.suppress(ChildProcessError):  # there are none
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in awaited():  # it hides those behind it
                    loop.call_later(_AGAIN, collect)
                    return
                os.waitpid(ended.si_pid, os.WNOHANG)

    loop.add_signal_handler(signal.SIGCHLD, collect)
    collect()
