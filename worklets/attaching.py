"""Attaching to a worklet's relay: to one that runs, or to a new one as soon as it listens, and its script has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from worklets.agent import Agent
from worklets.errors import AgentGone, WorkletStartFailed
from worklets.events import Position
from worklets.identity import Identity
from worklets.monitor import Monitor
from worklets.runtime import Runtime, Worklet
from worklets.startup import STARTED

_CHECK_SECONDS = 1.0  # how often a starting worklet is looked at while its relay does not answer yet
_RUNNING_SECONDS = 1.5  # how long a running worklet may have no listening relay: it has just started, or is ending
_SET_UP_LOOK = 0.2  # seconds between two looks whether a startup script has ended
_SET_UP_SECONDS = 30.0  # what starting and ending one takes beside its own time


class Attaching:
    """One per program. `timeout`: seconds that a new worklet's relay is waited for. `monitor` hears what they use."""

    def __init__(self, runtime: Runtime, identity: Identity, monitor: Monitor, timeout: float) -> None:
        self._runtime, self._identity, self._monitor, self._timeout = runtime, identity, monitor, timeout

    async def running(self, worklet: Worklet, after: Position | None, fence: int) -> Agent:
        """The agent of a worklet that runs already. Raises AgentGone, also as OtherEpoch and Refused."""
        return await self._attach(worklet, after, fence, _RUNNING_SECONDS)

    async def new(self, worklet: Worklet, fence: int) -> Agent:
        """Waits for the relay, but no longer than its container runs. Raises WorkletError."""
        attaching = asyncio.create_task(self._attach(worklet, None, fence, self._timeout))
        try:
            while not (await asyncio.wait({attaching}, timeout=_CHECK_SECONDS))[0]:
                now = await self._runtime.find(worklet.name)
                if now is None or not now.running:
                    raise WorkletStartFailed(await self._last_words(worklet.name))
            return await attaching
        except AgentGone as error:
            raise WorkletStartFailed(str(error), suggestion=error.suggestion) from error
        except BaseException:
            await _let_go(attaching)
            raise

    async def set_up(self, agent: Agent, worklet: Worklet, seconds: float) -> None:
        """Returns when the worklet's startup script has ended, as far as Claude can be waited for."""
        until = asyncio.get_running_loop().time() + seconds + _SET_UP_SECONDS
        try:
            while not await self._runtime.left(worklet.name, STARTED):
                now = await self._runtime.find(worklet.name)
                if now is None or not now.running or asyncio.get_running_loop().time() > until:
                    return  # what it says of its end is in the journal
                await asyncio.sleep(_SET_UP_LOOK)
        except BaseException:
            await agent.close()
            raise

    def _attach(
        self, worklet: Worklet, after: Position | None, fence: int, timeout: float
    ) -> Coroutine[Any, Any, Agent]:
        return Agent.attach(
            worklet.run_dir,
            self._identity.token("relay", worklet.name),
            after,
            fence,
            worklet_id=worklet.id,
            timeout=timeout,
            gauge=self._monitor.gauge(worklet.name),
        )

    async def _last_words(self, name: str) -> str:
        said = (await self._runtime.logs(name, 5)).strip()
        return f"The worklet ended as soon as it had started: {said or 'it said nothing'}."


async def _let_go(attaching: asyncio.Task[Agent]) -> None:
    """Nobody waits for it any more; it may have been attached in this very moment."""
    attaching.cancel()
    await asyncio.wait([attaching])
    if not attaching.cancelled() and attaching.exception() is None:
        await attaching.result().close()
