"""A database that does not serve: what waits, what fails in time, what is said of it, and that it comes back whole."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import schema
import sqlalchemy as sa
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures
from structlog.testing import capture_logs
from tcpproxy import TcpProxy
from waiting import until

from sessions.db import Database, open_database
from sessions.errors import StoreUnavailable
from sessions.outage import Outage
from sessions.store import Store
from sessions.types import Prompt, ThreadId


def prompt(number: int) -> Prompt:
    return Prompt(ThreadId("T", "C", f"{number}.0"), f"C:{number}", f"{number}.0", "U", "x")


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    await schema.migrated(f"sqlite://{tmp_path}/db.sqlite")
    return tmp_path / "db.sqlite"


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Database]:
    db = open_database(dsn)
    try:
        yield db
    finally:
        await db.close()


def ample(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing is about how long the database may take."""
    for name in ("_FAST", "_SLOW"):
        monkeypatch.setattr(f"sessions.db.{name}", 60.0)


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """As another program would, from a connection of its own."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    try:
        yield other
    finally:
        other.close()


@pytest.mark.deadlines
async def test_whoever_slack_waits_for_is_told_in_time_that_the_file_is_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(f"sqlite://{path}") as db:
        store, loop = Store(db), asyncio.get_running_loop()
        with locked(path):
            for _ in range(10):
                started = loop.time()
                with pytest.raises(StoreUnavailable, match="locked"):
                    await store.submit(prompt(1))
                if (took := loop.time() - started) < 3:
                    break
            assert took < 3, "Slack gives three seconds; a busy machine may stand still in one try, not in each"
        ample(monkeypatch)
        assert await store.submit(prompt(1))


async def test_a_write_that_nobody_waits_for_waits_for_the_lock_and_lets_others_go_first(path: Path) -> None:
    async with opened(f"sqlite://{path}") as db:
        order = list[str]()

        async def write(name: str, **options: Any) -> None:
            async with db.transaction(**options) as connection:
                await connection.execute(sa.text("update alembic_version set version_num = version_num"))
                order.append(name)

        with locked(path):
            slow = asyncio.create_task(write("slow"))
            await until(lambda: db._writers and db._writers._busy)
            fast = asyncio.create_task(write("fast", fast=True))
            await until(lambda: db._writers and db._writers._others)  # it has given its turn up
        await asyncio.gather(slow, fast)
        assert order == ["fast", "slow"]


@pytest.mark.deadlines
async def test_reading_goes_on_while_the_file_is_locked_and_health_says_so_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(f"sqlite://{path}") as db:
        store = Store(db)
        with monkeypatch.context() as patient:
            ample(patient)
            await store.submit(prompt(1))
        with locked(path):
            with pytest.raises(StoreUnavailable, match="Another program holds the database file locked"):
                await db.check()
            ample(monkeypatch)
            assert len(await store.list()) == 1
        await db.check()
        assert db.outage.sentence == ""


async def test_a_write_that_is_cancelled_while_it_waits_leaves_nothing_behind(path: Path) -> None:
    async with opened(f"sqlite://{path}") as db:
        with locked(path):
            waiting = [asyncio.create_task(Store(db).submit(prompt(n))) for n in range(5)]
            await until(lambda: db._writers and len(db._writers._fast) == 4)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
        assert await Store(db).submit(prompt(9))
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_an_outage_is_logged_once_and_its_end_once() -> None:
    now = [0.0]
    outage, over = Outage(lambda: now[0]), list[float]()
    outage.when_over(lambda: over.append(now[0]))
    outage.served()
    assert over == []
    with capture_logs() as logs:
        for _ in range(100):
            outage.failed("The disk is full.")
        now[0] = 42.0
        outage.served()
        outage.served()
        for _ in range(5):  # a disk with room for a word now and then
            outage.failed("The disk is full.")
            outage.served()
    assert logs[0]["log_level"] == "warning"
    logs = [entry for entry in logs if entry["log_level"] != "debug"]
    told = [(entry["log_level"], entry["event"]) for entry in logs]
    assert told[:2] == [("warning", "the database does not serve"), ("info", "the database serves again")]
    assert [level for level, _ in told].count("warning") == 1
    assert logs[1]["seconds"] == 42.0
    assert over == [42.0] * 6, "whoever has to catch up hears of each end"
    assert outage.sentence == ""


@pytest.fixture
async def proxied(postgres_dsn: str) -> AsyncIterator[tuple[TcpProxy, Database]]:  # noqa: F811
    await schema.migrated(postgres_dsn)
    parts = urlsplit(postgres_dsn)
    async with (
        TcpProxy(parts.hostname or "", parts.port or 0) as proxy,
        opened(f"postgresql://flow@127.0.0.1:{proxy.port}{parts.path}") as db,
    ):
        yield proxy, db


async def _submit(store: Store, numbers: range) -> None:
    """A few at a time, as Slack would send them."""
    for first in numbers[::4]:
        await asyncio.gather(*(store.submit(prompt(n)) for n in numbers if first <= n < first + 4))


@pytest.mark.postgres
async def test_connections_that_died_with_the_server_fail_nobody_once_it_is_back(
    proxied: tuple[TcpProxy, Database],
) -> None:
    proxy, db = proxied
    store = Store(db)
    await asyncio.gather(*(store.submit(prompt(n)) for n in range(8)))
    proxy.refuse()
    with pytest.raises(StoreUnavailable, match="PostgreSQL does not answer"):
        await store.submit(prompt(10))
    proxy.restore()
    await _submit(store, range(10, 30))
    proxy.cut()  # a restart: all pooled connections are dead
    await _submit(store, range(30, 60))
    assert len(await store.list()) == 8 + 20 + 30
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@pytest.mark.deadlines
@pytest.mark.postgres
async def test_a_silent_server_holds_up_no_acknowledgement_and_leaks_no_connection(
    proxied: tuple[TcpProxy, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, db = proxied
    store, loop = Store(db), asyncio.get_running_loop()
    with monkeypatch.context() as patient:
        ample(patient)
        await asyncio.gather(*(store.submit(prompt(n)) for n in range(8)))
    proxy.silence()
    started = loop.time()
    told = await asyncio.gather(*(store.submit(prompt(n)) for n in range(10, 50)), return_exceptions=True)
    assert loop.time() - started < 30, "all are told before Slack gives up (with much room for a slow machine)"
    assert all(isinstance(one, StoreUnavailable) for one in told), told
    with pytest.raises(StoreUnavailable):
        await db.check()
    proxy.restore()
    ample(monkeypatch)

    async def serves() -> bool:
        try:
            await db.check()
        except StoreUnavailable:
            return False
        return True

    await until(serves)
    await _submit(store, range(10, 50))
    assert len(await store.list()) == 48
    await until(lambda: db.engine.pool.checkedout() == 0)  # type: ignore[attr-defined]
