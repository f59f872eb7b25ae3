"""What a Docker engine, or its kernel, does not hold worklets to though it is told to: beginnings of sentences."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklets.dockerconfig import ContainerConfig
from worklets.engine import explanation
from worklets.runtime import WorkletSpec

if TYPE_CHECKING:
    from docker import DockerClient

_TRY_FILTER = ["/usr/bin/python3", "-I", "/opt/relay/seccomp.py"]


def admitted(info: dict[str, Any]) -> list[str]:
    """By `GET /info` (Docker Engine API). The engine itself only warns, and starts the container without the limit."""
    limits = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "processes", "CpuCfsQuota": "processors"}
    found = [f"{what} of worklets cannot be limited" for name, what in limits.items() if info.get(name) is False]
    profiles = [one for one in info.get("SecurityOptions") or [] if one.startswith("name=seccomp")]
    if not profiles or "profile=unconfined" in profiles[0]:
        found.append("no system calls are kept from worklets (seccomp)")
    return found


def of_filter(client: DockerClient, config: ContainerConfig) -> list[str]:
    """A container that is made like a worklet tries the relay's filter: a second or two. Nothing without the image."""
    from docker.errors import APIError, ImageNotFound

    wanted = config.of(client, WorkletSpec("probe", (), ""), Path("/"))
    wanted["HostConfig"]["Mounts"], wanted["Cmd"] = [], _TRY_FILTER
    name = config.containers.full_name(f"doctor.{secrets.token_hex(4)}")  # with a dot: it is no worklet
    try:
        made = client.api.create_container_from_config(wanted, name=name)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return []  # doctor has a line for that
    try:
        client.api.start(made["Id"])
        if not client.api.wait(made["Id"], timeout=50)["StatusCode"]:
            return []
        said = client.api.logs(made["Id"], tail=1).decode(errors="replace").strip()
    except APIError as e:
        said = explanation(e).rstrip(".")
    finally:
        config.containers.remove(client, made["Id"])
    return [f"no worklet starts: the filter of system calls cannot be set ({said})"]
