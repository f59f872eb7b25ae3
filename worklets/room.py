"""Whether there is room on the disks that worklets fill: a full one stops people's messages from being stored.

Looked at before each start, which costs microseconds. Below the reserve no worklet starts, and those that run go on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from config.units import format_size
from worklets.errors import WorkletError, WorkletStartFailed

log = structlog.get_logger(__name__)

RESERVE = 512 << 20  # bytes
_PART = 50  # of a small disk: a fiftieth
_FILES = 1000  # that can still be made; some file systems have a fixed number of them
_MAKE_ROOM = "Make room there, then write again."

Places = Callable[[], Awaitable[Sequence[Path]]]


class Room:
    """`reserve` in bytes. `places`: what else worklets fill on this machine, such as the engine's directory."""

    def __init__(self, share_dir: Path, reserve: int = RESERVE, places: Places | None = None) -> None:
        self._share_dir, self._reserve, self._places = share_dir, reserve, places
        self._others: list[Path] | None = None
        self._is_low = False

    async def state(self) -> dict[str, Any]:
        """{"state": "ok" | "low", "free": bytes, "place": where that is}: of the fullest. Raises OSError."""
        found = await asyncio.to_thread(self._fullest, await self._all())
        self._note(found)
        return found

    async def require(self) -> None:
        """Before a worklet starts, which would fill the rest. Raises WorkletStartFailed."""
        try:
            found = await self.state()
        except OSError as error:
            raise WorkletStartFailed(
                f"The disk of {self._share_dir} cannot be looked at: {error.strerror or error}.",
                suggestion="Check FLOW_SHARE_DIR, then write again.",
            ) from error
        if found["state"] == "low":
            raise WorkletStartFailed(sentence(found), suggestion=_MAKE_ROOM)

    async def _all(self) -> list[Path]:
        if self._others is None and self._places is not None:
            try:
                self._others = [one for one in await self._places() if os.access(one, os.F_OK)]
            except WorkletError:
                return [self._share_dir]  # an engine that is away is told of by whoever starts something
        return [self._share_dir, *(self._others or [])]

    def _fullest(self, paths: Sequence[Path]) -> dict[str, Any]:
        found = []
        for path in paths:
            disk = os.statvfs(path)
            free, least = disk.f_bavail * disk.f_frsize, kept_free(disk, self._reserve)
            files = {"files": disk.f_favail} if disk.f_files and disk.f_favail < _FILES else {}
            state = "low" if free < least or files else "ok"
            found.append({"state": state, "free": free, "place": str(path), **files})
        return min(found, key=lambda one: (one["state"] != "low", one["free"]))

    def _note(self, found: dict[str, Any]) -> None:
        """Once in the log, not with each look."""
        is_low = found["state"] == "low"
        if is_low and not self._is_low:
            log.warning("no worklet starts: a disk is nearly full", **found)
        elif self._is_low and not is_low:
            log.info("there is room on the disk again; worklets start", **found)
        self._is_low = is_low


def kept_free(disk: os.statvfs_result, reserve: int) -> int:
    """Bytes that are to stay free on that disk."""
    return min(reserve, disk.f_blocks * disk.f_frsize // _PART)


def sentence(found: dict[str, Any]) -> str:
    left = f"{found['files']} files" if "files" in found else format_size(found["free"])
    return f"No worklet starts: the disk of {found['place']} is nearly full ({left} are left)."
