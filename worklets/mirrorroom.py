"""What all mirrors take of the disk, which worklets need which, and which of them go."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import structlog

from config.units import format_size
from worklets.errors import CloneFailed
from worklets.filelock import PAUSE, locked
from worklets.rundir import worklet_dir
from worklets.treesize import bounded, size_of

_NOTE = "mirror"  # in a worklet's directory: the key of the one that its clone needs
_JUST_NOW = 3600.0  # seconds in which a mirror counts as used: its worklet may not have noted it yet
_SWEEP_SECONDS = 600.0  # to count what mirrors take costs a look at each file

log = structlog.get_logger(__name__)


class MirrorRoom:
    """`directory`: where the mirrors are. `limit`: bytes of all of them. `keep`: seconds without use; None: for good.

    `clock` counts seconds as the files' times do.
    """

    def __init__(self, share_dir: Path, *, limit: int, keep: float | None, clock: Callable[[], float]) -> None:
        self.directory = share_dir / "mirrors"
        self._share_dir, self._limit, self._keep, self._clock = share_dir, limit, keep, clock
        self._swept: float | None = None

    def need(self, worklet: str, key: str) -> None:
        """The worklet needs that mirror, until its directory goes. Raises OSError."""
        directory = worklet_dir(self._share_dir, worklet)
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(exist_ok=True)
        (directory / _NOTE).write_text(key, encoding="ascii")

    def needed_by(self, worklet: str) -> str | None:
        """The key of the mirror that the worklet's clone needs; None: it needs none. Raises OSError."""
        try:
            return (worklet_dir(self._share_dir, worklet) / _NOTE).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    async def held(self, directory: Path, work: Awaitable[str]) -> str:
        """What `work` returns, which writes to that directory. Raises CloneFailed where that gets too much."""
        return await bounded(directory, self._limit, self._no_room, work)

    async def sweep(self) -> list[str]:
        """Removes mirrors that nobody needs: unused for long, or while all take more than they may. Their keys."""
        if self._swept is not None and self._clock() - self._swept < _SWEEP_SECONDS:
            return []
        self._swept = self._clock()
        gone = [one.name for one in await asyncio.to_thread(self._unneeded) if await self.remove(one)]
        return gone + await self.make_room(None)

    async def make_room(self, sparing: str | None) -> list[str]:
        """Removes unneeded mirrors, the longest unused first, until all take no more than they may."""
        gone: list[str] = []
        if await asyncio.to_thread(size_of, self.directory) <= self._limit:
            return gone
        for place in await asyncio.to_thread(self.candidates):
            if place.name != sparing and await self.remove(place):
                gone.append(place.name)
                if await asyncio.to_thread(size_of, self.directory) <= self._limit:
                    break
        return gone

    def candidates(self) -> list[Path]:
        """Mirrors that no worklet's clone needs, the longest unused first."""
        needed = set()
        for note in self._share_dir.glob(f"worklets/*/{_NOTE}"):
            with suppress(OSError):
                needed.add(note.read_text(encoding="ascii").strip())
        found = [one for one in self.directory.glob("*") if one.is_dir() and one.name not in needed]
        return sorted((one for one in found if self._clock() - _used(one) > _JUST_NOW), key=_used)

    async def remove(self, place: Path) -> bool:
        """False: somebody is at it, or has begun to need it since it was looked for."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(PAUSE):
                    await held.enter_async_context(locked(place / "lock", fcntl.LOCK_EX))
            except TimeoutError:
                return False
            if place not in await asyncio.to_thread(self.candidates):
                return False
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        log.info("a mirror that nobody needs is removed", mirror=place.name)
        return True

    def state(self) -> dict[str, Any]:
        """{"mirrors", "bytes", "limit"}: how many there are, and what they take."""
        found = [one for one in self.directory.glob("*") if one.is_dir()]
        return {"mirrors": len(found), "bytes": size_of(self.directory), "limit": self._limit}

    def _unneeded(self) -> list[Path]:
        if self._keep is None:
            return []
        return [one for one in self.candidates() if self._clock() - _used(one) > self._keep]

    def _no_room(self) -> CloneFailed:
        return CloneFailed(
            f"There is no room for this repository: all of them may take {format_size(self._limit)}.",
            suggestion="Have FLOW_MIRROR_LIMIT raised.",
        )


def _used(place: Path) -> float:
    try:
        return (place / "used").stat().st_mtime
    except FileNotFoundError:
        return 0.0
