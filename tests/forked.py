"""Child processes that need not import Flow first: forked from one that has (`tests/forkserver.py`).

Each has its own process id, environment, directory and output; it is a tenth of the processor time that a start takes.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


class ForkedProcess:
    """What tests use of `asyncio.subprocess.Process`; `stdout` has what it says on standard error, too."""

    def __init__(self, pid: int, stdout: asyncio.StreamReader, status: int) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._status = status
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(status, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._status)
        told = os.read(self._status, 16)
        os.close(self._status)
        # Without a word the server itself has died.
        self.returncode = os.waitstatus_to_exitcode(int(told)) if told else -signal.SIGKILL
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: signal.Signals) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)


async def fork(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> ForkedProcess:
    """Runs Python with these arguments: `-m module …` or `script …`. Raises RuntimeError when the server has ended."""
    output, output_end = os.pipe()
    status, status_end = os.pipe()
    try:
        request = json.dumps({"argv": list(argv), "env": dict(env), "cwd": str(cwd)})
        pid = await asyncio.to_thread(_server().fork, request, [output_end, status_end])
    finally:
        os.close(output_end)
        os.close(status_end)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0))
    return ForkedProcess(pid, reader, status)


class _Server:
    """One for each process of pytest; it ends with it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(ROOT / "tests" / "forkserver.py"), str(theirs.fileno())],
            env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        self._one_at_a_time = threading.Lock()
        atexit.register(self._close)

    def fork(self, request: str, descriptors: Sequence[int]) -> int:
        """The child's process id."""
        with self._one_at_a_time:
            socket.send_fds(self._control, [request.encode()], list(descriptors))
            answer = self._control.recv(16)
        if not answer:
            raise RuntimeError("the server of forks has ended")
        return int(answer)

    def _close(self) -> None:
        self._control.close()
        self._process.wait()


@functools.cache
def _server() -> _Server:
    return _Server()
