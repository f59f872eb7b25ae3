"""A file's lock (flock), waited for without holding the event loop."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

PAUSE = 0.05  # seconds between two tries


@asynccontextmanager
async def locked(path: Path, kind: int) -> AsyncIterator[None]:
    """Across processes; in one process too, since each taker opens the file anew. `kind`: fcntl.LOCK_EX or LOCK_SH.

    The file and its directory are made where they are missing. Raises OSError.
    """
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            await asyncio.to_thread(path.parent.mkdir, exist_ok=True)
            continue
        try:
            while True:
                try:
                    fcntl.flock(handle, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(PAUSE)
            if _is_at(handle, path):  # else it was removed with its directory, and made anew
                yield
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        there, ours = path.stat(), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
