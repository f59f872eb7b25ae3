"""Tables full of sleeping sessions, each with a turn that was answered and shown."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from sessions.tables import sessions, turns

_SPREAD = timedelta(days=5)  # their last activity lies an hour to this long ago
_COLUMNS = {
    sessions.name: (
        "id", "user_id", "name", "status", "created_at", "updated_at", "team", "channel", "thread_ts",
        "claude_session_id", "has_history", "worklet", "last_activity_at", "fence", "epoch", "seq",
    ),
    turns.name: (
        "id", "session_id", "team", "channel", "source_id", "ts", "user_id", "text", "state", "created_at",
        "started_at", "ended_at", "delivered",
    ),
}  # fmt: skip
Records = Iterator[tuple[Any, ...]]


def in_sqlite(path: Path, count: int) -> None:
    """`path`: a database of the newest schema that no process has open."""
    with sqlite3.connect(path) as connection:
        for table, records in _tables(count):
            columns = _COLUMNS[table]
            marks = ", ".join("?" * len(columns))
            plain = (tuple(_text(value) for value in record) for record in records)
            connection.executemany(f"insert into {table} ({', '.join(columns)}) values ({marks})", plain)
    connection.close()


async def in_postgres(dsn: str, count: int) -> None:
    """Leaves the planner's statistics as the server's own housekeeping would."""
    import asyncpg

    connection = await asyncpg.connect(dsn)
    for table, records in _tables(count):
        await connection.copy_records_to_table(table, records=records, columns=_COLUMNS[table])
        await connection.execute(f"vacuum analyze {table}")
    await connection.close()


def _tables(count: int) -> Sequence[tuple[str, Records]]:
    ids = [str(uuid4()) for _ in range(count)]
    newest = datetime.now(UTC) - timedelta(hours=1)
    moments = [newest - _SPREAD * (n / count) for n in range(count)]
    return (sessions.name, _sessions(ids, moments)), (turns.name, _turns(ids, moments))


def _sessions(ids: Sequence[str], moments: Sequence[datetime]) -> Records:
    for number, (id_, at) in enumerate(zip(ids, moments, strict=True)):
        worklet, ts = "s" + id_.replace("-", "")[:16], f"{1_600_000_000 + number}.000100"
        name = f"Please look at number {number}"
        yield id_, "U1", name, "asleep", at, at, "T1", "C1", ts, id_, True, worklet, at, 1, str(uuid4()), 100


def _turns(ids: Sequence[str], moments: Sequence[datetime]) -> Records:
    for number, (id_, at) in enumerate(zip(ids, moments, strict=True)):
        ts, text = f"{1_600_000_000 + number}.000100", f"Please look at number {number}"
        yield str(uuid4()), id_, "T1", "C1", f"C1:{ts}", ts, "U1", text, "done", at, at, at, True


def _text(value: Any) -> Any:
    """As SQLite keeps it; see `sessions.tables.Moment`."""
    return f"{value:%Y-%m-%d %H:%M:%S.%f}" if isinstance(value, datetime) else value
