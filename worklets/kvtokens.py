"""The tokens of the key-value store inside worklets: `kv.token` in the run directory, fresh while the door is open.

A token lasts 15 minutes and is replaced every five. By the wall clock: a machine that slept wakes with old tokens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from worklets import rundir

RENEW_SECONDS = 300.0
LOOK_SECONDS = 10.0  # also how soon a file that could not be written is tried again

log = structlog.get_logger(__name__)


class TokenFiles:
    """Writes what `mint(worklet_id)` makes. `clock` is in seconds since the epoch; `look` how often it is asked."""

    def __init__(
        self, mint: Callable[[str], str], *, look: float = LOOK_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        self._mint, self._look, self._clock = mint, look, clock
        self._kept: dict[Path, str] = {}  # run directory → worklet
        self._written: dict[Path, float] = {}
        self._troubles: dict[Path, str] = {}
        self._one_at_a_time = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    async def keep(self, run_dir: Path, worklet_id: str) -> None:
        """There is a token in that directory when this returns, until `drop`. One that cannot be written is logged."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._watch())
        self._kept[run_dir] = worklet_id
        await self._write([run_dir])

    async def drop(self, run_dir: Path) -> None:
        """The file goes. Idempotent."""
        if self._kept.pop(run_dir, None) is None:
            return
        async with self._one_at_a_time:
            self._written.pop(run_dir, None)
            self._troubles.pop(run_dir, None)
            try:
                await asyncio.to_thread(rundir.clear, run_dir / rundir.KV_TOKEN)
            except OSError as error:
                log.warning("a worklet's token file could not be removed", run_dir=str(run_dir), error=error.strerror)

    async def renew(self) -> None:
        """Every file anew: the key has changed, say."""
        await self._write(list(self._kept))

    async def aclose(self) -> None:
        """The files stay: whoever opens the doors next goes on with them."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._look)
            if due := [run_dir for run_dir in self._kept if self._is_due(run_dir)]:
                await self._write(due, only_due=True)

    def _is_due(self, run_dir: Path) -> bool:
        written = self._written.get(run_dir)
        return written is None or not 0 <= self._clock() - written < RENEW_SECONDS

    async def _write(self, run_dirs: list[Path], *, only_due: bool = False) -> None:
        async with self._one_at_a_time:
            for run_dir in run_dirs:
                worklet_id = self._kept.get(run_dir)  # it may have been dropped, or written, meanwhile
                if worklet_id is not None and (self._is_due(run_dir) or not only_due):
                    await self._write_one(run_dir, worklet_id)

    async def _write_one(self, run_dir: Path, worklet_id: str) -> None:
        now = self._clock()
        try:
            await asyncio.to_thread(lambda: rundir.hand_over(run_dir, rundir.KV_TOKEN, self._mint(worklet_id)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other worklets' tokens have to be renewed
            trouble = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            if self._troubles.get(run_dir) != trouble:  # it is tried again every few seconds, and told once
                log.warning("a worklet gets no token for the key-value store", run_dir=str(run_dir), error=trouble)
            self._troubles[run_dir] = trouble
        else:
            self._troubles.pop(run_dir, None)
            self._written[run_dir] = now
