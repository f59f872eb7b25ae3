"""How a worklet's container is configured: no network, a read-only root, no capabilities, user 1000, and limits.

Called in the engine's threads, with docker-py's client.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklets.dockercontainers import Containers
from worklets.errors import ImageMissing, WorkletStartFailed
from worklets.limits import Limits, shm_size, tmp_size
from worklets.rundir import AGENT_UID
from worklets.runtime import WorkletSpec

if TYPE_CHECKING:
    from docker import DockerClient

SPEC = "flow.spec"  # the label with a hash of what a container was made from
MIRROR = "/run/mirror"


@dataclass
class ContainerConfig:
    """Of all worklets of one runtime; what it takes is told at `worklets.docker.DockerRuntime`."""

    containers: Containers
    image: str
    memory: int
    cpus: float
    pids: int
    open_files: int
    log_size: int
    oci_runtime: str | None
    command: tuple[str, ...]
    _ncpu: int | None = field(default=None, init=False)

    def of(self, client: DockerClient, spec: WorkletSpec, run_dir: Path, *, has_size: bool = False) -> dict[str, Any]:
        """The whole container, for `POST /containers/create` (Docker Engine API).

        Nothing of the thread is in it but names: environment and token travel in spec.json. `run_dir` is where the
        engine finds it; `has_size`: its volume has one.
        """
        from docker.types import LogConfig, Mount, Ulimit

        limits = Limits.of(self.limits(client), spec.memory, spec.cpus, spec.pids)
        host = client.api.create_host_config(
            network_mode="none",
            read_only=True,
            # tmpfs counts as the container's memory, so it stays well below the limit. Programs may run from /tmp
            # (Docker's default says noexec): builds do that, and the workspace is executable anyway.
            tmpfs={
                "/tmp": f"size={tmp_size(limits.memory)},mode=1777,exec,nosuid,nodev",  # noqa: S108 - inside
                "/run": f"size=16m,uid={AGENT_UID},gid={AGENT_UID},mode=700,nosuid,nodev",
            },
            mounts=[
                # An engine copies the image's own directory into a new volume, and mounts it once more for that.
                Mount("/work", self.containers.full_name(spec.name), type="volume", no_copy=has_size),
                Mount("/run/worklet", str(run_dir), type="bind"),
                *([Mount(MIRROR, str(spec.mirror), type="bind", read_only=True)] if spec.mirror else []),
            ],
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            runtime=self.oci_runtime,
            mem_limit=limits.memory,
            memswap_limit=limits.memory,  # else swap doubles it
            nano_cpus=limits.nano_cpus,
            pids_limit=limits.pids,
            oom_score_adj=500,
            shm_size=shm_size(limits.memory),
            ulimits=[
                Ulimit(name="nofile", soft=self.open_files, hard=self.open_files),
                Ulimit(name="core", soft=0, hard=0),
            ],
            # Two files, of which the older one goes when the newer one is full.
            log_config=LogConfig(type="json-file", config={"max-size": f"{self.log_size // 2}", "max-file": "2"}),
            restart_policy={"Name": "no"},
        )
        config: dict[str, Any] = client.api.create_container_config(
            spec.image or self.image, list(self.command), hostname="worklet", user=f"{AGENT_UID}:{AGENT_UID}",
            host_config=host, stop_signal="SIGTERM", labels=dict(self.containers.labels),
        )  # fmt: skip
        config["NetworkDisabled"] = True
        given = {"limits": limits, "runtime": self.oci_runtime, "files": self.open_files, "log": self.log_size}
        config["Labels"][SPEC] = _hash({k: v for k, v in config.items() if k != "HostConfig"} | given)
        return config

    def limits(self, client: DockerClient) -> Limits:
        """The most that a worklet has. The engine refuses a limit above what the machine has."""
        if self._ncpu is None:
            self._ncpu = int(client.info()["NCPU"])
        return Limits(self.memory, min(self.cpus, self._ncpu), self.pids)

    def fingerprint(self, client: DockerClient) -> str:
        """See `worklets.runtime.Runtime.fingerprint`."""
        image = self.image_id(client)
        return _hash({"image": image, "config": self.of(client, WorkletSpec("any", (), ""), Path("/any"))})

    def image_id(self, client: DockerClient) -> str:
        """Raises ImageMissing."""
        from docker.errors import ImageNotFound

        try:
            return str(client.images.get(self.image).id)
        except ImageNotFound as e:
            raise ImageMissing(f"The worklet image {self.image} is missing.") from e

    def require_runtime(self, client: DockerClient) -> None:
        """Raises WorkletStartFailed."""
        info = client.info()
        self._ncpu = int(info["NCPU"])  # known from now on, so the first start need not ask
        known = sorted(info.get("Runtimes") or {})
        if self.oci_runtime is not None and self.oci_runtime not in known:
            raise WorkletStartFailed(
                f"The Docker engine has no runtime {self.oci_runtime}; it has {', '.join(known)}.",
                suggestion="Add it to the engine's daemon.json, or correct FLOW_WORKLET_RUNTIME.",
            )


def _hash(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
