"""The seam to where worklets run: `Runtime`, and the values that cross it.

One contract suite (tests/contracts/test_runtime.py) holds `DockerRuntime` and `LocalRuntime` to the same
behaviour. No exec and no attach here: conversation bytes travel over the relay's socket.

A worklet has one host directory, `<share_dir>/worklets/<name>/run`, which it sees as `/run/worklet`
(`Worklet.run_dir` on this side). In it lie the relay's socket `relay.sock`, the gateway's `gateway.sock`
and the relay's journal. Its volume, `/work` inside (`/work/home` is HOME, `/work/workspace` the cwd),
outlives the container.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WorkletSpec:
    """What to start. `name` matches [a-z0-9-]{1,40} and names directory, volume and container.

    `command` is the agent's argv; its first word is looked up on the worklet's PATH. `token` guards the
    relay. Neither it nor `env` is visible in the container's configuration: they travel in a file that
    the relay reads and removes.
    """

    name: str
    command: tuple[str, ...]
    token: str
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Worklet:
    """A started or stopped container (or child process)."""

    name: str
    id: str
    run_dir: Path
    running: bool


class Runtime(Protocol):
    kind: str  # "docker" | "local"

    async def check(self) -> None:
        """Raises RuntimeUnavailable or ImageMissing when nothing could start now."""

    async def start(self, spec: WorkletSpec) -> Worklet:
        """Makes the volume where it is missing and starts a new worklet on it; returns as soon as its process runs.

        A stopped leftover of the same name is replaced. Raises WorkletStartFailed, RuntimeUnavailable, ImageMissing.
        """

    async def find(self, name: str) -> Worklet | None:
        """The worklet of that name, running or stopped."""

    async def list(self) -> list[Worklet]:
        """All worklets of this instance, running or stopped."""

    async def remove(self, name: str, grace: float = 5.0) -> str | None:
        """Ends and removes the worklet: SIGTERM, `grace` seconds, SIGKILL. The volume stays. Idempotent.

        Returns why it had ended already, as the beginning of a sentence for people ("Claude's container was killed");
        None when it ran. That it ran out of memory is told in any case.
        """

    async def put(self, name: str, source: Path) -> None:
        """Copies the directory's content into the volume's /work/workspace, owned by the agent's user. Before start."""

    async def taken(self, name: str, paths: Sequence[str]) -> builtins.set[str]:
        """Those of the paths, relative to /work/workspace, at which something stands. The worklet must run."""

    async def place(self, name: str, files: Mapping[str, Path]) -> None:
        """Copies files into the workspace, each to its `<directory>/<name>` there, owned by the agent's user.

        What stands in a file's place is replaced. No link is followed out of the worklet. The worklet must run. Raises
        AgentGone, WorkletError.
        """

    def sender(self, name: str, limit: int) -> tuple[str, ...]:
        """The argv inside the worklet of the MCP server with `send_file`; `limit` in bytes."""

    async def copy(self, source: str, name: str) -> None:
        """Makes `name` a volume with all that `source`'s has now, HOME included. One that stands there stays.

        Raises WorkletError, also when `source` has none.
        """

    async def volumes(self) -> builtins.list[str]:
        """Names of the worklets that have a volume."""

    async def has_volume(self, name: str) -> bool:
        """Whether that worklet has a volume."""

    async def remove_volume(self, name: str) -> None:
        """Removes the volume and the host directory. Idempotent; the worklet must have been removed."""

    async def logs(self, name: str, lines: int = 100) -> str:
        """The last lines that the relay itself logged."""

    async def close(self) -> None:
        """Lets go of clients and threads. Worklets of the docker runtime go on running."""
