"""Work that goes on after its caller: owned, named, and no danger to its siblings."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from config.logging import get_logger

log = get_logger(__name__)


class Tasks:
    """An async context manager. Leaving it ends what still runs, and waits for that.

    A task that fails is logged with its traceback and takes nobody with it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._group is not None
        group, self._group = self._group, None
        for task in self._running:
            task.cancel()
        await group.__aexit__(None, None, None)

    @property
    def open(self) -> bool:
        return self._group is not None

    async def ended(self, timeout: float) -> None:
        """Waits for what runs now, at most so many seconds."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Raises RuntimeError outside the context."""
        if self._group is None:
            work.close()
            raise RuntimeError(f"{self._name} is not running")
        task = self._group.create_task(self._guarded(work, name), name=f"{self._name}: {name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except Exception:
            log.exception("a task failed", task=f"{self._name}: {name}")
