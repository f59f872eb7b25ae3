"""The gateway's process as the bot starts it: found again, started where there is none, killed where it hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from worklets.errors import WorkletError
from worklets.gatewaychannel import Channel
from worklets.gatewaycontrol import LOG, control_dir, holder

_START_SECONDS = 30.0  # a Python process on a busy machine

#: Detached, as `worklets.local` does it: nobody's child, so it needs no reaping and outlives us. Prints its id.
_LAUNCH = 'log=$1 && shift && { "$@" </dev/null >>"$log" 2>&1 & } && echo $!'
#: What the process gets of our environment: how to run, how to reach the model. No credential is among it.
_ENVIRONMENT = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ")
_ENVIRONMENT_PREFIXES, _ENVIRONMENT_SUFFIXES = ("LC_", "PYTHON"), ("_PROXY",)

log = structlog.get_logger(__name__)


class GatewayUnstartable(WorkletError):
    """The model gateway's process does not start."""


class GatewayLauncher:
    """`environ` is what the process may inherit from, `command` its argv without the share directory.

    `patience`: seconds that an answer of it may take; `hear` is given what it says unasked.
    """

    def __init__(
        self,
        share_dir: Path,
        environ: Mapping[str, str],
        command: Sequence[str],
        patience: float,
        hear: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._share_dir, self._environ, self._command = share_dir, environ, tuple(command)
        self._patience, self._hear = patience, hear

    async def reach(self) -> Channel | None:
        """A channel to the process that is there; None: there is none, or it does not listen."""
        with suppress(OSError):
            return await Channel.open(control_dir(self._share_dir), self._patience, self._hear)
        return None

    async def launch(self) -> Channel:
        """Starts one, unless another bot was faster, and connects. Raises GatewayUnstartable."""
        pid = await self._spawn()
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if channel := await self.reach():
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
            env=allowed(self._environ),
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

    async def kill(self) -> None:
        """Ends one that does not answer: it is of no use, and holds the lock. Raises TimeoutError."""
        pid = holder(self._share_dir)
        if pid is None:
            return
        log.warning("the model gateway's process does not answer and is killed", pid=pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(_START_SECONDS):
            while _runs(pid):  # noqa: ASYNC110 - it is nobody's child, so nobody tells us
                await asyncio.sleep(0.02)


def allowed(environ: Mapping[str, str]) -> dict[str, str]:
    """What the process gets of this environment."""
    passed = {
        name: value
        for name, value in environ.items()
        if name in _ENVIRONMENT
        or name.startswith(_ENVIRONMENT_PREFIXES)
        or name.upper().endswith(_ENVIRONMENT_SUFFIXES)
    }
    return {**passed, "NETRC": os.devnull}  # else aiohttp adds the logins of ~/.netrc to what worklets ask for


def _runs(pid: int) -> bool:
    """Not so when it has ended and nobody reaped it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
