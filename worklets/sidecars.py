"""Sidecars: containers beside a worklet in which its MCP servers run that need a secret, one for each server.

A sidecar is started with Claude, ends with it, and is as sealed as a worklet; it sees nothing of the worklet but a
directory with the gateway's sockets, which it can only read:

    <share_dir>/worklets/<name>/sidecars/<server>/      mcp.sock, and proxy.sock where its server may reach hosts

What it is to run, with the secret, the gateway tells it over `mcp.sock` (`worklets.sidecardoor`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from worklets.errors import WorkletError
from worklets.rundir import worklet_dir
from worklets.sidecargrants import placed, sidecars_in

MOST = 4  # of one worklet
_MISSED = 10.0  # seconds: so long after its start one that is missed is looked for again
_ENDING = 130.0  # seconds that a start on its way is waited for: the engine has 120
_GONE_AFTER = 30.0  # seconds: a younger one may be that of a worklet that was not listed yet

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What to start. `egress`: there is a proxy for it. `image`: None for the worklets' own."""

    worklet: str
    server: str
    directory: Path
    egress: bool = False
    image: str | None = None


@dataclass(slots=True)
class _Start:
    """`image`: it is only waiting for one, so it can be called back."""

    task: asyncio.Task[None]
    began: float
    image: bool


class Place(Protocol):
    """Where sidecars run: containers, or plain processes."""

    async def start(self, sidecar: Sidecar) -> None:
        """Starts it; one that runs is left alone. Raises WorkletError."""

    async def end(self, worklet: str) -> None:
        """Ends all of that worklet. Idempotent. Raises WorkletError."""

    async def running(self) -> dict[str, list[float]]:
        """By worklet of this instance: how many seconds ago each of its sidecars was started. Raises WorkletError."""


class Sidecars:
    """One per program. `egress`: worklets have a way out at all. `image` makes one on a base: an image by its name.

    `tell` is called with a worklet's name and a sentence for its thread.
    """

    def __init__(
        self,
        place: Place,
        share_dir: Path,
        *,
        egress: bool,
        image: Callable[[str], Awaitable[str]] | None = None,
        gone_after: float = _GONE_AFTER,
    ) -> None:
        self._place, self._share_dir, self._egress, self._image = place, share_dir, egress, image
        self._gone_after = gone_after
        self._known: dict[str, dict[str, Mapping[str, Any]]] = {}  # the grants of what belongs to a worklet
        self._starting: dict[tuple[str, str], _Start] = {}
        self.tell: Callable[[str, str], None] = lambda _worklet, _text: None

    def placed(self, worklet: str, grants: Mapping[str, Any]) -> dict[str, Any]:
        """The grants with a directory for each sidecar, which is made. Raises OSError."""
        directories = {}
        for server in list(sidecars_in(grants))[:MOST]:
            directories[server] = directory = self._directory(worklet, server)
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o755)  # its sockets are for the container's user; a directory above keeps others out
        return placed(grants, directories)

    def _directory(self, worklet: str, server: str) -> Path:
        return worklet_dir(self._share_dir, worklet) / "sidecars" / server

    def begin(self, worklet: str, grants: Mapping[str, Any]) -> None:
        """Has those of the grants started, which `placed` made. Returns at once."""
        found = {name: one for name, one in sidecars_in(grants).items() if "sidecar" in one}
        if len(sidecars_in(grants)) > len(found):
            self.tell(worklet, f"A worklet has {MOST} MCP servers in sidecars; the others are left out.")
        if found:
            self._known[worklet] = found
        for server in found:
            self._start(worklet, server)

    def missed(self, fields: Mapping[str, Any]) -> None:
        """The gateway waits for one: it has ended, with the engine, say."""
        worklet, server = str(fields["worklet"]), str(fields["server"])
        if server in self._known.get(worklet, {}):
            self._start(worklet, server)

    def ended(self, fields: Mapping[str, Any]) -> None:
        """A server in one has ended."""
        if str(fields["worklet"]) in self._known:
            self.tell(str(fields["worklet"]), str(fields["text"]))

    def _start(self, worklet: str, server: str) -> None:
        known = self._starting.get((worklet, server))
        if known is not None and (not known.task.done() or time.monotonic() < known.began + _MISSED):
            return
        grant = self._known[worklet][server]
        base = str(grant.get("image") or "") if self._image is not None else ""
        task = asyncio.create_task(self._started(worklet, server, grant, base))
        self._starting[worklet, server] = _Start(task, time.monotonic(), bool(base))

    async def _started(self, worklet: str, server: str, grant: Mapping[str, Any], base: str) -> None:
        try:
            image = await self._image(base) if base and self._image is not None else None
            if (start := self._starting.get((worklet, server))) is not None:
                start.image = False
            egress = self._egress and bool(grant.get("hosts"))
            await self._place.start(Sidecar(worklet, server, self._directory(worklet, server), egress, image))
        except (WorkletError, OSError) as error:
            log.warning("a sidecar does not start", worklet=worklet, server=server, error=str(error))
            self.tell(worklet, f"The MCP server {server} does not start: {error}")

    async def end(self, worklet: str) -> None:
        """Ends those of the worklet. Idempotent; what cannot be ended now `sweep` ends."""
        if self._known.pop(worklet, None) is None and not (worklet_dir(self._share_dir, worklet) / "sidecars").exists():
            return
        await self._settle([self._starting.pop(key) for key in list(self._starting) if key[0] == worklet])
        try:
            await self._place.end(worklet)
        except WorkletError as error:
            log.warning("sidecars could not be ended", worklet=worklet, error=str(error))

    async def sweep(self, running: Callable[[], Awaitable[Collection[str]]]) -> None:
        """Ends those whose worklet, of those that are `running`, is none any more. Raises WorkletError."""
        found = await self._place.running()
        if not found:
            return
        alive = await running()
        for worklet in [name for name, ages in found.items() if name not in alive and min(ages) > self._gone_after]:
            log.warning("removed sidecars of a worklet that is gone", worklet=worklet)
            await self._place.end(worklet)

    async def count(self) -> int:
        """How many run. Raises WorkletError."""
        return sum(map(len, (await self._place.running()).values()))

    async def aclose(self) -> None:
        """Lets starts that are on their way come to their end; sidecars go on without us."""
        starts = list(self._starting.values())
        self._starting.clear()
        await self._settle(starts)

    async def _settle(self, starts: list[_Start]) -> None:
        """An image may take an hour, and is made without us; a container that is on its way cannot be called back."""
        for start in starts:
            if start.image:
                start.task.cancel()
        if starts:
            await asyncio.wait([start.task for start in starts], timeout=_ENDING)
