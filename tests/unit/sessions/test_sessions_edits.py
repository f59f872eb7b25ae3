"""What people do while Claude works: edit, delete, take back, hurry, stop; and how a turn that was cut goes on."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from heart import THREAD, Heart
from scripted import ScriptedHost
from waiting import until

from sessions.errors import SessionNotFound
from sessions.tables import turns
from sessions.types import Aside, Cut, Done, Interrupted, SessionState, Withdrawn


def where(submitted: Any) -> tuple[str, str, str]:
    return "T1", "C1", submitted.turn.source_id


async def test_an_edited_message_that_waits_goes_to_claude_as_it_is_now(heart: Heart) -> None:
    first = await heart.ask("HOLD")
    process = await heart.process(first)
    waiting = await heart.ask("old words")
    amended = await heart.sessions.amend(*where(waiting), "new words", "1800000000.000000")
    assert amended is not None
    assert amended.text == "new words"
    process.answer("done")
    assert await heart.settled(waiting) == Done()
    assert process.prompts[-1] == (waiting.turn.id, "new words")


async def test_a_deleted_message_that_waits_never_reaches_claude(heart: Heart) -> None:
    first = await heart.ask("HOLD")
    process = await heart.process(first)
    waiting = await heart.ask("never mind")
    await heart.sessions.amend(*where(waiting), None, "1800000000.000000")
    assert await heart.settled(waiting) == Withdrawn(None)
    process.answer("done")
    assert await heart.settled(await heart.ask("next")) == Done()
    assert [text for _, text in process.prompts] == ["HOLD", "next"]


async def test_a_turn_is_taken_back_while_its_container_starts(heart: Heart, host: ScriptedHost) -> None:
    host.gate.clear()
    asked = await heart.ask("hello")
    await until(lambda: host.opened)
    assert await heart.sessions.withdraw(asked.turn.id, "U1")
    assert await heart.settled(asked) == Withdrawn("U1")
    following = await heart.ask("and this?")
    host.gate.set()
    assert await heart.settled(following) == Done()
    assert [text for process in host.processes.values() for _, text in process.prompts] == ["and this?"]
    assert not await heart.sessions.withdraw(following.turn.id, "U1")


async def test_now_interrupts_and_goes_before_the_others(heart: Heart) -> None:
    first = await heart.ask("HOLD")
    process = await heart.process(first)
    second, third = await heart.ask("second"), await heart.ask("third")
    assert await heart.sessions.hurry(third.turn.id, "U7")
    assert await heart.settled(first) == Interrupted("U7")
    assert await heart.settled(third) == Done()
    assert await heart.settled(second) == Done()
    assert [text for _, text in process.prompts] == ["HOLD", "third", "second"]
    assert not await heart.sessions.hurry(third.turn.id, "U7"), "it waits no more"


async def test_now_interrupts_nothing_that_claude_has_not_seen(heart: Heart, host: ScriptedHost) -> None:
    host.gate.clear()
    first, second = await heart.ask("first"), await heart.ask("second")
    await until(lambda: host.opened)
    assert await heart.sessions.hurry(second.turn.id, "U7")
    host.gate.set()
    assert await heart.settled(first) == Done()
    assert await heart.settled(second) == Done()


async def test_halt_ends_the_turn_drops_the_waiting_and_keeps_the_worklet(heart: Heart) -> None:
    first = await heart.ask("HOLD")
    process = await heart.process(first)
    second = await heart.ask("second")
    assert await heart.sessions.halt(first.session.id, "U9")
    assert await heart.settled(second) == Interrupted("U9")
    assert await heart.settled(first) == Interrupted("U9")
    assert not await heart.sessions.halt(first.session.id, "U9"), "nothing runs any more"
    assert await heart.settled(await heart.ask("third")) == Done()
    assert [text for _, text in process.prompts] == ["HOLD", "third"]
    assert not process.dead


async def test_halt_works_while_a_container_starts(heart: Heart, host: ScriptedHost) -> None:
    host.gate.clear()
    asked = await heart.ask("hello")
    await until(lambda: host.opened)
    assert await heart.sessions.halt(asked.session.id, "U9")
    assert await heart.settled(asked) == Interrupted("U9")
    host.gate.set()
    assert await heart.settled(await heart.ask("again")) == Done()


@pytest.mark.parametrize("how", ["continue", "again"])
async def test_a_cut_turn_goes_on_once_as_it_was_chosen(heart: Heart, how: Any) -> None:
    asked = await heart.ask("HOLD")
    await heart.process(asked)
    assert await heart.sessions.resume(asked.turn.id, "U1", how, "1800000000.000000") is None, "it was not cut"
    await _cut(heart, asked)
    resumed = await heart.sessions.resume(asked.turn.id, "U2", how, "1800000000.000000")
    assert resumed is not None
    again = await heart.sessions.resume(asked.turn.id, "U3", "again", "1800000001.000000")
    assert again is not None
    assert (again.fresh, again.turn.id) == (False, resumed.turn.id)
    assert (resumed.turn.text == "HOLD") == (how == "again")
    assert resumed.turn.user_id == "U2"


async def test_what_is_said_aside_is_kept_for_the_next_turn(heart: Heart) -> None:
    asked = await heart.ask("hello")
    await heart.settled(asked)
    await heart.sessions.overheard([Aside(THREAD, "C1:1700000150.000000", "1700000150.000000", "U2", "Jonas", "aside")])
    assert await heart.sessions.store.asides.newest(THREAD) == "1700000150.000000"


async def test_a_turn_that_does_not_exist_is_said(heart: Heart) -> None:
    with pytest.raises(SessionNotFound):
        await heart.sessions.turn("nowhere")  # type: ignore[arg-type]
    assert not await heart.sessions.withdraw("nowhere", "U1")  # type: ignore[arg-type]


async def _cut(heart: Heart, asked: Any) -> None:
    """As if its worklet had been lost in the middle of a tool."""
    await heart.sessions.interrupt(asked.session.id, None)
    await heart.settled(asked)
    assert await heart.sessions.sleep(asked.session.id)
    await until(lambda: not heart.sessions.is_live(asked.session.id))
    store = heart.sessions.store
    async with store.db.transaction() as connection:
        await connection.execute(sa.update(turns).values(ended_at=None, state="running"))
    got = await store.leases.acquire(asked.session.id, heart.sessions.owner, 1)
    assert got is not None
    outcome = Cut("Its container was lost.")
    _, turn = await store.settle(got[0], asked.turn.id, outcome, state=SessionState.ASLEEP, container_id=None)
    assert turn.error == "Its container was lost."
