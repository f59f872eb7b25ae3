"""The disk that a tree of files takes: what is there, what a commit's would take, and a bound while git writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from worklets.errors import CloneFailed

_BLOCK = 4096  # bytes of disk that a file takes at least
_LONGEST_PATH = 64 << 10
_WATCH_SECONDS = 1.0


class TooMuch(Exception):
    """More than is wanted."""


class Counted:
    """The disk that a tree's files take, of `git ls-tree -r -l -z` as it comes. Raises TooMuch beyond `most` bytes."""

    def __init__(self, most: int) -> None:
        self.bytes, self._most = 0, most
        self._rest, self._last = b"", [b""]

    def hear(self, chunk: bytes) -> None:
        *entries, self._rest = (self._rest + chunk).split(b"\0")
        if len(self._rest) > _LONGEST_PATH:
            raise TooMuch
        for entry in entries:
            what, _, path = entry.partition(b"\t")
            size = what.rpartition(b" ")[2]
            parts = path.split(b"/")
            same = next((at for at, (one, other) in enumerate(zip(parts, self._last, strict=False)) if one != other), 0)
            self._last = parts
            # Each file and each directory that was not there takes a block at least.
            self.bytes += (len(parts) - same) * _BLOCK + (int(size) if size.isdigit() else 0)
            if self.bytes > self._most:
                raise TooMuch


async def bounded(directory: Path, most: int, error: Callable[[], CloneFailed], work: Awaitable[str]) -> str:
    """What `work` returns, which writes to the directory: no more than `most` bytes, else `error()` is raised."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=_WATCH_SECONDS))[0]:
            if await asyncio.to_thread(size_of, directory) > most:
                raise error()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def size_of(directory: Path) -> int:
    """Bytes of the files below, as far as they can be seen."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += Path(root, name).lstat().st_size
    return total
