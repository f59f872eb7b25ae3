"""A worklet of the pool cannot be made the session's: another is started, as if there had been no pool."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import Process, ScriptedHost

from sessions.events import Preparing
from sessions.types import Done
from worklets.errors import AgentGone, WorkletStartFailed
from worklets.events import Restarted


@pytest.mark.parametrize("error", [WorkletStartFailed("Flow cannot listen there."), AgentGone("It does not answer.")])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_process_that_is_not_ready_is_replaced(
    start: Any, host: ScriptedHost, error: Exception, times: int
) -> None:
    """The first one without a word; a second one in a turn is a loss like any other."""
    left = [error] * times

    def refuse(process: Process) -> None:
        process.unready = left.pop() if left else None

    host.on_start = refuse
    async with start() as heart:
        asked = await heart.ask("hello")
        assert await heart.settled(asked) == Done()
        assert len(host.opened) == times + 1
        told = heart.events(asked.turn.id)
        assert sum(event == Preparing("resuming") for event in told) == times - 1
        assert sum(isinstance(event, Restarted) for event in told) == times - 1
        assert (await heart.sessions.store.turn(asked.turn.id)).attempts == times
        assert len(host.processes[asked.session.worklet].prompts) == 1
