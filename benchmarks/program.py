"""`flow serve` as a child process, between the Slack simulator and the scripted model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from simulator.model import ScriptedModel
from simulator.slack import SlackSimulator

ROOT = Path(__file__).parents[1]
_KEY = "sk-ant-benchmark"
_READY_SECONDS = 60.0


@dataclass(slots=True)
class World:
    """`ready_after`: seconds from the start of the process to its line that it is ready."""

    slack: SlackSimulator
    model: ScriptedModel
    share: Path
    env: dict[str, str]
    _process: asyncio.subprocess.Process | None = None
    ready_after: float = 0.0

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "the program was not started"
        return self._process

    async def start(self) -> None:
        """RuntimeError if it does not get ready."""
        self._process, self.ready_after = await _started(self.env, self.share.parent)

    async def end(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Its worklets work on."""
        if self._process is not None:
            await _ended(self._process, sig)

    def rss(self) -> int:
        """Resident memory of the program in KiB."""
        return self._kibibytes("status", "VmRSS")

    def pss(self) -> int:
        """Like `rss`, but pages shared with other processes count by their share."""
        return self._kibibytes("smaps_rollup", "Pss")

    def _kibibytes(self, file: str, field: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/{file}").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])

    def cpu(self) -> float:
        """Seconds of CPU that the program itself has used, its children left out."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def journal_lines(self) -> int:
        """Lines that all agents have said so far, as the relays' journals have them (`o <number> <line>`)."""
        files = self.share.glob("worklets/*/run/journal/*.log")
        return sum(line.startswith(b"o ") for file in files for line in file.read_bytes().splitlines())


@asynccontextmanager
async def running(runtime: str, **settings: str) -> AsyncIterator[World]:
    """The whole program, ready. Whatever worklets it started are gone at the end. RuntimeError if it does not start."""
    async with SlackSimulator(manifest=ROOT / "manifest.yml") as slack, ScriptedModel(api_key=_KEY) as model:
        with tempfile.TemporaryDirectory(prefix="flow-bench-") as home:
            share = Path(home) / "data"
            env = {
                "PATH": os.environ["PATH"],
                "HOME": home,
                "PYTHONUNBUFFERED": "1",
                "SLACK_APP_TOKEN": slack.app_token,
                "SLACK_BOT_TOKEN": slack.bot_token,
                "SLACK_API_URL": slack.api_url,
                "ANTHROPIC_API_KEY": _KEY,
                "ANTHROPIC_BASE_URL": model.url,
                "FLOW_SHARE_DIR": str(share),
                "FLOW_HTTP_PORT": "0",
                "FLOW_RUNTIME": runtime,
                "FLOW_GRACE": "1s",
                "FLOW_POOL_SIZE": "0",
                **settings,
            }
            world = World(slack, model, share, env)
            try:
                await world.start()
                try:
                    yield world
                finally:
                    await world.end()
            finally:
                await _remove_worklets(runtime, share)


async def _started(env: dict[str, str], cwd: Path) -> tuple[asyncio.subprocess.Process, float]:
    log = cwd / "log"
    began = time.perf_counter()
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bot", "serve", env={**env, "PYTHONPATH": str(ROOT)}, cwd=cwd,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    assert process.stdout
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READY_SECONDS):
            async for line in process.stdout:
                if b"Flow is ready" in line:
                    return process, time.perf_counter() - began
    await _ended(process, signal.SIGKILL)
    raise RuntimeError(f"flow serve did not start:\n{log.read_text(encoding='utf-8', errors='replace')}")


async def _ended(process: asyncio.subprocess.Process, sig: signal.Signals = signal.SIGTERM) -> None:
    if process.returncode is not None:
        return
    process.send_signal(sig)
    try:
        async with asyncio.timeout(30):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


async def _remove_worklets(runtime: str, share: Path) -> None:
    """All that this instance started, and its volumes."""
    if not (share / "instance.json").exists():
        return
    if runtime == "docker":
        instance = json.loads((share / "instance.json").read_text(encoding="utf-8"))["instance"]
        await asyncio.to_thread(_remove_labelled, f"label=flow.instance={instance}")
        return
    from worklets.identity import Identity
    from worklets.local import LocalRuntime

    local = LocalRuntime(share_dir=share, identity=Identity.load(share))
    for worklet in await local.list():
        await local.remove(worklet.name, grace=1)
    await local.close()


def _remove_labelled(label: str) -> None:
    for listing, removal in ((["ps", "-aq"], ["rm", "-f"]), (["volume", "ls", "-q"], ["volume", "rm", "-f"])):
        listed = subprocess.run(["docker", *listing, "--filter", label], capture_output=True, text=True, check=True)
        for name in listed.stdout.split():  # one at a time: Engine 20.10 can lock up on parallel removals
            subprocess.run(["docker", *removal, name], capture_output=True, timeout=60, check=False)
