"""Sidecars as containers: sealed like a worklet, and with less.

No volume, no network, a root that is read-only, and of the host one directory with sockets, read-only too: so there is
no place on a disk to fill. What they may write lies in their memory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from worklets.dockerconfig import SPEC
from worklets.rundir import AGENT_UID
from worklets.runtime import SIDECAR, WorkletSpec

if TYPE_CHECKING:
    from docker import DockerClient

    from worklets.docker import DockerRuntime
    from worklets.sidecars import Sidecar

_COMMAND = ("/usr/bin/python3", "-I", "/opt/relay/sidecar.py", "/run/sidecar", "--sealed")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one sidecar: `memory` in bytes, `cpus` in processors, processes and threads."""

    memory: int = 512 << 20
    cpus: float = 1.0
    pids: int = 128


class DockerSidecars:
    """See `worklets.sidecars.Place`. What holds for the runtime's worklets holds for these, and `bounds`."""

    def __init__(self, runtime: DockerRuntime, bounds: Bounds) -> None:
        self._engine, self._containers = runtime.engine, runtime.containers
        self._worklets, self._bounds = runtime.config, bounds

    async def start(self, sidecar: Sidecar) -> None:
        await self._engine.call("start", lambda client: self._start(client, sidecar), timeout=120)

    async def end(self, worklet: str) -> None:
        def named(client: DockerClient) -> list[str]:
            rows = self._containers.rows(client)
            return [row["Id"] for name, row in rows if name.startswith(worklet + SIDECAR)]

        for id_ in await self._engine.call("query", named):
            await self._engine.call("remove", partial(self._containers.remove, container=id_), timeout=120)

    async def running(self) -> dict[str, list[float]]:
        rows = await self._engine.call("query", self._containers.rows)
        found: dict[str, list[float]] = {}
        for name, row in rows:
            worklet, is_one, _ = name.partition(SIDECAR)
            if is_one:
                found.setdefault(worklet, []).append(time.time() - row["Created"])
        return found

    def _start(self, client: DockerClient, sidecar: Sidecar) -> None:
        name = f"{sidecar.worklet}{SIDECAR}{sidecar.server}"
        config = self._config(client, sidecar)
        if (found := self._containers.find(client, name)) is not None:
            if found["State"]["Running"] and found["Config"]["Labels"].get(SPEC) == config["Labels"][SPEC]:
                return
            self._containers.remove(client, self._containers.full_name(name))
        image = f"The image of the sidecar {sidecar.server}"
        self._containers.start(client, name, config, what="Its sidecar", image=image)

    def _config(self, client: DockerClient, sidecar: Sidecar) -> dict[str, Any]:
        bounds = self._bounds
        spec = WorkletSpec(
            sidecar.worklet, (), "", image=sidecar.image, memory=bounds.memory, cpus=bounds.cpus, pids=bounds.pids
        )
        config = self._worklets.of(client, spec, sidecar.directory)
        source = {"Type": "bind", "Source": str(sidecar.directory), "Target": "/run/sidecar", "ReadOnly": True}
        config["HostConfig"]["Init"] = True  # servers start programs, and leave them: here no relay collects those
        config["HostConfig"]["Mounts"] = [source]
        own = f"uid={AGENT_UID},gid={AGENT_UID},mode=700,exec,nosuid,nodev"
        config["HostConfig"]["Tmpfs"]["/work"] = f"size={bounds.memory // 4},{own}"
        config |= {
            "Cmd": [*_COMMAND, *(["--egress"] if sidecar.egress else [])],
            "Hostname": "sidecar",
            "WorkingDir": "/",
        }
        config["Labels"][SPEC] += "-egress" if sidecar.egress else ""
        return config
