"""One pass of the reaper over a table of a million sessions, beside bare SQL that finds the same rows.

Nothing due: what every pass costs, with the leader's part. Then with sessions that have been idle for too long, and
with ones whose workspace has been kept long enough: found, and dealt with one after the other, each with its writes.
The host only keeps count; there are no containers. Bare SQL finds the same rows on a connection of the driver itself,
in turns with the passes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, cast

from benchmarks import rows
from benchmarks.harness import Row, milliseconds, say
from sessions.db import Database, open_database
from sessions.housekeeping import Housekeeping
from sessions.manager import Sessions
from sessions.reaper import Reaper
from sessions.retention import Retention
from sessions.store import Store
from worklets.runtime import Worklet

_TIMEOUT = timedelta(minutes=30)
_KEPT = timedelta(days=30)
_DUE, _FEW = 50, 1_000  # sessions due in a pass; rows of the small table
_IDLE = "select * from sessions where status = 'idle' and last_activity_at <= {}"
_OLD = "select * from sessions where status = 'asleep' and retired_at is null and last_activity_at <= {}"
_SOME = f"id in (select id from sessions where status = 'asleep' and retired_at is null limit {_DUE}) returning worklet"
_FALL_IDLE = f"update sessions set status = 'idle', container_id = worklet, last_activity_at = {{}} where {_SOME}"
_GROW_OLD = f"update sessions set last_activity_at = {{}} where {_SOME}"
Query = Callable[[str, timedelta], Awaitable[list[Any]]]  # of a statement whose {} stands for so long ago


@dataclass(slots=True)
class Times:
    """Seconds, one for each pass."""

    nothing: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    old: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    bare_idle: list[float] = field(default_factory=list)
    bare_old: list[float] = field(default_factory=list)


class _Host:
    """Worklets that are names."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    async def running(self) -> Mapping[str, Worklet]:
        return {name: Worklet(name, name, Path("/run"), running=True) for name in self.names}

    async def close(self, name: str, _grace: float = 0.0) -> None:
        self.names.discard(name)

    async def destroy(self, name: str) -> None:
        self.names.discard(name)


async def measure(quick: bool) -> list[Row]:
    count, passes = (100_000, 5) if quick else (1_000_000, 21)
    found = []
    for name, opened in (("SQLite", _sqlite), ("PostgreSQL", _postgres)):
        if name == "PostgreSQL" and not has_postgres():
            say("no PostgreSQL server programs: left out")
            continue
        tables = []
        for size in (_FEW, count):
            say(f"sweep ({name}): {size:,} sessions")
            async with opened(size) as (database, query):
                tables.append(await _passes(database, query, passes))
        found += _rows(f"{count:,} sessions ({name})", *tables)
    return found


def _rows(where: str, few: Times, many: Times) -> list[Row]:
    nothing, bare = median(many.nothing), median(many.bare)
    rows = [
        Row(
            f"sweep of {where}, nothing due",
            f"{milliseconds(nothing)}, worst {milliseconds(max(many.nothing))}",
            f"of {_FEW:,}: {milliseconds(median(few.nothing))}; bare SQL: {milliseconds(bare)}",
        )
    ]
    for what, all_, some, bare_ in (
        ("to be put to sleep", many.idle, few.idle, many.bare_idle),
        ("workspaces to be removed", many.old, few.old, many.bare_old),
    ):
        rows.append(
            Row(
                f"sweep of {where}, {_DUE} {what}",
                f"{milliseconds(median(all_))} = {milliseconds(median(all_) / _DUE)} each",
                f"of {_FEW:,}: {milliseconds(median(some))}; bare SQL that finds them: {milliseconds(median(bare_))}",
            )
        )
    return rows


def has_postgres() -> bool:
    from tests.postgres import programs

    return programs() is not None


async def _passes(database: Database, query: Query, passes: int) -> Times:
    host, times = _Host(), Times()
    store = Store(database)
    async with Sessions(store, cast(Any, host), max_sessions=2 * _DUE) as sessions:
        housekeeping = Housekeeping(database, sessions.ring)
        retention = Retention(store, cast(Any, host), housekeeping, workspace=_KEPT, transcript=2 * _KEPT, archive=None)
        reaper = Reaper(
            sessions, store, cast(Any, host), session_timeout=_TIMEOUT, retention=retention,
            interval=timedelta(milliseconds=1),  # so that each pass is the leader's, too
        )  # fmt: skip
        await reaper.sweep()  # compiles the statements
        for _ in range(passes):
            times.nothing.append(await _timed(reaper.sweep()))
            times.bare.append(await _timed(_find(query)))
            host.names = {row[0] for row in await query(_FALL_IDLE, _TIMEOUT)}
            times.bare_idle.append(await _timed(query(_IDLE, _TIMEOUT)))
            times.idle.append(await _timed(reaper.sweep()))
            await query(_GROW_OLD, _KEPT)
            times.bare_old.append(await _timed(query(_OLD, _KEPT)))
            times.old.append(await _timed(reaper.sweep()))
            if left := [*host.names, *await _find(query)]:
                raise RuntimeError(f"{len(left)} sessions were left as they were")
        await reaper.close()
    return times


async def _find(query: Query) -> list[Any]:
    return await query(_IDLE, _TIMEOUT) + await query(_OLD, _KEPT)


async def _timed(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


@asynccontextmanager
async def _sqlite(size: int) -> AsyncIterator[tuple[Database, Query]]:
    with tempfile.TemporaryDirectory(prefix="flow-bench-") as home:
        path = Path(home) / "db.sqlite"
        async with _opened(f"sqlite://{path}") as database:
            await asyncio.to_thread(rows.in_sqlite, path, size)
            bare = sqlite3.connect(path, isolation_level=None)

            async def query(statement: str, ago: timedelta) -> list[Any]:
                before = datetime.now(UTC) - ago
                return bare.execute(statement.format("?"), [f"{before:%Y-%m-%d %H:%M:%S.%f}"]).fetchall()

            yield database, query
            bare.close()


@asynccontextmanager
async def _postgres(size: int) -> AsyncIterator[tuple[Database, Query]]:
    import asyncpg

    from tests.postgres import cluster

    server = cluster(fsync="on")
    address = await asyncio.to_thread(server.__enter__)  # it runs an event loop of its own
    try:
        dsn = f"{address}/postgres"
        async with _opened(dsn) as database:
            await rows.in_postgres(dsn, size)
            bare = await asyncpg.connect(dsn)

            async def query(statement: str, ago: timedelta) -> list[Any]:
                return await bare.fetch(statement.format("$1"), datetime.now(UTC) - ago)

            yield database, query
            await bare.close()
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@asynccontextmanager
async def _opened(dsn: str) -> AsyncIterator[Database]:
    from migrations import upgrade

    await upgrade(dsn)
    database = open_database(dsn)
    try:
        yield database
    finally:
        await database.close()
