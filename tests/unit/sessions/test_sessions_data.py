"""What worklets keep beside their volumes: told in time that one runs, that it ended, that its session is gone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from scripted import ScriptedHost
from waiting import until

from config.errors import FlowError
from sessions.housekeeping import Housekeeping
from sessions.reaper import Reaper
from sessions.retention import Retention
from sessions.types import Done, SessionState

MONTH, YEAR = timedelta(days=30), timedelta(days=365)


class Data:
    """Notes what it is told, and what was opened and closed by then."""

    def __init__(self, host: ScriptedHost) -> None:
        self.told: list[tuple[str, ...]] = []
        self.kept: set[str] = set()
        self.trouble = self.stays = ""
        self._host = host

    def _note(self, *what: str) -> None:
        self.told.append((*what, f"{len(self._host.opened)} opened, {len(self._host.closed)} closed"))

    async def begin(self, worklet_id: str, user_id: str, name: str) -> None:
        self._note("begin", worklet_id, user_id, name)
        self.kept.add(worklet_id)

    async def end(self, worklet_id: str) -> None:
        self._note("end", worklet_id)

    async def retire(self, worklet_id: str) -> None:
        if self.stays:
            raise FlowError(self.stays)
        self._note("retire", worklet_id)

    async def remove(self, worklet_id: str) -> None:
        if self.trouble:
            raise FlowError(self.trouble)
        self._note("remove", worklet_id)
        self.kept.discard(worklet_id)

    async def sweep(self) -> None:
        self._note("sweep")
        if self.trouble:
            raise FlowError(self.trouble)


@pytest.fixture
def data(host: ScriptedHost) -> Data:
    return Data(host)


async def test_a_worklet_is_told_of_before_it_starts_and_after_it_ended(
    start: Any, host: ScriptedHost, data: Data
) -> None:
    async with start(data=data) as heart:
        asked = await heart.ask("one")
        assert await heart.settled(asked) == Done()
        id_ = asked.session.id
        assert data.told == [("begin", id_, asked.session.user_id, asked.session.name, "0 opened, 0 closed")]
        assert host.opened[0]["worklet_id"] == id_
        assert await heart.sessions.sleep(id_)
        await until(lambda: not heart.sessions.is_live(id_))
        assert data.told[1:] == [("end", id_, "1 opened, 1 closed")]
        again = await heart.ask("two")
        assert await heart.settled(again) == Done()
        assert data.told[2:] == [("begin", id_, asked.session.user_id, asked.session.name, "1 opened, 1 closed")]


async def test_a_session_that_nobody_runs_ends_too(start: Any, data: Data) -> None:
    async with start(data=data) as heart:
        asked = await heart.ask("one")
        await heart.settled(asked)
        await heart.in_state(asked, SessionState.IDLE)
    data.told.clear()
    async with start(data=data) as heart:
        assert await heart.sessions.sleep(asked.session.id)
        assert data.told == [("end", asked.session.id, "1 opened, 1 closed")]


async def test_a_worklet_that_is_gone_is_ended_by_the_reaper(start: Any, data: Data, host: ScriptedHost) -> None:
    async with start(data=data) as heart:
        asked = await heart.ask("one")
        await heart.settled(asked)
        await heart.in_state(asked, SessionState.IDLE)
    data.told.clear()
    host.processes[asked.session.worklet].die()
    async with start(data=data) as heart:
        await heart.reaper.sweep()
        await heart.in_state(asked, SessionState.ASLEEP)
        assert ("end", asked.session.id) in [told[:2] for told in data.told]
        assert "sweep" in [told[0] for told in data.told]


async def test_data_stay_with_the_transcript_and_go_with_it(start: Any, data: Data, tmp_path: Path) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start(data=data) as heart:
            asked = await heart.ask("one")
            await heart.settled(asked)
            await heart.sessions.delivered(asked.turn.id)
            await heart.sessions.sleep(asked.session.id)
            await until(lambda: not heart.sessions.is_live(asked.session.id))
            keeping = Housekeeping(heart.db, heart.sessions.ring)
            options = {"workspace": MONTH, "transcript": YEAR, "archive": tmp_path / "archive", "data": data}
            retention = Retention(heart.sessions.store, heart.host, keeping, **options)
            times = {"session_timeout": timedelta(minutes=30), "retention": retention}
            reaper = Reaper(heart.sessions, heart.sessions.store, heart.host, **times)
            clock.tick(MONTH)
            data.stays = "Vault is away."
            await reaper.sweep()
            assert (await heart.sessions.get(asked.session.id)).retired_at is None, "it is tried again"
            data.stays = ""
            await reaper.sweep()
            assert [told[0] for told in data.told].count("retire") == 1
            assert (await heart.sessions.get(asked.session.id)).retired_at is not None
            assert data.kept == {asked.session.id}
            clock.tick(YEAR)
            data.stays = "Vault is away."  # what went with the volume keeps the transcript from nothing
            data.trouble = "The store is away."
            await reaper.sweep()
            assert await heart.sessions.transcript.read(asked.session.id), "nothing goes before the data has"
            data.trouble = ""
            await reaper.sweep()
            assert data.kept == set()
            assert not await heart.sessions.transcript.read(asked.session.id)
