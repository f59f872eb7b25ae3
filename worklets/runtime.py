"""The seam to where worklets run: `Runtime`, and the values that cross it.

One contract suite (tests/contracts/test_runtime.py) holds `DockerRuntime` and `LocalRuntime` to the same
behaviour. No exec and no attach here: conversation bytes travel over the relay's socket.

A worklet has one host directory, `<share_dir>/worklets/<name>/run`, which it sees as `/run/worklet`
(`Worklet.run_dir` on this side). In it lie the relay's socket `relay.sock`, the gateway's `gateway.sock`,
where there is a way out its `proxy.sock`, and the relay's journal. Its volume, `/work` inside (`/work/home`
is HOME, `/work/workspace` the cwd), outlives the container.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from worklets.news import Tell

if TYPE_CHECKING:
    from worklets.files import Outgoing


@dataclass(frozen=True, slots=True)
class WorkletSpec:
    """What to start. `name` matches [a-z0-9-]{1,40} and names directory, volume and container.

    `command` is the agent's argv; its first word is looked up on the worklet's PATH. `token` guards the
    relay. Neither it nor `env` is visible in the container's configuration: they travel in a file that
    the relay reads and removes. `egress`: it has a way out, which its programs find in HTTP_PROXY and the like.
    `mirror`: a directory of git objects that its clone needs, readable only; it sees it at `Runtime.mirror_at`.
    `image`, `memory` (bytes), `cpus` and `pids` None: the runtime's own; limits never go above those. `spare`: nobody
    waits for it, so others are started first.
    """

    name: str
    command: tuple[str, ...]
    token: str
    env: Mapping[str, str] = field(default_factory=dict)
    egress: bool = False
    image: str | None = None
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    spare: bool = False
    mirror: Path | None = None


@dataclass(frozen=True, slots=True)
class Worklet:
    """A started or stopped container (or child process)."""

    name: str
    id: str
    run_dir: Path
    running: bool


SIDECAR = ".mcp-"  # between a worklet's name and its server's, in a sidecar's


class Runtime(Protocol):
    kind: str  # "docker" | "local"

    async def check(self) -> None:
        """Raises RuntimeUnavailable or ImageMissing when nothing could start now."""

    async def fingerprint(self) -> str:
        """Other than before when worklets that are started now are unlike those before: the image, the limits.

        Raises RuntimeUnavailable, ImageMissing.
        """

    async def start(self, spec: WorkletSpec) -> Worklet:
        """Makes the volume where it is missing and starts a new worklet on it; returns as soon as its process runs.

        A stopped leftover of the same name is replaced. Raises WorkletStartFailed, RuntimeUnavailable, ImageMissing.
        """

    @property
    def least_memory(self) -> int:
        """Bytes: to no lower limit can `resize` set a worklet that was started with the runtime's own."""

    async def resize(self, name: str, *, memory: int | None, cpus: float | None, pids: int | None) -> bool:
        """Holds a running worklet to these limits from now on, as `start` would; None: the runtime's own. Idempotent.

        False: this one has to be started anew for them. Raises RuntimeUnavailable.
        """

    async def find(self, name: str) -> Worklet | None:
        """The worklet of that name, running or stopped."""

    async def list(self) -> list[Worklet]:
        """All worklets of this instance, running or stopped."""

    async def reaches(self) -> bool:
        """The way to the worklets' sockets holds. Raises nothing."""

    async def remove(self, name: str, grace: float = 5.0) -> str | None:
        """Ends and removes the worklet: SIGTERM, `grace` seconds, SIGKILL. The volume stays. Idempotent.

        Returns why it had ended already, as the beginning of a sentence for people ("Claude's container was killed");
        None when it ran. That it ran out of memory is told in any case.
        """

    async def put(self, name: str, source: Path) -> None:
        """Copies the directory's content into the volume's /work/workspace, owned by the agent's user. Before start."""

    def mirror_at(self, objects: Path) -> str | None:
        """Where a worklet sees the directory that its spec's `mirror` is; None: it cannot."""

    async def taken(self, name: str, paths: Sequence[str]) -> builtins.set[str]:
        """Those of the paths, relative to /work/workspace, at which something stands. The worklet must run."""

    async def place(self, name: str, files: Mapping[str, Path]) -> None:
        """Copies files into the workspace, each to its `<directory>/<name>` there, owned by the agent's user.

        What stands in a file's place is replaced. No link is followed out of the worklet. The worklet must run. Raises
        AgentGone, WorkletError.
        """

    def sender(self, name: str, limit: int, *, previews: bool = False) -> tuple[str, ...]:
        """The argv inside the worklet of the MCP server with `send_file`; `limit` in bytes.

        `previews`: with `open_preview` too, where the runtime has them.
        """

    def starter(self) -> tuple[str, ...]:
        """The argv inside the worklet of the program that runs a startup script (worklets/image/startup.py)."""

    def outgoing(self, name: str) -> Outgoing:
        """What the worklet hands over with `send_file`, also when it has ended."""

    async def left(self, name: str, file: str) -> bool:
        """Whether a file of that name stands in the worklet's run directory."""

    async def gather(self, name: str) -> None:
        """Brings the journal of a process that has ended into `run_dir`, before it is read. Raises WorkletError."""

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

    async def sweep(self, older: float) -> builtins.list[str]:
        """Removes what a Flow that was killed had made to work with, more than `older` seconds ago; what it was.

        Raises WorkletError.
        """

    async def logs(self, name: str, lines: int = 100) -> str:
        """The last lines that the relay itself logged."""

    async def follow(self, name: str, lines: int, hand: Callable[[bytes], None]) -> None:
        """The last lines of that log, then what is added, to `hand` in a thread; until the worklet has ended.

        Nothing where there is no such worklet. Raises WorkletError.
        """

    async def watch(self, tell: Tell) -> None:
        """Tells which worklets end, and in which memory runs out; on the event loop, until cancelled.

        Raises nothing.
        """

    async def places(self) -> builtins.list[Path]:
        """Directories of this machine that worklets fill, beside the share directory. Raises WorkletError."""

    async def close(self) -> None:
        """Lets go of clients and threads. Worklets of the docker runtime go on running."""
