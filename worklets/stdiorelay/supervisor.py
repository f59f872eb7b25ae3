"""The command's lives: started, read into the output, told when it ends, started again where that is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from worklets.stdiorelay.errors import CommandFailed
from worklets.stdiorelay.output import Output
from worklets.stdiorelay.process import Process
from worklets.stdiorelay.readers import Readers

_SILENCE = 2.0  # seconds without output after the process's end, when somebody else still holds its stdout
_BACKOFF, _LONGEST = 0.5, 30.0
_STEADY = 60.0  # a process that lived this long starts again with the shortest pause


class Supervisor:
    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        output: Output,
        readers: Readers,
        *,
        restart: bool,
        grace: float,
        linger: float,
        say: Callable[[str], None],
        rng: random.Random | None = None,
    ) -> None:
        """`grace`: seconds between SIGTERM and SIGKILL. `linger`: so long a full journal waits for a reader."""
        self._command, self._env, self._output, self._readers = list(command), env, output, readers
        self._restart, self._grace, self._linger, self._say = restart, grace, linger, say
        self._rng = rng or random.Random()
        self._process: Process | None = None
        self._ready, self._stopped = asyncio.Event(), asyncio.Event()
        self.state: Literal["running", "waiting", "exited"] = "waiting"
        self.code = 0  # of the last end
        self.starts = 0

    async def start(self) -> None:
        """Raises CommandFailed."""
        self._process = await Process.start(self._command, self._env)
        self.state, self.starts = "running", self.starts + 1
        self._ready.set()
        if self._stopped.is_set():
            self._process.signal(signal.SIGTERM)

    async def run(self) -> int:
        """After `start`. Returns the last exit code once the process has ended for good and that was told."""
        short_lives = 0
        while True:
            began = time.monotonic()
            self.code, stderr = await self._life()
            short_lives = 1 if time.monotonic() - began > _STEADY else short_lives + 1
            again = self._pause(short_lives)
            if not await self._told(again, stderr):
                return self.code
            try:
                await self.start()
            except CommandFailed as error:
                self._say(str(error))
            else:
                await self._output.tell("started")

    async def _told(self, again: float | None, stderr: str) -> bool:
        """Tells the end, then waits for the next start. False when there will be none."""
        self.state = "exited" if again is None else "waiting"
        await self._output.tell("exit", code=self.code, stderr=stderr, again=again)
        if again is None:
            return False
        self._say(f"the process ended with {self.code} and starts again in {again:.1f} s")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(again):
                await self._stopped.wait()
        if self._stopped.is_set():
            return await self._told(None, stderr)
        return True

    async def write(self, line: bytes) -> Process:
        """Hands a line to the process, waiting while there is none. Whoever gets the process can await its `drain`."""
        await self._ready.wait()
        assert self._process is not None
        self._process.write(line)
        return self._process

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ends the process politely, after its grace by force; at the second call at once."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL if self._stopped.is_set() else signal.SIGTERM)
        if not self._stopped.is_set():
            asyncio.get_running_loop().call_later(self._grace, self.kill)
        self._stopped.set()

    def kill(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def _life(self) -> tuple[int, str]:
        """From the start to the end: the exit code, and the end of stderr."""
        process = self._process
        if process is None:
            return 127, f"{self._command[0]} could not be started again."
        reading = asyncio.create_task(self._read(process))
        try:
            code = await process.ended()
            self._ready.clear()
            self._process = None
            await self._read_rest(reading)
            return code, await process.close()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, process: Process) -> None:
        async for lines in process.lines():
            await self._output.add(lines)

    async def _read_rest(self, reading: asyncio.Task[None]) -> None:
        """Until the end of the stream, or of what comes; a full journal waits for its readers, if there are any."""
        since = time.monotonic()
        seen = self._output.last
        while not reading.done():
            await asyncio.wait([reading], timeout=_SILENCE / 10)
            patient = self._output.held_back and self._readers.known and not self.stopped
            if self._output.last != seen or patient:
                seen, since = self._output.last, time.monotonic()
            elif time.monotonic() - since > (self._linger if self._output.held_back else _SILENCE):
                if self._output.held_back:
                    self._say("nobody reads: what the process wrote last is lost")
                return
        reading.result()

    def _pause(self, short_lives: int) -> float | None:
        if not self._restart or self.stopped:
            return None
        return min(_LONGEST, _BACKOFF * float(1 << min(short_lives - 1, 10))) * self._rng.uniform(0.5, 1)
