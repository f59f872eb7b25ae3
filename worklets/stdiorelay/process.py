"""One life of the command: its lines, its input, its last words, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import IO

from worklets.stdiorelay.errors import CommandFailed
from worklets.stdiorelay.protocol import MAX_LINE

_STDERR = 4_000  # bytes that readers are told
_CHUNK = 1 << 16


class Process:
    """Runs in a process group of its own. Made with `start`; `lines`, `write` and `ended` go on side by side."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._stdout: asyncio.StreamReader | None = None
        self._reading: asyncio.ReadTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._room = _Room()
        self._tail = bytearray()
        self._over = False
        # A thread, for writing our own stderr may block for as long as whoever reads it likes.
        self._errors = threading.Thread(target=self._pass_stderr_on, args=(process.stderr,), daemon=True)

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str]) -> Process:
        """Raises CommandFailed."""
        process = cls(_spawn(command, env))
        await process._open()
        return process

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._errors.start()
        reader = asyncio.StreamReader(limit=_CHUNK * 4)
        reading = asyncio.StreamReaderProtocol(reader)
        self._reading, _ = await loop.connect_read_pipe(lambda: reading, self._process.stdout)
        self._stdin, _ = await loop.connect_write_pipe(lambda: self._room, self._process.stdin)
        self._stdout = reader

    @property
    def pid(self) -> int:
        return self._process.pid

    async def lines(self) -> AsyncIterator[list[bytes | int]]:
        """Runs of lines without their newlines; an int is the length of one beyond MAX_LINE, which is not kept.

        What follows the last newline is a line too. Ends when everybody who had the process's stdout closed it.
        """
        assert self._stdout is not None
        buffer, overlong = bytearray(), 0
        while chunk := await self._stdout.read(_CHUNK):
            buffer += chunk
            if b"\n" in chunk:
                *whole, rest = bytes(buffer).split(b"\n")
                buffer, lines = bytearray(rest), list[bytes | int](whole)
                if overlong:
                    lines[0], overlong = overlong + len(whole[0]), 0
                yield lines
            elif len(buffer) > MAX_LINE:
                overlong, buffer = overlong + len(buffer), bytearray()
        if overlong:
            yield [overlong + len(buffer)]
        elif buffer:
            yield [bytes(buffer)]

    def write(self, line: bytes) -> None:
        """Never refuses; what a process that ends does not read is lost with it."""
        assert self._stdin is not None
        self._stdin.write(line + b"\n")

    async def drain(self) -> None:
        """Returns once the process has room for more."""
        await self._room.event.wait()

    async def ended(self) -> int:
        """The exit code, negative for a signal. What it left behind in its process group is killed."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        fd = os.pidfd_open(self.pid)
        loop.add_reader(fd, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        self.signal(signal.SIGKILL)  # before it is reaped: until then its number is not given away
        self._over = True
        return self._process.wait()

    def signal(self, number: int) -> None:
        """Signals the process and its group."""
        if not self._over:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def close(self) -> str:
        """Lets go of the pipes. The end of what it wrote to stderr."""
        await asyncio.to_thread(self._errors.join, 1.0)
        assert self._stdin is not None
        assert self._reading is not None
        if not self._stdin.is_closing():  # it closes itself when nobody reads
            self._stdin.abort()
        self._reading.close()
        return bytes(self._tail[-_STDERR:]).decode(errors="replace")

    def _pass_stderr_on(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := pipe.read(_CHUNK):
                self._tail += chunk
                del self._tail[: -2 * _STDERR]
                view = memoryview(chunk)
                with contextlib.suppress(OSError):  # our own stderr may be closed
                    while view:
                        view = view[os.write(2, view) :]


def _spawn(command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(env), start_new_session=True, bufsize=0
        )
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = "there is no such command" if missing else str(error.strerror)
        raise CommandFailed(f"{command[0]} could not be started: {reason}.", 127 if missing else 126) from error


class _Room(asyncio.BaseProtocol):
    """Whether the process's stdin takes more."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.event.set()

    def pause_writing(self) -> None:
        self.event.clear()

    def resume_writing(self) -> None:
        self.event.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.event.set()


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What the command gets: everything but the relay's token."""
    return {name: value for name, value in inherited.items() if name != "FLOW_RELAY_TOKEN"}
