"""Worklets as containers on a Docker engine of this machine.

A container is sealed: no network, a read-only root, no capabilities, user 1000; what it reaches are the
sockets in its run directory (see worklets/rundir.py). That directory is bind-mounted, so the engine must see
`share_dir` under the same path as Flow does.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import json
import math
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.units import format_size
from worklets import rundir
from worklets.engine import Engine, explanation
from worklets.errors import AgentGone, ImageMissing, WorkletError, WorkletStartFailed
from worklets.files import OUTGOING, pack
from worklets.identity import Identity
from worklets.rundir import AGENT_UID
from worklets.runtime import Worklet, WorkletSpec

if TYPE_CHECKING:
    from docker import DockerClient

RELAY_COMMAND = ("/usr/bin/python3", "-I", "/opt/relay/relay.py", "/run/worklet")
_SENDER = ("/usr/bin/python3", "-IS", "/opt/flow/sendfile.py")
_WORKSPACE = "/work/workspace"
_HELPER = ".put"  # no worklet's name holds a dot
_MEBIBYTE = 1024 * 1024


class DockerRuntime:
    """See `worklets.runtime.Runtime`. `memory` in bytes, `cpus` in processors, `host` as in DOCKER_HOST."""

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
        host: str | None = None,
        command: tuple[str, ...] = RELAY_COMMAND,
    ) -> None:
        self._share_dir = share_dir.resolve()
        self._identity = identity
        self._image = image
        self._memory, self._cpus, self._pids = memory, cpus, pids
        self._command = command
        self._engine = Engine(host)
        self._ncpu: int | None = None

    async def check(self) -> None:
        def check(client: DockerClient) -> None:
            self._require_image(client)
            self._processors(client)  # known from now on, so the first start need not ask

        await self._engine.call("query", check, timeout=15)

    async def start(self, spec: WorkletSpec) -> Worklet:
        run_dir = await self._engine.run(lambda: rundir.prepare(self._share_dir, spec.name, AGENT_UID))

        def start(client: DockerClient) -> str:
            self._discard_stopped(client, spec.name)
            self._write_spec(run_dir, spec)
            return self._create_and_start(client, spec.name, run_dir)

        return Worklet(spec.name, await self._engine.call("start", start, timeout=120), run_dir, running=True)

    async def find(self, name: str) -> Worklet | None:
        from docker.errors import NotFound

        def find(client: DockerClient) -> Worklet | None:
            with contextlib.suppress(NotFound):
                found = client.api.inspect_container(self._full(name))
                return self._worklet(name, found["Id"], found["State"]["Running"])
            return None

        return await self._engine.call("query", find)

    async def list(self) -> list[Worklet]:
        def list_all(client: DockerClient) -> list[Worklet]:
            # Not `containers.list()`: that asks once more for every container.
            rows = client.api.containers(all=True, filters={"label": f"flow.instance={self._identity.instance}"})
            named = ((row["Names"][0].lstrip("/").removeprefix(self._full("")), row) for row in rows if row["Names"])
            return [self._worklet(name, row["Id"], row["State"] == "running") for name, row in named if "." not in name]

        return await self._engine.call("query", list_all)

    async def remove(self, name: str, grace: float = 5.0) -> str | None:
        from docker.errors import NotFound

        def stop(client: DockerClient) -> str | None:
            with contextlib.suppress(NotFound):
                before = client.api.inspect_container(self._full(name))["State"]
                if not before["Running"]:
                    return self._ending(before)
                client.api.stop(self._full(name), timeout=math.ceil(grace))
                # Engine 20.10 tells of a process inside that ran out of memory only when the container has ended.
                return self._out_of_memory(client.api.inspect_container(self._full(name))["State"])
            return "Claude's container is gone"

        ended = await self._engine.call("stop", stop, timeout=grace + 60)
        await self._engine.call("remove", lambda client: _remove_container(client, self._full(name)), timeout=120)
        return ended

    async def put(self, name: str, source: Path) -> None:
        """Into a new volume, which counts when it is full; one that stands there goes."""
        await self._engine.call("start", lambda client: self._put(client, name, source), timeout=600)

    async def taken(self, name: str, paths: Sequence[str]) -> builtins.set[str]:
        def taken(client: DockerClient) -> set[str]:
            return {path for path in paths if self._stands(client, name, path)}

        return await self._engine.call("query", taken)

    async def place(self, name: str, files: Mapping[str, Path]) -> None:
        """The engine unpacks inside the container's own root, so that no link leads out of it."""

        from docker.errors import NotFound

        def place(client: DockerClient) -> None:
            with tempfile.TemporaryFile(dir=self._share_dir) as packed:
                pack(files, packed)
                try:
                    client.api.put_archive(self._full(name), _WORKSPACE, packed)
                except NotFound as e:
                    raise AgentGone from e

        try:
            await self._engine.call("start", place, timeout=300)
        except OSError as e:
            raise WorkletError(
                f"The files could not be put into the workspace: {e.strerror or e}.", suggestion="Check the disk."
            ) from e

    def sender(self, name: str, limit: int) -> tuple[str, ...]:  # noqa: ARG002 - it is the same in all of them
        return (*_SENDER, f"/run/worklet/{OUTGOING}", str(limit))

    async def copy(self, source: str, name: str) -> None:
        if not await self.has_volume(name):
            if not await self.has_volume(source):
                raise WorkletError("The workspace could not be copied: it is gone.")
            await self._engine.call("start", lambda client: self._copy(client, source, name), timeout=600)

    async def volumes(self) -> builtins.list[str]:
        def volumes(client: DockerClient) -> builtins.list[str]:
            answer = client.api.volumes(filters={"label": f"flow.instance={self._identity.instance}"})
            return sorted(v["Name"].removeprefix(self._full("")) for v in answer["Volumes"] or [])

        return await self._engine.call("query", volumes)

    async def has_volume(self, name: str) -> bool:
        from docker.errors import NotFound

        def has(client: DockerClient) -> bool:
            with contextlib.suppress(NotFound):
                found = bool(client.api.inspect_volume(self._full(name)))
                return found and not rundir.is_half_filled(self._share_dir, name)
            return False

        return await self._engine.call("query", has)

    async def remove_volume(self, name: str) -> None:
        def remove(client: DockerClient) -> None:
            self._discard_volume(client, name)  # before the directory, which tells how far it was filled
            try:
                rundir.remove(self._share_dir, name)
            except PermissionError:
                self._empty_as_agent(client, name)
                rundir.remove(self._share_dir, name)

        await self._engine.call("remove", remove, timeout=120)

    async def logs(self, name: str, lines: int = 100) -> str:
        from docker.errors import NotFound

        def logs(client: DockerClient) -> str:
            with contextlib.suppress(NotFound):
                return str(client.api.logs(self._full(name), tail=lines).decode(errors="replace"))
            return ""

        return await self._engine.call("query", logs)

    async def close(self) -> None:
        await self._engine.close()

    # In the engine's threads

    def _stands(self, client: DockerClient, name: str, path: str) -> bool:
        """docker-py has no call for it: `HEAD /containers/{id}/archive` (Docker Engine API)."""
        api = client.api
        url = f"{api.base_url}/v{api.api_version}/containers/{self._full(name)}/archive"
        answer = api.head(url, params={"path": f"{_WORKSPACE}/{path}"}, timeout=15)
        if answer.status_code not in (200, 404):
            raise WorkletError(f"The Docker engine refused to look for a file (HTTP {answer.status_code}).")
        return bool(answer.status_code == 200)

    def _full(self, name: str) -> str:
        return f"flow-{self._identity.instance}-{name}"

    def _worklet(self, name: str, container: str, running: bool) -> Worklet:
        return Worklet(name, container, rundir.worklet_dir(self._share_dir, name) / "run", running)

    def _out_of_memory(self, state: dict[str, Any]) -> str | None:
        return (
            f"Claude's container ran out of memory (limit {format_size(self._memory)})" if state["OOMKilled"] else None
        )

    def _ending(self, state: dict[str, Any]) -> str | None:
        """What the engine knows of a container that ended by itself. 255: it found it dead when it was started anew."""
        if error := str(state.get("Error") or "").strip():
            return f"Claude's container ended ({error.splitlines()[0][:200].rstrip('.')})"
        reasons = {137: "Claude's container was killed", 255: "Claude's container was lost with the Docker engine"}
        return self._out_of_memory(state) or reasons.get(state["ExitCode"], "Claude's container ended")

    def _require_image(self, client: DockerClient) -> None:
        from docker.errors import ImageNotFound

        try:
            client.images.get(self._image)
        except ImageNotFound as e:
            raise ImageMissing(f"The worklet image {self._image} is missing.") from e

    def _discard_stopped(self, client: DockerClient, name: str) -> None:
        from docker.errors import NotFound

        with contextlib.suppress(NotFound):
            if client.api.inspect_container(self._full(name))["State"]["Running"]:
                raise WorkletStartFailed(f"The worklet {name} is running already.", suggestion="Stop it first.")
            _remove_container(client, self._full(name))

    def _write_spec(self, run_dir: Path, spec: WorkletSpec) -> None:
        rundir.write_spec(
            run_dir, spec, agent=AGENT_UID, cwd="/work/workspace", home="/work/home", env=dict(spec.env)
        )  # fmt: skip

    def _create_and_start(self, client: DockerClient, name: str, run_dir: Path) -> str:
        from docker.errors import APIError, ImageNotFound

        try:
            self._make_volume(client, name)
            config = self._config(client, name, run_dir)
            made = client.api.create_container_from_config(config, name=self._full(name))  # type: ignore[no-untyped-call]
        except ImageNotFound as e:
            raise ImageMissing(f"The worklet image {self._image} is missing.") from e
        except APIError as e:
            raise WorkletStartFailed(f"The worklet could not be created: {explanation(e)}") from e
        try:
            client.api.start(made["Id"])
        except BaseException as e:
            with contextlib.suppress(APIError):
                _remove_container(client, made["Id"])
            if isinstance(e, APIError):
                raise WorkletStartFailed(f"The worklet did not start: {explanation(e)}") from e
            raise
        return str(made["Id"])

    def _make_volume(self, client: DockerClient, name: str) -> None:
        client.api.create_volume(self._full(name), labels={"flow.instance": self._identity.instance})

    def _discard_volume(self, client: DockerClient, name: str) -> None:
        """With the helper that a killed Flow left: the engine keeps a volume that a container has."""
        from docker.errors import NotFound

        _remove_container(client, self._full(name) + _HELPER)
        with contextlib.suppress(NotFound):
            client.api.remove_volume(self._full(name))

    def _config(self, client: DockerClient, name: str, run_dir: Path) -> dict[str, Any]:
        """The whole container. Nothing of the thread is in it but names: environment and token travel in spec.json."""
        from docker.types import LogConfig, Mount, Ulimit

        host = client.api.create_host_config(
            network_mode="none",
            read_only=True,
            # tmpfs counts as the container's memory, so it stays well below the limit. Programs may run from /tmp
            # (Docker's default says noexec): builds do that, and the workspace is executable anyway.
            tmpfs={
                "/tmp": f"size={self._tmp_size()},mode=1777,exec,nosuid,nodev",  # noqa: S108 - inside the container
                "/run": f"size=16m,uid={AGENT_UID},gid={AGENT_UID},mode=700,nosuid,nodev",
            },
            mounts=[
                Mount("/work", self._full(name), type="volume"),
                Mount("/run/worklet", str(run_dir), type="bind"),
            ],
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            init=True,
            mem_limit=self._memory,
            memswap_limit=self._memory,  # else swap doubles it
            nano_cpus=int(min(self._cpus, self._processors(client)) * 1e9),
            pids_limit=self._pids,
            oom_score_adj=500,
            shm_size=64 * _MEBIBYTE,
            ulimits=[Ulimit(name="nofile", soft=16384, hard=16384), Ulimit(name="core", soft=0, hard=0)],
            log_config=LogConfig(type="json-file", config={"max-size": "5m", "max-file": "2"}),
            restart_policy={"Name": "no"},
        )
        config: dict[str, Any] = client.api.create_container_config(
            self._image, list(self._command), hostname="worklet", user=f"{AGENT_UID}:{AGENT_UID}", host_config=host,
            stop_signal="SIGTERM", labels={"flow.instance": self._identity.instance},
        )  # fmt: skip
        config["NetworkDisabled"] = True
        config["Labels"]["flow.spec"] = _hash({k: v for k, v in config.items() if k != "HostConfig"} | self._limits())
        return config

    def _limits(self) -> dict[str, Any]:
        return {"memory": self._memory, "cpus": self._cpus, "pids": self._pids}

    def _processors(self, client: DockerClient) -> int:
        """The engine refuses a limit above what the machine has."""
        if self._ncpu is None:
            self._ncpu = int(client.info()["NCPU"])
        return self._ncpu

    def _tmp_size(self) -> str:
        return f"{max(16, min(512, self._memory // _MEBIBYTE // 4))}m"

    def _put(self, client: DockerClient, name: str, source: Path) -> None:
        """Through a container that is made and never started: the engine unpacks archives into its volume."""
        from docker.errors import APIError, ImageNotFound
        from docker.types import Mount

        helper = self._full(name) + _HELPER
        host = client.api.create_host_config(
            network_mode="none", mounts=[Mount("/work", self._full(name), type="volume")]
        )
        try:
            rundir.begin_filling(self._share_dir, name)
            self._discard_volume(client, name)
            self._make_volume(client, name)
            made = client.api.create_container(
                self._image, ["true"], name=helper, host_config=host, labels={"flow.instance": self._identity.instance}
            )
            with tempfile.TemporaryFile(dir=self._share_dir) as packed:
                _pack(source, packed)
                client.api.put_archive(made["Id"], "/work", packed)
            rundir.end_filling(self._share_dir, name)
        except ImageNotFound as e:
            raise ImageMissing(f"The worklet image {self._image} is missing.") from e
        except APIError as e:
            raise WorkletError(f"The workspace could not be filled: {explanation(e)}") from e
        except OSError as e:
            raise WorkletError(
                f"The workspace could not be filled: {e.strerror or e}.", suggestion="Check the disk, then write again."
            ) from e
        finally:
            with contextlib.suppress(APIError):
                _remove_container(client, helper)

    def _copy(self, client: DockerClient, source: str, name: str) -> None:
        """By `cp` in a container that has both volumes, the old one without the right to write, and no network."""
        from docker.errors import APIError, ImageNotFound
        from docker.types import Mount

        helper = self._full(name) + _HELPER
        old = Mount("/old", self._full(source), type="volume", read_only=True)
        host = client.api.create_host_config(
            network_mode="none", mounts=[old, Mount("/work", self._full(name), type="volume")], cap_drop=["ALL"]
        )
        try:
            rundir.begin_filling(self._share_dir, name)
            self._discard_volume(client, name)
            self._make_volume(client, name)
            made = client.api.create_container(
                self._image, ["cp", "-a", "/old/.", "/work/"], name=helper, host_config=host,
                entrypoint=[], user=f"{AGENT_UID}:{AGENT_UID}", labels={"flow.instance": self._identity.instance},
            )  # fmt: skip
            client.api.start(made["Id"])
            if client.api.wait(made["Id"], timeout=600)["StatusCode"]:
                said = client.api.logs(made["Id"], tail=3).decode(errors="replace").strip()
                raise WorkletError(f"The workspace could not be copied: {said}", suggestion="Check the engine's disk.")
            rundir.end_filling(self._share_dir, name)
        except ImageNotFound as e:
            raise ImageMissing(f"The worklet image {self._image} is missing.") from e
        except APIError as e:
            raise WorkletError(f"The workspace could not be copied: {explanation(e)}") from e
        except OSError as e:
            raise WorkletError(
                f"The workspace could not be copied: {e.strerror or e}.", suggestion="Check the disk, then try again."
            ) from e
        finally:
            with contextlib.suppress(APIError):
                _remove_container(client, helper)

    def _empty_as_agent(self, client: DockerClient, name: str) -> None:
        """Deletes the agent's own files from the run directory where Flow's user may not."""
        from docker.types import Mount

        run_dir = rundir.worklet_dir(self._share_dir, name) / "run"
        host = client.api.create_host_config(
            network_mode="none", mounts=[Mount("/run/worklet", str(run_dir), type="bind")]
        )
        made = client.api.create_container(
            self._image, ["find", "/run/worklet", "-mindepth", "1", "-delete"], host_config=host,
            user=f"{AGENT_UID}:{AGENT_UID}",
        )  # fmt: skip
        try:
            client.api.start(made["Id"])
            client.api.wait(made["Id"], timeout=60)
        finally:
            _remove_container(client, made["Id"])


def _remove_container(client: DockerClient, container: str) -> None:
    from docker.errors import APIError, NotFound

    with contextlib.suppress(NotFound):
        try:
            client.api.remove_container(container, force=True)
        except APIError as e:
            if e.status_code != 409:  # 409: somebody else is removing it
                raise
            client.api.wait(container, timeout=60, condition="removed")


def _hash(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _pack(source: Path, into: Any) -> None:
    """The directory's content as workspace/…, owned by the agent; device files and the like are left out."""

    def ours(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (info.isfile() or info.isdir() or info.issym() or info.islnk()):
            return None
        info.uid = info.gid = AGENT_UID
        info.uname = info.gname = ""
        info.mode |= 0o700 if info.isdir() else 0o400
        return info

    with tarfile.open(fileobj=into, mode="w|") as tar:
        tar.add(source, arcname="workspace", filter=ours)
    into.seek(0, os.SEEK_SET)
