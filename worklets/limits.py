"""What a container may use of the machine: what it is started with, and what a running one is set to."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

import structlog

from worklets.profile import LEAST_CPUS, LEAST_MEMORY

if TYPE_CHECKING:
    from docker import DockerClient

log = structlog.get_logger(__name__)

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """`memory` in bytes, `cpus` in processors, `pids` processes and threads."""

    memory: int
    cpus: float
    pids: int

    @classmethod
    def of(cls, most: Limits, memory: int | None, cpus: float | None, pids: int | None) -> Self:
        """Each the lower of what is asked for and the most; None: the most."""
        return cls(
            min(most.memory, memory or most.memory),
            min(most.cpus, cpus or most.cpus),
            min(most.pids, pids or most.pids),
        )

    @property
    def nano_cpus(self) -> int:
        """0 would be no limit."""
        return max(int(LEAST_CPUS * 1e9), int(self.cpus * 1e9))


def tmp_size(memory: int) -> str:
    """Of /tmp in a container with so much memory, for mount(8): it counts as the container's memory."""
    return f"{_tmp(memory) // _MEBIBYTE}m"


def shm_size(memory: int) -> int:
    """Bytes of /dev/shm, which counts too."""
    return max(8, min(64, memory // _MEBIBYTE // 8)) * _MEBIBYTE


def least_memory(memory: int) -> int:
    """Bytes to which one that was started with `memory` can be set.

    The sizes of /tmp and /dev/shm stay as they are: Claude has to have room beside them when both are full.
    """
    return min(memory, LEAST_MEMORY + _tmp(memory) + shm_size(memory))


def _tmp(memory: int) -> int:
    return max(16, min(512, memory // _MEBIBYTE // 4)) * _MEBIBYTE


def update(client: DockerClient, container: str, limits: Limits) -> bool:
    """`POST /containers/{id}/update` (Docker Engine API), of which docker-py knows neither NanoCpus nor PidsLimit.

    False: the engine, or its OCI runtime, does not do that.
    """
    api = client.api
    wanted = {
        "Memory": limits.memory, "MemorySwap": limits.memory, "NanoCpus": limits.nano_cpus, "PidsLimit": limits.pids,
    }  # fmt: skip
    answer = api.post(
        f"{api.base_url}/v{api.api_version}/containers/{container}/update", json=wanted, timeout=api.timeout
    )
    if answer.status_code != HTTPStatus.OK:
        log.info("a container keeps its limits", container=container, reason=answer.text[:300])
    return bool(answer.status_code == HTTPStatus.OK)
