"""What observers are told of turns while the table changes."""

from __future__ import annotations

import asyncio
from typing import Any

from heart import Heart
from scripted import ScriptedHost
from waiting import until

from sessions.asks import Ask, AskKind, AskState, ask_id
from sessions.events import Settled
from sessions.lookup import Waiting
from sessions.store import Store
from sessions.telling import Telling
from sessions.transcript import Entry, Transcript
from sessions.types import Done, SessionId, Withdrawn
from worklets.events import Text


async def test_a_turn_that_is_shown_while_the_table_is_read_is_not_told_again(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    session_id, turn_id = asked.session.id, asked.turn.id

    class Slow(Store):
        async def undelivered(self, session_id: SessionId) -> list[Waiting]:
            found = await super().undelivered(session_id)
            await self.mark_delivered(turn_id)
            telling.delivered(session_id, turn_id)
            return found

    telling = Telling(Slow(heart.db), heart.sessions.transcript)
    told: list[object] = []
    telling.observe(lambda _session, _turn, event: told.append(event))
    await telling.catch_up(session_id)
    assert told == []
    assert not telling.shows(session_id)


async def test_an_end_whose_storing_went_unheard_is_told_at_the_reapers_next_pass(heart: Heart) -> None:
    first = await heart.ask("HOLD")
    process = await heart.process(first)
    second = await heart.ask("two")
    # The commit succeeded, and its answer was lost with the connection.
    assert await heart.sessions.store.edits.withdraw(second.turn.id, "U1", heart.sessions.store.clock())
    await heart.reaper.sweep()
    assert await heart.settled(second) == Withdrawn("U1")
    process.answer("one")
    assert await heart.settled(first) == Done()


async def test_two_that_catch_up_at_once_tell_all_words_before_the_end(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)

    class Slow(Transcript):
        async def read(self, *args: Any, **options: Any) -> list[Entry]:
            entries = await super().read(*args, **options)
            began.set()
            await go_on.wait()
            return entries

    began, go_on = asyncio.Event(), asyncio.Event()
    telling = Telling(heart.sessions.store, Slow(heart.db))
    told: list[object] = []
    telling.observe(lambda _session, _turn, event: told.append(event))
    async with asyncio.TaskGroup() as group:
        group.create_task(telling.catch_up(asked.session.id))
        await began.wait()
        second = group.create_task(telling.catch_up(asked.session.id))
        await asyncio.wait([second], timeout=0.2)
        assert not any(isinstance(event, Settled) for event in told), "its words are still being told"
        go_on.set()
    assert Text("one") in told
    assert [isinstance(event, Settled) for event in told].count(True) == 1
    assert isinstance(told[-1], Settled)


async def test_what_flow_itself_asked_is_told_again_where_it_was(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        process.say(Text("one"))
        await until(lambda: "Text" in before.kinds(asked.turn.id))
        id_, now = ask_id(asked.session.id, "limit"), before.sessions.store.clock()
        given = {"text": "$5 of $5", "more": 5}
        budget = Ask(
            id_, asked.session.id, asked.turn.id, AskKind.BUDGET, "", "limit", given, (), AskState.OPEN, now, None
        )
        await before.sessions.store.asks.open(None, budget)
        process.say(Text("two"))
        await until(lambda: before.kinds(asked.turn.id).count("Text") == 2)
    async with start() as after:
        await after.reaper.recover()
        await until(lambda: after.kinds(asked.turn.id).count("Text") == 2)
        shown = [kind for kind in after.kinds(asked.turn.id) if kind in ("Text", "AskOpened")]
        assert shown == ["Text", "AskOpened", "Text"]
