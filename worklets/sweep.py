"""What killed programs left in the middle of their work, removed: containers, sidecars, temporary directories."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from worklets import rundir
from worklets.mirrors import Mirrors
from worklets.runtime import Runtime, Worklet

if TYPE_CHECKING:
    from worklets.sidecars import Sidecars

log = structlog.get_logger(__name__)

_ABANDONED = 3_600.0  # seconds: longer than any helper container works
_SWEEP = 600.0  # seconds between two looks for such
_FORGOTTEN = 86_400.0  # seconds: the same of a directory


class Sweep:
    """One per program."""

    def __init__(self, runtime: Runtime, mirrors: Mirrors, sidecars: Sidecars | None) -> None:
        self._runtime, self._mirrors, self._sidecars = runtime, mirrors, sidecars
        self._swept = float("-inf")

    async def now_and_then(self, running: Callable[[], Awaitable[Mapping[str, Worklet]]]) -> None:
        """Nothing when the last look is not long ago. `running`: the worklets that are. Raises WorkletError."""
        if time.monotonic() < self._swept + _SWEEP:
            return
        self._swept = time.monotonic()
        for name in await self._runtime.sweep(_ABANDONED):
            log.warning("removed a container that a killed Flow had at work", container=name)
        if self._sidecars is not None:
            await self._sidecars.sweep(running)
        await asyncio.to_thread(sweep_temporary, Path(tempfile.gettempdir()))
        await self._mirrors.sweep()


def sweep_temporary(root: Path) -> None:
    """Removes directories of ours for clones and files that nobody can be at work with any more."""
    for pattern in ("flow-clone-*", "flow-files-*"):
        for path in root.glob(pattern):
            with suppress(OSError):
                found = path.lstat()
                ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
                if ours and found.st_mtime < time.time() - _FORGOTTEN:
                    rundir.discard(path)
