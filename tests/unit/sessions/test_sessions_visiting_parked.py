"""Visits to threads that wait for people, and what a visited worklet may spend."""

from __future__ import annotations

import pytest
from heart import Heart, Start
from scripted import ScriptedHost
from test_sessions_asks import YES, asking, asleep, heard
from test_sessions_budgets import costing
from waiting import until

from config.settings import LimitSettings
from sessions.types import Done, SessionState
from worklets.errors import WorkletError


async def test_who_waits_for_people_is_not_woken_and_goes_on_by_their_answer(heart: Heart, host: ScriptedHost) -> None:
    asked, process, _, ask = await asking(heart)
    await asleep(heart, asked)
    opened = len(host.opened)
    with pytest.raises(WorkletError, match="waits for an answer"):
        await heart.sessions.wake(asked.session.id)
    await until(lambda: not heart.sessions.is_live(asked.session.id))
    session = await heart.sessions.get(asked.session.id)
    assert (session.state, session.container_id, len(host.opened)) == (SessionState.ASLEEP, None, opened)
    await heart.sessions.decide(ask.id, YES, "U2")
    successor = await until(lambda: found if (found := host.processes.get(session.worklet)) is not process else None)
    (prompt,) = await until(lambda: successor.prompts)
    assert prompt[0] != asked.turn.id, "a resumed CLI calls a uuid that it knows completed"
    request = successor.ask("Bash", {"command": "touch x"})
    assert (await heard(successor, request))["behavior"] == "allow"
    successor.answer("done")
    assert await heart.settled(asked) == Done()


async def test_a_visited_worklet_may_spend_no_more_than_is_left(start: Start, host: ScriptedHost) -> None:
    async with start(limits=LimitSettings(session=2.0, hard=1.5)) as heart:
        asked = await costing(heart, "one", 5.0)
        await until(lambda: host.allowed)
        await heart.sessions.sleep(asked.session.id)
        host.allowed.clear()
        await heart.sessions.wake(asked.session.id)
        assert host.allowed == {asked.session.worklet: -2.0}
