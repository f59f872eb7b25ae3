"""What observers are told of turns while the table changes."""

from __future__ import annotations

from conftest import Heart

from sessions.lookup import Waiting
from sessions.store import Store
from sessions.telling import Telling
from sessions.types import Done, SessionId, Withdrawn


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
