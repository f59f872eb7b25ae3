"""Worklets as containers on a Docker engine of this machine.

A container is sealed: no network, a read-only root, no capabilities, user 1000; what it reaches are the
sockets in its run directory (see worklets/rundir.py). That directory is bind-mounted, so the engine must see
`share_dir` under the same path as Flow does.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklets import dockerworkspace, rundir
from worklets.dockerconfig import MIRROR, ContainerConfig
from worklets.dockercontainers import Containers
from worklets.dockerhelpers import HelperContainers
from worklets.dockerweaknesses import admitted, of_filter
from worklets.dockerworkspace import WORKSPACE
from worklets.engine import Engine, EngineAt
from worklets.enginelimits import NetworkUse, network_use
from worklets.enginestreams import EngineEvents, Stream
from worklets.errors import WorkletError
from worklets.files import OUTGOING, Outgoing
from worklets.identity import Identity
from worklets.limits import Limits, least_memory, update
from worklets.news import Tell
from worklets.room import RESERVE
from worklets.rundir import AGENT_UID
from worklets.runtime import SIDECAR, Worklet, WorkletSpec
from worklets.volumes import Mode, Volumes

if TYPE_CHECKING:
    from docker import DockerClient

RELAY_COMMAND = ("/usr/bin/python3", "-I", "/opt/relay/relay.py", "/run/worklet")
_SENDER = ("/usr/bin/python3", "-IS", "/opt/flow/flowtools.py")
_STARTER = ("/usr/bin/python3", "-IS", "/opt/flow/startup.py")
_MEBIBYTE = 1024 * 1024
_FOLLOW_SECONDS = 86_400.0  # that a log is followed at most


class DockerRuntime:
    """See `worklets.runtime.Runtime`. `memory` in bytes, `cpus` in processors, `host` as in DOCKER_HOST.

    `disk`: bytes that its volume and run directory may take; 0: any number. `disk_image`: whether the kernel holds new
    volumes to that ("auto": where that can be done). `disk_reserve`: bytes of the share directory's disk that these
    leave free. `open_files` of each process. `log_size`: bytes of what the relay and others print that the engine
    keeps.
    `oci_runtime` is one that the engine knows, such as runsc; None: its default.
    """

    kind = "docker"
    isolated = True

    def __init__(
        self,
        *,
        share_dir: Path,
        identity: Identity,
        image: str,
        memory: int,
        cpus: float,
        pids: int = 512,
        disk: int = 0,
        disk_image: Mode = "off",
        disk_reserve: int = RESERVE,
        open_files: int = 16384,
        log_size: int = 10 * _MEBIBYTE,
        oci_runtime: str | None = None,
        host: EngineAt | str | None = None,
        command: tuple[str, ...] = RELAY_COMMAND,
    ) -> None:
        self.share_dir, self._disk = share_dir.resolve(), disk
        self.engine = Engine(host)
        self.containers = Containers(identity.instance)
        self.config = ContainerConfig(
            self.containers, image=image, memory=memory, cpus=cpus, pids=pids,
            open_files=open_files, log_size=log_size, oci_runtime=oci_runtime, command=command,
        )  # fmt: skip
        self._volumes = Volumes(
            self.share_dir, self.containers.prefix, self.containers.labels, limit=disk, mode=disk_image,
            engine_host=self.engine.host, reserve=disk_reserve,
        )  # fmt: skip
        self._helpers = HelperContainers(self.containers, self._volumes, self.share_dir, image, most_bytes=disk)

    def run_dir(self, name: str) -> Path:
        """The worklet's, on this machine. Raises WorkletStartFailed for a name that is none."""
        return rundir.worklet_dir(self.share_dir, name) / "run"

    async def check(self) -> None:
        def check(client: DockerClient) -> None:
            self.config.image_id(client)
            self.config.require_runtime(client)
            # Engines before 20.10.27 can lock up so that all but this goes on answering (moby/libnetwork#2649).
            client.api.networks(names=["none"])

        await self.engine.call("probe", check, timeout=15)

    async def weaknesses(self) -> builtins.list[str]:
        """What the engine or its kernel does not hold worklets to, though it is told to: beginnings of sentences.

        Where the image is there, a container that is made like a worklet tries the relay's filter: a second or two.
        Raises RuntimeUnavailable.
        """
        found = await self.engine.call("query", lambda client: admitted(client.info()), timeout=15)
        return found + await self.engine.call("start", lambda client: of_filter(client, self.config), timeout=60)

    async def disk_obstacle(self) -> str | None:
        """Why the kernel does not hold new worklets to their disk, as the end of a sentence; None: it does.

        Raises RuntimeUnavailable.
        """
        return await self.engine.call("query", self._volumes.obstacle, timeout=15)

    async def fingerprint(self) -> str:
        return await self.engine.call("query", self.config.fingerprint, timeout=15)

    async def start(self, spec: WorkletSpec) -> Worklet:
        run_dir = await self.engine.run(lambda: rundir.prepare(self.share_dir, spec.name, AGENT_UID))

        def start(client: DockerClient) -> str:
            self.containers.discard_stopped(client, spec.name)
            has_size = self._volumes.make(client, spec.name)
            seen_at = self.deliver(spec.name, self._told(spec, has_size=has_size))
            with self._volumes.mountable(spec.name) if has_size else contextlib.nullcontext():
                config = self.config.of(client, spec, seen_at, has_size=has_size)
                image = f"The worklet image {config['Image']}"
                return self.containers.start(client, spec.name, config, what="The worklet", image=image)

        container = await self.engine.call("start", start, timeout=120, last=spec.spare)
        return Worklet(spec.name, container, run_dir, running=True)

    def deliver(self, name: str, told: dict[str, Any]) -> Path:
        """Puts what the relay is told where it looks for it. Returns where the engine finds the run directory.

        In the engine's threads. Raises WorkletError.
        """
        rundir.write_spec(self.run_dir(name), told, agent=AGENT_UID)
        return self.run_dir(name)

    def _told(self, spec: WorkletSpec, *, has_size: bool) -> dict[str, Any]:
        places: dict[str, Any] = {"paths": ["/work", "/run/worklet"]}
        if has_size:
            places = {"paths": ["/run/worklet"], "volumes": ["/work"], "floor": self._volumes.floor}
        disk = {**places, "limit": self._disk} if self._disk else None
        return rundir.told(spec, cwd=WORKSPACE, home="/work/home", env=dict(spec.env), disk=disk, sealed=True)

    @property
    def least_memory(self) -> int:
        return least_memory(self.config.memory)

    async def resize(self, name: str, *, memory: int | None, cpus: float | None, pids: int | None) -> bool:
        if memory is not None and memory < self.least_memory:
            return False

        def resize(client: DockerClient) -> bool:
            limits = Limits.of(self.config.limits(client), memory, cpus, pids)
            return update(client, self.containers.full_name(name), limits)

        return await self.engine.call("query", resize)

    async def find(self, name: str) -> Worklet | None:
        def find(client: DockerClient) -> Worklet | None:
            found = self.containers.find(client, name)
            return self._worklet(name, found["Id"], found["State"]["Running"]) if found is not None else None

        return await self.engine.call("query", find)

    async def list(self) -> list[Worklet]:
        def list_all(client: DockerClient) -> list[Worklet]:
            named = self.containers.rows(client)
            return [self._worklet(name, row["Id"], row["State"] == "running") for name, row in named if "." not in name]

        return await self.engine.call("query", list_all)

    def _worklet(self, name: str, container: str, running: bool) -> Worklet:
        return Worklet(name, container, self.run_dir(name), running)

    async def reaches(self) -> bool:
        return True

    async def remove(self, name: str, grace: float = 5.0) -> str | None:
        ended = await self.engine.call(
            "stop", lambda client: self.containers.stop(client, name, grace), timeout=grace + 60
        )
        container = self.containers.full_name(name)
        await self.engine.call("remove", lambda client: self.containers.remove(client, container), timeout=120)
        return ended

    async def put(self, name: str, source: Path) -> None:
        """Into a new volume, which counts when it is full; one that stands there goes."""
        await self.engine.call("copy", lambda client: self._helpers.fill(client, name, source), timeout=600)

    def mirror_at(self, objects: Path) -> str | None:  # noqa: ARG002 - the same in all of them
        return MIRROR

    async def taken(self, name: str, paths: Sequence[str]) -> builtins.set[str]:
        def taken(client: DockerClient) -> set[str]:
            self.containers.require_running(client, name)
            container = self.containers.full_name(name)
            return {path for path in paths if dockerworkspace.stands(client, container, path)}

        return await self.engine.call("query", taken)

    async def place(self, name: str, files: Mapping[str, Path]) -> None:
        def place(client: DockerClient) -> None:
            self.containers.require_running(client, name)
            dockerworkspace.place(client, self.containers.full_name(name), files, self.share_dir)

        try:
            await self.engine.call("copy", place, timeout=300)
        except OSError as e:
            raise WorkletError(
                f"The files could not be put into the workspace: {e.strerror or e}.", suggestion="Check the disk."
            ) from e

    def sender(self, name: str, limit: int, *, previews: bool = False) -> tuple[str, ...]:  # noqa: ARG002 - the same in all
        return (*_SENDER, f"/run/worklet/{OUTGOING}", str(limit), *(["--previews"] if previews else []))

    def starter(self) -> tuple[str, ...]:
        return _STARTER

    def outgoing(self, name: str) -> Outgoing:
        return Outgoing(self.run_dir(name))

    async def left(self, name: str, file: str) -> bool:
        return await asyncio.to_thread(os.path.lexists, self.run_dir(name) / file)

    async def gather(self, name: str) -> None:
        """It is there."""

    async def copy(self, source: str, name: str) -> None:
        if not await self.has_volume(name):
            if not await self.has_volume(source):
                raise WorkletError("The workspace could not be copied: it is gone.")
            await self.engine.call("copy", lambda client: self._helpers.copy(client, source, name), timeout=600)

    async def volumes(self) -> builtins.list[str]:
        def volumes(client: DockerClient) -> builtins.list[str]:
            answer = client.api.volumes(filters={"label": self.containers.label})
            return sorted(v["Name"].removeprefix(self.containers.prefix) for v in answer["Volumes"] or [])

        return await self.engine.call("query", volumes)

    async def has_volume(self, name: str) -> bool:
        from docker.errors import NotFound

        def has(client: DockerClient) -> bool:
            with contextlib.suppress(NotFound):
                found = bool(client.api.inspect_volume(self.containers.full_name(name)))
                return found and not rundir.is_half_filled(self.share_dir, name)
            return False

        return await self.engine.call("query", has)

    async def remove_volume(self, name: str) -> None:
        def remove(client: DockerClient) -> None:
            self._helpers.discard_volume(client, name)  # before the directory, which tells how far it was filled
            try:
                rundir.remove(self.share_dir, name)
            except PermissionError:
                self._helpers.empty_run_dir(client, name)
                rundir.remove(self.share_dir, name)

        await self.engine.call("remove", remove, timeout=120)

    async def sweep(self, older: float) -> builtins.list[str]:
        before = time.time() - older
        rows = await self.engine.call("query", self.containers.rows)
        helpers = [(name, row) for name, row in rows if "." in name and SIDECAR not in name]
        found = [self.containers.full_name(name) for name, row in helpers if row["Created"] < before]
        for name in found:
            await self.engine.call("remove", partial(self.containers.remove, container=name), timeout=120)
        return found

    async def logs(self, name: str, lines: int = 100) -> str:
        from docker.errors import NotFound

        def logs(client: DockerClient) -> str:
            with contextlib.suppress(NotFound):
                return str(client.api.logs(self.containers.full_name(name), tail=lines).decode(errors="replace"))
            return ""

        return await self.engine.call("query", logs)

    async def follow(self, name: str, lines: int, hand: Callable[[bytes], None]) -> None:
        from docker.errors import NotFound

        def log(client: DockerClient) -> Any:
            try:
                return client.api.logs(self.containers.full_name(name), stream=True, follow=True, tail=lines)
            except NotFound:
                return ()

        # A log may be silent for longer than any other answer.
        engine = Engine(self.engine.at, timeout=_FOLLOW_SECONDS)
        try:
            await Stream(engine).read(log, hand)
        finally:
            await engine.close()

    async def network_use(self) -> NetworkUse:
        """How near the engine is to what its networks hold. Raises RuntimeUnavailable."""
        return await self.engine.call(
            "probe",
            lambda client: network_use(client.info(), client.api.networks(), client.api.containers()),
            timeout=15,
        )

    async def watch(self, tell: Tell) -> None:
        await EngineEvents(self.engine, self.containers.label, self.containers.worklet_of).run(tell)

    async def places(self) -> builtins.list[Path]:
        if not self.engine.host.startswith("unix://"):
            return []
        info = await self.engine.call("query", lambda client: client.info(), timeout=15)
        return [Path(info["DockerRootDir"])]

    async def close(self) -> None:
        await self.engine.close()
