"""Work on a worklet that cannot be called back, a container that is being made say: it is done, cancelled or not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Shielded:
    """One per program: at most one piece of work for each worklet, by its name."""

    def __init__(self) -> None:
        self._going_on: dict[str, asyncio.Task[Any]] = {}

    async def to_its_end(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which goes on when we are cancelled: `settle` waits for it."""
        self._going_on[name] = task = asyncio.create_task(work)
        task.add_done_callback(lambda task: self._went_on(name, task))
        return await asyncio.shield(task)

    async def settle(self, name: str) -> None:
        """Returns when nothing is under way for that worklet any more. Raises nothing of what it came to."""
        if (task := self._going_on.get(name)) is not None:  # it stays there: who is cancelled here may ask again
            await asyncio.wait([task])

    def _went_on(self, name: str, task: asyncio.Task[Any]) -> None:
        if self._going_on.get(name) is task:
            del self._going_on[name]
        if not task.cancelled() and (error := task.exception()):  # somebody may be there to hear of it, or not
            log.debug("a start failed", worklet=name, error=str(error))
