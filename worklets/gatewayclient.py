"""The bot's side of the gateway's process: starts it, finds it again, tells it which doors to open.

Whoever holds the `GatewayClient` opens and closes doors as with a `ModelGateway`; that the process behind it was
killed and started again shows only in the log. Where no process can be started, the gateway runs in this one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from worklets.errors import WorkletError
from worklets.gateway import Credential, ModelGateway
from worklets.gatewaychannel import Channel, GatewayHung, GatewayLost
from worklets.gatewaycontrol import LOG, PROGRAM, control_dir, holder, version
from worklets.identity import Identity

_START_SECONDS = 30.0  # a Python process on a busy machine
_BEAT_SECONDS = 20.0
_ANSWER_SECONDS = 30.0  # far longer than any answer takes on a busy machine
_STATE_SECONDS = 2.0  # what whoever asks for the state waits for a start
_STEADY_SECONDS = 30.0  # a process that lives shorter than this has failed
_FAILURES = 5  # in a row, and no other process is started

#: Detached, as `worklets.local` does it: nobody's child, so it needs no reaping and outlives us. Prints its id.
_LAUNCH = 'log=$1 && shift && { "$@" </dev/null >>"$log" 2>&1 & } && echo $!'
#: What the process gets of our environment: how to run, how to reach the model. No credential is among it.
_ENVIRONMENT = ("HOME", "LANG", "LD_LIBRARY_PATH", "NETRC", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ")
_ENVIRONMENT_PREFIXES, _ENVIRONMENT_SUFFIXES = ("LC_", "PYTHON"), ("_PROXY",)

log = structlog.get_logger(__name__)


class GatewayUnstartable(WorkletError):
    """The model gateway's process does not start."""


class GatewayClient:
    """One per program. `start` begins to look for the process, or the first `open` does; `aclose` lets go of it.

    `environ` is what the process may inherit from, `command` its argv without the share directory; it is asked
    every `beat` seconds whether it still answers, and killed when it does not within `patience` seconds.
    """

    def __init__(
        self,
        share_dir: Path,
        identity: Identity,
        upstream: str,
        credential: Credential | None,
        *,
        environ: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", PROGRAM),
        beat: float = _BEAT_SECONDS,
        patience: float = _ANSWER_SECONDS,
    ) -> None:
        self._share_dir, self._identity = share_dir, identity
        self._upstream, self._credential = upstream, credential or Credential()
        self._environ, self._command, self._beat = environ or {}, tuple(command), beat
        self._patience = patience
        self._doors: dict[str, Path] = {}
        self._met = False  # a process of our version, or one that we may not send away
        self._channel: Channel | None = None
        self._inner: ModelGateway | None = None  # where no process can be started
        self._settled = asyncio.Event()  # there is a channel, or an inner gateway
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Returns at once. Idempotent."""
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())

    async def open(self, name: str, run_dir: Path) -> None:
        """Listens at `run_dir/gateway.sock` for the worklet `name`; does nothing where it does so. Raises OSError."""
        self._doors[name] = run_dir
        try:
            await self._do(lambda inner: inner.open(name, run_dir), "open", name=name, run_dir=str(run_dir))
        except OSError:
            self._doors.pop(name, None)
            raise

    async def close(self, name: str) -> None:
        """Ends the worklet's requests and its socket. Idempotent."""
        self._doors.pop(name, None)
        if self._keeping is None and holder(self._share_dir) is None:
            return  # where no process is, no door is
        await self._do(lambda inner: inner.close(name), "close", name=name)
        self._doors.pop(name, None)  # it may have been among those that the process had

    async def aclose(self) -> None:
        """The process goes on, without us; a gateway in this process ends."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._channel is not None:
            await self._channel.aclose()
        if self._inner is not None:
            await self._inner.aclose()

    async def state(self) -> dict[str, Any]:
        """{"state": "ok", "pid", "doors", "running"}: its process and what is open there; or {"state": "starting"}.

        Raises GatewayLost.
        """
        try:
            async with asyncio.timeout(_STATE_SECONDS):
                await self._ready()
        except TimeoutError:
            return {"state": "starting"}
        if self._inner is not None:
            return {
                "state": "ok",
                "pid": os.getpid(),
                "doors": len(self._inner.doors()),
                "running": self._inner.running,
            }
        assert self._channel is not None
        told = await self._channel.ask("doors")
        return {"state": "ok", "pid": told["pid"], "doors": len(told["doors"]), "running": told["running"]}

    async def _do(self, inwards: Callable[[ModelGateway], Awaitable[None]], do: str, **arguments: Any) -> None:
        """Until a process has done it: each may be repeated."""
        while True:
            await self._ready()
            if self._inner is not None:
                await inwards(self._inner)
                return
            channel = self._channel
            assert channel is not None
            try:
                await channel.ask(do, **arguments)
            except GatewayLost as error:
                if self._channel is channel and self._inner is None:
                    self._settled.clear()  # `_keep` is about to see it too
                if isinstance(error, GatewayHung):
                    await channel.aclose()  # else a process that answers again looks to `_keep` as if nothing had been
            else:
                return

    async def _ready(self) -> None:
        self.start()
        await self._settled.wait()

    # One task keeps the connection

    async def _keep(self) -> None:
        failures = 0
        try:
            while failures < _FAILURES:
                began = time.monotonic()
                self._channel = await self._connect()
                self._settled.set()
                await self._channel.last(self._beat)
                self._settled.clear()
                await self._channel.aclose()
                failures = failures + 1 if time.monotonic() - began < _STEADY_SECONDS else 0
                log.warning("the model gateway's process is lost and is started again", failures=failures)
            raise GatewayUnstartable(f"The model gateway's process was lost {failures} times in a row.")
        except GatewayUnstartable as error:
            await self._fall_back(str(error))
        except Exception as error:  # whatever it was, worklets need their doors
            log.exception("the connection to the model gateway's process failed")
            await self._fall_back(type(error).__name__)

    async def _fall_back(self, reason: str) -> None:
        log.warning("the model gateway runs in this process: a restart cuts running answers off", reason=reason)
        inner = ModelGateway(self._upstream, self._credential, self._identity)
        for name, run_dir in self._doors.items():
            try:
                await inner.open(name, run_dir)
            except OSError as error:
                log.warning("a worklet's door cannot be opened", worklet=name, error=str(error))
        self._inner = inner
        self._settled.set()

    async def _connect(self) -> Channel:
        """A channel to a process that knows the credential and has our doors open."""
        lost: GatewayLost | None = None
        for _ in range(3):
            channel = await self._reach() or await self._launch()
            try:
                return await self._greet(channel)
            except GatewayLost as error:
                lost = error
                await channel.aclose()
                if isinstance(error, GatewayHung):
                    await self._kill()
        raise GatewayUnstartable(f"The model gateway's process does not answer: {lost}.")

    async def _greet(self, channel: Channel) -> Channel:
        own = version()
        told = await self._hello(channel, None if self._met else own)
        if not self._met:
            self._doors = {name: Path(run_dir) for name, run_dir in told["doors"].items()} | self._doors
            if told["version"] != own:
                log.info("the model gateway's process is of another version and hands over", pid=told["pid"])
                await channel.ask("shutdown")
                await channel.aclose()
                channel = await self._launch()
                await self._hello(channel, None)
            self._met = True
        for name, run_dir in list(self._doors.items()):
            try:
                await channel.ask("open", name=name, run_dir=str(run_dir))
            except GatewayLost:
                raise
            except OSError as error:
                log.warning("a worklet's door cannot be opened", worklet=name, error=str(error))
        return channel

    async def _hello(self, channel: Channel, wanted: str | None) -> dict[str, Any]:
        return await channel.ask(
            "hello",
            version=wanted,
            base_url=self._upstream,
            api_key=self._credential.api_key,
            oauth_token=self._credential.oauth_token,
        )

    async def _reach(self) -> Channel | None:
        with suppress(OSError):
            return await Channel.open(control_dir(self._share_dir), self._patience)
        return None

    # The process

    async def _launch(self) -> Channel:
        """Starts one, unless another bot was faster, and connects. Raises GatewayUnstartable."""
        pid = await self._spawn()
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if channel := await self._reach():
                return channel
            if not _runs(pid) and holder(self._share_dir) is None:
                raise GatewayUnstartable(await asyncio.to_thread(self._last_words))
            await asyncio.sleep(0.02)
        raise GatewayUnstartable(f"The model gateway's process did not listen within {_START_SECONDS:.0f} seconds.")

    async def _spawn(self) -> int:
        """The id of the new process."""
        try:
            done = await asyncio.to_thread(self._run_shell)
        except OSError as error:
            raise GatewayUnstartable(f"The model gateway's process does not start: {error}.") from error
        if done.returncode != 0:
            raise GatewayUnstartable(f"The model gateway's process does not start: {done.stderr.strip()}.")
        return int(done.stdout)

    def _run_shell(self) -> subprocess.CompletedProcess[str]:
        directory = control_dir(self._share_dir)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return subprocess.run(
            ["/bin/sh", "-c", _LAUNCH, "sh", str(directory / LOG), *self._command, str(self._share_dir.resolve())],
            cwd=Path(__file__).parents[1],
            env=_allowed(self._environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )

    def _last_words(self) -> str:
        try:
            lines = (control_dir(self._share_dir) / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return f"The model gateway's process ended at once: {lines[-1] if lines else 'it said nothing'}"

    async def _kill(self) -> None:
        """A process that does not answer is of no use, and holds the lock."""
        pid = holder(self._share_dir)
        if pid is None:
            return
        log.warning("the model gateway's process does not answer and is killed", pid=pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(_START_SECONDS):
            while _runs(pid):  # noqa: ASYNC110 - it is nobody's child, so nobody tells us
                await asyncio.sleep(0.02)


def _allowed(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if name in _ENVIRONMENT
        or name.startswith(_ENVIRONMENT_PREFIXES)
        or name.upper().endswith(_ENVIRONMENT_SUFFIXES)
    }


def _runs(pid: int) -> bool:
    """Not so when it has ended and nobody reaped it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
