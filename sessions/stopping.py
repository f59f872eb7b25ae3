"""How a running turn is ended: the CLI is asked to, then told to; what is left after that is its container's end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from config.logging import get_logger
from sessions.agents import AgentLike
from sessions.shared import Patience

log = get_logger(__name__)
T = TypeVar("T")


class Stopped(Exception):
    """The turn was stopped before the CLI could end it, or the CLI was ended for it."""


async def unless(stopped: asyncio.Event, work: Coroutine[Any, Any, T], grace: float = 0.0) -> T:
    """The result of `work`; cancels it and raises Stopped when it does not end within `grace` seconds of `stopped`."""
    task = asyncio.create_task(work)
    waiting = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if grace and not task.done():
            await asyncio.wait([task], timeout=grace)
        if task.done():
            return task.result()
        raise Stopped
    finally:
        for one in (task, waiting):
            one.cancel()
        await asyncio.wait([task, waiting])


async def cancelled(task: asyncio.Task[Any] | None) -> None:
    """Returns when the task has ended."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


class Escalation:
    """One per turn that is to end. Make the next step when the one before has had its time; `close` at the end."""

    def __init__(self, agent: AgentLike, patience: Patience) -> None:
        self._steps: list[tuple[float, Callable[[], Coroutine[Any, Any, None]]]] = [
            (patience.interrupt, lambda: agent.interrupt(timeout=patience.interrupt)),
            (patience.terminate, agent.terminate),
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def next(self) -> float | None:
        """Takes the next step; the seconds that it has. None: there is none left."""
        if not self._steps:
            return None
        seconds, step = self._steps.pop(0)
        # In a task of its own: the answer may come through the very stream that the caller reads.
        self._tasks.append(asyncio.create_task(step(), name="ending a turn"))
        return seconds

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.warning("a step to end the turn was not answered", error=repr(result))
