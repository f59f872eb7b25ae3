"""What is kept for how long: workspaces, transcripts and their archive, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import schema
import sqlalchemy as sa
from freezegun import freeze_time
from heart import Heart
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures
from scripted import ScriptedHost
from structlog.testing import capture_logs
from waiting import until

from sessions.archive import ArchiveWriter, archive_path, read_archive
from sessions.db import Database, open_database
from sessions.housekeeping import Housekeeping
from sessions.reaper import Reaper
from sessions.retention import ArchiveFailed, Retention
from sessions.store import Store
from sessions.tables import asides, events
from sessions.tables import sessions as table
from sessions.tooluse import tool_uses
from sessions.transcript import Transcript
from sessions.types import Done, Prompt, Session, SessionState, ThreadId
from worklets.errors import RuntimeUnavailable, WorkletError
from worklets.events import Position, Text, TurnEnded, Usage

MONTH, YEAR = timedelta(days=30), timedelta(days=365)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class House:
    """A store with its retention, and what has become of the volumes."""

    def __init__(self, db: Database, archive: Path | None) -> None:
        self.clock = Clock()
        self.store = Store(db, self.clock)
        self.host = ScriptedHost()
        self.asked: list[str] = []
        self.housekeeping = Housekeeping(db, self.asked.append)
        self.retention = self.keeping(archive)
        self.archive = archive

    def keeping(self, archive: Path | None, **options: Any) -> Retention:
        options = {"workspace": MONTH, "transcript": YEAR, **options}
        return Retention(self.store, self.host, self.housekeeping, archive=archive, **options)

    async def session(self, number: int = 1, said: str = "the answer", delivered: bool = True) -> Session:
        """A session that answered once, and fell asleep now."""
        ts = f"{number}.0"
        prompt = Prompt(ThreadId("T", "C", ts), f"C:{ts}", ts, "U", f"question {number}", repository="https://u:p@h/r")
        return await self.answer(prompt, said, delivered)

    async def answer(self, prompt: Prompt, said: str, delivered: bool = True) -> Session:
        stored = await self.store.submit(prompt)
        assert stored is not None
        session, turn = stored.submitted.session, stored.submitted.turn
        got = await self.store.leases.acquire(session.id, "runner", 30)
        assert got is not None
        await self.store.begin(got[0], turn.id, "container", attempts=1)
        await self.store.set_state(got[0], SessionState.WORKING, retired_at=None, archived_at=None)  # as a run does
        ended = TurnEnded("done", (turn.id,), Usage(1, 2), 0.5, None)
        for seq, event in enumerate((Text(said), ended), got[0].fence * 10):
            at = Position("epoch", seq)
            await Transcript(self.store.db, self.clock).append(got[0], [(turn.id, event)], at=at, position=at)
        await self.store.settle(got[0], turn.id, Done(), state=SessionState.ASLEEP, container_id=None)
        await self.store.leases.release([got[0]])
        if delivered:
            await self.store.mark_delivered(turn.id)
        return await self.store.get(session.id)

    async def column(self, session: Session, name: str) -> Any:
        async with self.store.db.read() as connection:
            return (await connection.execute(sa.select(table.c[name]).where(table.c.id == session.id))).scalar_one()

    async def events(self, session: Session) -> int:
        query = sa.select(sa.func.count()).where(events.c.session_id == session.id)
        async with self.store.db.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    def lines(self, session: Session) -> list[dict[str, Any]]:
        assert self.archive is not None
        return [dict(line) for line in read_archive(archive_path(self.archive, session))]

    def texts(self, session: Session) -> list[str]:
        return [line["event"]["text"] for line in self.lines(session) if "text" in line.get("event", {})]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def dsn(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/db.sqlite"
    return str(request.getfixturevalue("postgres_dsn"))


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    await schema.migrated(dsn)
    db = open_database(dsn)
    yield db
    await db.close()


@pytest.fixture
def house(db: Database, tmp_path: Path) -> House:
    return House(db, tmp_path / "archive")


async def test_a_workspace_goes_after_a_month_and_the_transcript_stays(house: House) -> None:
    old = await house.session(1)
    house.clock.now += timedelta(days=1)
    young = await house.session(2)
    house.clock.now += MONTH - timedelta(days=1, seconds=1)
    await house.retention.sweep()
    assert house.host.closed == []
    house.clock.now += timedelta(seconds=1)
    await house.retention.sweep()
    assert house.host.closed == [old.worklet]
    assert (await house.store.get(old.id)).retired_at == house.clock.now
    assert (await house.store.get(young.id)).retired_at is None
    assert await house.column(old, "lease_owner") is None
    assert await house.events(old) == 2
    await house.retention.sweep()
    assert house.host.closed == [old.worklet], "once is enough"


async def test_a_workspace_that_cannot_go_now_goes_later(house: House) -> None:
    session = await house.session()
    house.clock.now += MONTH
    house.host.unavailable = RuntimeUnavailable()
    with pytest.raises(RuntimeUnavailable):
        await house.retention.sweep()
    assert (await house.store.get(session.id)).retired_at is None
    assert await house.column(session, "lease_owner") is None
    house.host.unavailable = None
    await house.retention.sweep()
    assert (await house.store.get(session.id)).retired_at is not None


async def test_what_is_held_or_has_something_to_do_or_to_show_is_left_alone(house: House) -> None:
    held, shown = await house.session(1), await house.session(2, delivered=False)
    asked = await house.session(3)
    thread = asked.thread
    await house.store.submit(Prompt(thread, "C:later", "9.0", "U", "and now?"))
    house.clock.now += MONTH
    if not house.store.db.exclusive:  # with SQLite only a message can have a session run meanwhile
        assert await house.store.leases.acquire(held.id, "runner", 30)
        await house.retention.sweep()
        assert house.host.closed == []
    else:
        await house.retention.sweep()
        assert house.host.closed == [held.worklet]
    assert [(await house.store.get(one.id)).retired_at for one in (shown, asked)] == [None, None]


async def test_nobody_can_run_a_session_while_its_workspace_goes_and_its_message_is_found(house: House) -> None:
    session = await house.session()
    house.clock.now += MONTH
    destroying, go_on = asyncio.Event(), asyncio.Event()

    async def destroy(name: str) -> None:
        destroying.set()
        await go_on.wait()

    house.host.destroy = destroy  # type: ignore[method-assign]
    sweeping = asyncio.create_task(house.retention.sweep())
    await destroying.wait()
    assert await house.store.leases.acquire(session.id, "runner", 30) is None
    await house.store.submit(Prompt(session.thread, "C:later", "9.0", "U", "are you there?"))
    go_on.set()
    await sweeping
    assert house.asked == [session.id]
    assert await house.store.leases.acquire(session.id, "runner", 30)


async def test_what_a_dead_process_had_begun_is_done_by_the_next(house: House) -> None:
    """It died after the volume had gone, before the row said so."""
    session = await house.session()
    house.clock.now += MONTH
    async with house.store.db.transaction() as connection:
        await connection.execute(sa.update(table).values(lease_owner="housekeeping of the dead", lease_until=0))
    await house.retention.sweep()
    assert (await house.store.get(session.id)).retired_at is not None


async def test_a_transcript_goes_into_a_file_after_a_year_and_its_summary_stays(house: House) -> None:
    session = await house.session(said="forty-two")
    async with house.store.db.transaction() as connection:
        where = {"team": "T", "channel": "C", "ts": "0.5", "user_id": "U2", "created_at": house.clock()}
        said = {"source_id": "C:0.5", "session_id": session.id, "author": "Ann", "text": "by the way", **where}
        await connection.execute(sa.insert(asides).values(said))
        used = {"tool": "Bash", "risk": "high", "basis": "mode", "digest": "d", "ask_id": "a", "at": house.clock()}
        await connection.execute(
            sa.insert(tool_uses).values(session_id=session.id, epoch="epoch", seq=1, part=0, **used)
        )
    house.clock.now += YEAR - timedelta(seconds=1)
    await house.retention.sweep()
    assert await house.events(session) == 2
    house.clock.now += timedelta(seconds=1)
    await house.retention.sweep()
    assert await house.events(session) == 0
    now = await house.store.get(session.id)
    assert now.summary
    assert "forty-two" in now.summary
    assert await house.column(session, "archived_at") == house.clock.now
    assert archive_path(house.archive or Path(), session).parent.name == "2026"
    first, turn, *said_then = house.lines(session)
    assert first["session"]["repository"] == "https://h/r", "a password goes into no file"
    assert turn["turn"]["text"] == "question 1"
    assert [next(iter(line)) for line in said_then] == ["event", "event", "aside"]
    assert house.texts(session) == ["forty-two"]
    async with house.store.db.read() as connection:
        for gone in (asides, tool_uses):
            assert (await connection.execute(sa.select(sa.func.count()).select_from(gone))).scalar_one() == 0
    assert len(await house.store.turns(session.id)) == 1, "a redelivered message is still recognised"


async def test_a_thread_that_goes_on_after_that_is_put_away_again_in_the_same_file(house: House) -> None:
    session = await house.session(said="the first answer")
    house.clock.now += YEAR
    await house.retention.sweep()
    went_on = await house.answer(Prompt(session.thread, "C:2", "9.0", "U", "again"), "the second answer")
    assert (went_on.retired_at, went_on.summary is None) == (None, False)
    house.clock.now += YEAR
    await house.retention.sweep()
    assert house.texts(session) == ["the first answer", "the second answer"]
    summary = (await house.store.get(session.id)).summary or ""
    assert "the first answer" in summary
    assert "the second answer" in summary
    assert len(summary) <= 4_000


@pytest.mark.parametrize("left", [2, 1, 0])
async def test_cut_off_between_the_file_and_the_rows_nothing_is_lost(house: House, left: int) -> None:
    """`left` events were still in the table when the process died."""
    session = await house.session(said="precious")
    house.clock.now += YEAR
    await house.retention.sweep()
    before = house.lines(session)
    async with house.store.db.transaction() as connection:
        await connection.execute(sa.update(table).values(archived_at=None))
        kept = [line for line in before if "event" in line][2 - left :]
        for line in kept:
            values = {"id": line["cursor"], "session_id": session.id, "turn_id": line["turn"]}
            place = {
                "epoch": "epoch",
                "seq": line["cursor"],
                "part": 0,
                "created_at": datetime.fromisoformat(line["at"]),
            }
            await connection.execute(sa.insert(events).values(**values, **place, body=json.dumps(line["event"])))
    await house.retention.sweep()
    assert await house.events(session) == 0
    assert [line for line in house.lines(session) if "event" in line] == [line for line in before if "event" in line]
    assert await house.column(session, "archived_at") is not None


async def test_without_an_archive_only_the_summary_stays(house: House) -> None:
    session = await house.session(said="forty-two")
    house.clock.now += YEAR
    await house.keeping(None).sweep()
    assert await house.events(session) == 0
    assert "forty-two" in ((await house.store.get(session.id)).summary or "")
    assert not list((house.archive or Path()).glob("**/*"))


async def test_never_is_never(house: House) -> None:
    session = await house.session()
    house.clock.now += 100 * YEAR
    await house.keeping(house.archive, workspace=None, transcript=None).sweep()
    assert (await house.store.get(session.id)).retired_at is None
    await house.keeping(house.archive, transcript=None).sweep()
    assert (await house.store.get(session.id)).retired_at is not None
    assert await house.events(session) == 2


async def test_an_archive_that_cannot_be_written_keeps_every_event(house: House) -> None:
    session = await house.session()
    assert house.archive is not None
    house.archive.write_text("a file where the directory should be")
    house.clock.now += YEAR
    with pytest.raises(ArchiveFailed, match="cannot be written"):
        await house.retention.sweep()
    assert await house.events(session) == 2
    assert await house.column(session, "lease_owner") is None
    house.archive.unlink()
    await house.retention.sweep()
    assert await house.events(session) == 0


async def test_one_session_that_cannot_be_put_away_holds_up_no_other(house: House) -> None:
    broken, fine = await house.session(1), await house.session(2)
    async with house.store.db.transaction() as connection:
        await connection.execute(sa.update(events).where(events.c.session_id == broken.id).values(body='{"type":"?"}'))
    house.clock.now += YEAR
    with capture_logs() as logs:
        await house.retention.sweep()
    assert [await house.events(one) for one in (fine, broken)] == [0, 2]
    assert any(entry["event"] == "a session stays as it is" for entry in logs)


async def test_a_volume_that_cannot_be_removed_holds_up_no_other_and_is_told_once(house: House) -> None:
    stuck, fine = await house.session(1), await house.session(2)
    destroy = house.host.destroy

    async def in_use(name: str) -> None:
        if name == stuck.worklet:
            raise WorkletError("The volume is in use.")
        await destroy(name)

    house.host.destroy = in_use  # type: ignore[method-assign]
    house.clock.now += MONTH
    with capture_logs() as logs:
        for _ in range(2):
            await house.retention.sweep()
    assert [(await house.store.get(one.id)).retired_at for one in (stuck, fine)] == [None, house.clock.now]
    assert [entry["session"] for entry in logs if entry["event"] == "a session stays as it is"] == [stuck.id]
    house.host.destroy = destroy  # type: ignore[method-assign]
    await house.retention.sweep()
    assert (await house.store.get(stuck.id)).retired_at is not None


async def test_one_file_that_cannot_be_written_holds_up_no_other(house: House) -> None:
    stuck, fine = await house.session(1), await house.session(2)
    assert house.archive is not None
    archive_path(house.archive, stuck).mkdir(parents=True)
    house.clock.now += YEAR
    await house.retention.sweep()
    assert [await house.events(one) for one in (stuck, fine)] == [2, 0]


async def test_more_than_a_page_is_done_in_one_pass(house: House) -> None:
    found = [await house.session(number) for number in range(1, 6)]
    house.clock.now += MONTH
    await house.keeping(None, page=2).sweep()
    assert sorted(house.host.closed) == sorted(session.worklet for session in found)


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "2026" / "x.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b'{"event":{},"cursor":1}\n' * 1000)[:-20])
    writer = ArchiveWriter(path, 5, ())
    writer.begin([{"session": {"id": "x"}}])
    writer.commit()
    assert [dict(line) for line in read_archive(path)] == [{"session": {"id": "x"}}]
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.jsonl.gz", "x.jsonl.gz.damaged"]


def test_a_writing_that_is_given_up_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "2026" / "x.jsonl.gz"
    for number in (1, 2):
        writer = ArchiveWriter(path, 9, ())
        writer.begin([{"session": {"id": number}}])
        writer.commit() if number == 1 else writer.abort()
    assert [dict(line) for line in read_archive(path)] == [{"session": {"id": 1}}]
    assert [file.name for file in path.parent.iterdir()] == ["x.jsonl.gz"]


async def test_a_message_to_a_thread_without_a_workspace_is_answered(start: Any, tmp_path: Path) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start() as heart:
            asked = await heart.ask("one")
            await heart.settled(asked)
            await heart.sessions.delivered(asked.turn.id)
            clock.tick(timedelta(hours=1))
            await heart.reaper.sweep()
            await until(lambda: not heart.sessions.is_live(asked.session.id))
            clock.tick(YEAR)
            await _retention(heart, tmp_path / "archive").sweep()
            retired = await heart.sessions.get(asked.session.id)
            assert retired.retired_at is not None
            assert retired.summary
            assert await heart.settled(await heart.ask("two")) == Done()
            assert (await heart.sessions.get(asked.session.id)).retired_at is None


async def test_a_session_that_could_not_be_given_back_answers_after_the_next_pass(start: Any, tmp_path: Path) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start() as heart:
            asked = await heart.ask("one")
            await heart.settled(asked)
            await heart.sessions.delivered(asked.turn.id)
            await heart.sessions.sleep(asked.session.id)
            await until(lambda: not heart.sessions.is_live(asked.session.id))
            clock.tick(MONTH)
            times = {"session_timeout": timedelta(minutes=30), "retention": _retention(heart, tmp_path / "archive")}
            reaper = Reaper(heart.sessions, heart.sessions.store, heart.host, **times)

            async def rename(old: str, new: str) -> None:
                async with heart.db.transaction() as connection:
                    await connection.exec_driver_sql(f"alter table {old} rename to {new}")

            heart.host.destroy = lambda _name: rename("sessions", "elsewhere")  # type: ignore[method-assign]
            await reaper.sweep()
            await rename("elsewhere", "sessions")
            again = await heart.ask("two")
            await until(lambda: not heart.sessions.is_live(asked.session.id))
            assert not heart.outcomes(again.turn.id), "it is kept from everybody"
            await reaper.sweep()
            assert await heart.settled(again) == Done()


def _retention(heart: Heart, archive: Path) -> Retention:
    store = heart.sessions.store
    keeping = Housekeeping(heart.db, heart.sessions.ring)
    return Retention(store, heart.host, keeping, workspace=MONTH, transcript=YEAR, archive=archive)
