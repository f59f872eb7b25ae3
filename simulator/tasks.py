"""Tasks with an owner: started anywhere, awaited by the one who closes."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Short-lived tasks; `aclose` cancels what still runs and raises the first error that any of them met."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._errors: list[BaseException] = []
        self._closed = False

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Starts `work`; after `aclose` nothing starts any more (a timer may still ring then)."""
        if self._closed:
            work.close()
            return
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)

    async def aclose(self) -> None:
        self._closed = True
        while self._running:
            tasks = list(self._running)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._errors:
            raise self._errors[0]
