"""Worklets as containers on an engine of another machine.

They are as sealed as on this one: no network, and sockets in a run directory. That is on the engine's machine, and the
gate there (worklets/gate) carries the sockets' streams and the directory's files.
"""

from __future__ import annotations

import asyncio
import builtins
import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from worklets import gateaddress, rundir
from worklets.docker import DockerRuntime
from worklets.engine import EngineAt
from worklets.errors import WorkletStartFailed
from worklets.files import Outgoing
from worklets.gateclient import GateAway, GateFiles, GateRefused
from worklets.gatelink import Links
from worklets.relay.journal import MOST_READ
from worklets.remotegate import RemoteGate
from worklets.remoteoutgoing import RemoteOutgoing
from worklets.runtime import Worklet, WorkletSpec

if TYPE_CHECKING:
    from docker import DockerClient

log = structlog.get_logger(__name__)

_LARGEST = 72 << 20  # bytes of one file of a journal: 4 MiB, or one line
_REMAINS = ("spec.json", "kv.token", "relay.sock", "inside.sock", "gateway.sock", "proxy.sock")


@dataclass(frozen=True, slots=True)
class EngineState:
    """`name` of its machine, `api` the version that it speaks, its `clock`, `host` as in DOCKER_HOST."""

    name: str
    api: str
    clock: datetime
    host: str


class RemoteRuntime(DockerRuntime):
    """See `DockerRuntime`. `gate_host`, `gate_port`: where Flow reaches the gate; `listen`: what it is published at."""

    def __init__(self, *, host: EngineAt, gate_host: str, gate_port: int, listen: tuple[str, int], **rest: Any) -> None:
        super().__init__(host=host, **rest)
        self._gate = RemoteGate(
            self.share_dir, self.engine, self.containers.instance, self.config.image,
            host=gate_host, port=gate_port, listen=listen,
        )  # fmt: skip
        self._files = GateFiles(self._gate.way)
        self._links = Links(self._gate.way, self._gate.look)
        self._root = Path("/")

    async def check(self) -> None:
        await super().check()
        await self._gate.ready(replace=False)  # `flow doctor` asks too, while a bot works by way of it

    async def state(self) -> EngineState:
        """Raises RuntimeUnavailable."""

        def state(client: DockerClient) -> EngineState:
            info = client.info()
            # Nine digits of a second, of which Python takes six.
            moment = re.sub(r"(\.\d{6})\d+", r"\1", str(info["SystemTime"]))
            clock = datetime.fromisoformat(moment)
            return EngineState(str(info["Name"]), str(client.api.api_version), clock, self.engine.host)

        return await self.engine.call("probe", state, timeout=15)

    async def start(self, spec: WorkletSpec) -> Worklet:
        self._root = await self._gate.ready()
        worklet = await super().start(replace(spec, mirror=None))
        await self._serve(worklet, starting=True)
        return worklet

    def deliver(self, name: str, told: dict[str, Any]) -> Path:
        self._files.prepare(name, json.dumps(told).encode())
        return self._root / name

    async def find(self, name: str) -> Worklet | None:
        found = await super().find(name)
        if found is not None and found.running:
            await self._gate.kept()
            await self._serve(found)
        return found

    async def list(self) -> builtins.list[Worklet]:
        found = await super().list()
        for worklet in found:
            if worklet.running:
                await self._serve(worklet)
        return found

    async def reaches(self) -> bool:
        return await self._gate.way.holds()

    async def remove(self, name: str, grace: float = 5.0) -> str | None:
        ended = await super().remove(name, grace)
        await self._links.drop(name)
        if gateaddress.known(self.share_dir) is None:
            return ended  # no worklet was started there yet
        try:
            await asyncio.to_thread(self._files.clear, name, *[[one] for one in _REMAINS])
        except GateRefused:
            pass  # it never had a directory
        except GateAway as error:
            log.warning("what a worklet left could not be removed", worklet=name, error=str(error))
        return ended

    async def remove_volume(self, name: str) -> None:
        await super().remove_volume(name)
        await self._gate.kept()
        await asyncio.to_thread(self._files.remove, name)

    def mirror_at(self, objects: Path) -> str | None:  # noqa: ARG002 - no directory of this machine is there
        return None

    def outgoing(self, name: str) -> Outgoing:
        return RemoteOutgoing(self._files, name)

    async def left(self, name: str, file: str) -> bool:
        try:
            return await asyncio.to_thread(self._files.stands, name, [file])
        except GateAway:
            return False

    async def gather(self, name: str) -> None:
        await self._gate.kept()
        try:
            await asyncio.to_thread(self._gather, name)
        except GateRefused as error:
            if not error.missing:
                raise

    def _gather(self, name: str) -> None:
        """Brings a journal here and takes it away there, in this order: what is here twice is read once."""
        run = self.run_dir(name)
        names, left = [one for one in self._files.names(name, ["journal"]) if one.endswith(".log")], MOST_READ
        if not names:
            return
        rundir.prepare(self.share_dir, name, None)
        rundir.put_journal_aside(run)
        for earlier in rundir.journals(run):
            if any((earlier / one).exists() for one in names):  # brought here before, and not taken away there
                rundir.clear(earlier)
        (run / "journal").mkdir()
        for one in names:
            content = self._files.get(name, ["journal", one], min(_LARGEST, left))
            (run / "journal" / one).write_bytes(content)
            left -= len(content)
        self._files.clear(name, ["journal"])

    async def places(self) -> builtins.list[Path]:
        return []

    async def close(self) -> None:
        await self._links.aclose()
        await self._gate.aclose()
        await super().close()

    async def _serve(self, worklet: Worklet, *, starting: bool = False) -> None:
        if not starting and self._links.stands(worklet.name):
            return
        try:
            await asyncio.to_thread(rundir.prepare, self.share_dir, worklet.name, None)
            await self._links.serve(worklet.name, worklet.run_dir, starting=starting)
        except OSError as error:
            raise WorkletStartFailed(
                f"Flow cannot listen in {worklet.run_dir}: {error.strerror or error}.",
                suggestion="Check the rights of FLOW_SHARE_DIR, then write again.",
            ) from error
