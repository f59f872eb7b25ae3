"""What the database says of a run: a read-only look at sessions, turns and what Claude said in each."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg

Row = Mapping[str, Any]

EXPLAINED = ("failed", "interrupted", "withdrawn", "cut")


@dataclass(frozen=True)
class TurnRecord:
    """A turn and its transcript: `events` are the stored bodies, in order; `asks` the states of what people saw."""

    row: Row
    events: list[dict[str, Any]] = field(default_factory=list)
    asks: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.row["id"])

    @property
    def text(self) -> str:
        return str(self.row["text"])

    @property
    def state(self) -> str:
        return str(self.row["state"])

    @property
    def name(self) -> str:
        """For sentences: the prompt's first words."""
        return f"turn {self.id[:8]} ({self.text.splitlines()[0][:40] if self.text else ''!r})"

    @property
    def restarted(self) -> bool:
        return any(event["type"] == "Restarted" for event in self.events)

    @property
    def explained(self) -> bool:
        """Whether the thread says that not all went as usual."""
        return self.restarted or self.state in EXPLAINED

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


@dataclass(frozen=True)
class SessionRecord:
    row: Row
    turns: list[TurnRecord] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.row["id"])

    @property
    def name(self) -> str:
        return f"session {self.id[:8]}"


@dataclass(frozen=True)
class Records:
    sessions: list[SessionRecord]
    asides: set[str]  # source ids of what was said aside
    pool: frozenset[str] = frozenset()  # worklets that no session has taken

    @property
    def turns(self) -> list[TurnRecord]:
        return [turn for session in self.sessions for turn in session.turns]

    @property
    def sources(self) -> set[str]:
        return {str(turn.row["source_id"]) for turn in self.turns}


_QUERIES = (
    "select * from sessions order by created_at, id",
    "select * from turns order by session_id, ts, created_at, id",
    "select turn_id, body from events where turn_id is not null order by id",
    "select source_id from asides",
    # Without what Flow decided by itself: people were not asked.
    "select turn_id, state from asks where decision is null or decided_by is not null order by asked_at, id",
    "select name from pool where claimed_by is null or claimed_by = ''",
)


async def read(dsn: str) -> Records:
    """`dsn` as FLOW_DSN has it. A database that is not there yet holds nothing."""
    if not dsn.startswith("sqlite://"):
        return _assembled(*await _from_postgres(dsn))
    path = Path(dsn.removeprefix("sqlite://"))
    return _assembled(*_from_sqlite(path)) if path.exists() else Records([], set())


def _from_sqlite(path: Path) -> list[list[Row]]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("begin")  # one moment for all of them
        return [list(map(dict, connection.execute(query))) for query in _QUERIES]
    finally:
        connection.close()


async def _from_postgres(dsn: str) -> list[list[Row]]:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return [list(await connection.fetch(query)) for query in _QUERIES]
    finally:
        await connection.close()


async def age_pool(dsn: str, by: timedelta) -> None:
    """As if what stands ready had been made that much earlier: on PostgreSQL replicas leave each other's alone."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("update pool set created_at = created_at - $1::interval", by)
    finally:
        await connection.close()


def _assembled(
    sessions: list[Row], turns: list[Row], events: list[Row], asides: list[Row], asks: list[Row], pool: list[Row]
) -> Records:
    said: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in events:
        said[row["turn_id"]].append(json.loads(row["body"]))
    asked: defaultdict[str, list[str]] = defaultdict(list)
    for row in asks:
        asked[row["turn_id"]].append(str(row["state"]))
    of_session: defaultdict[str, list[TurnRecord]] = defaultdict(list)
    for row in turns:
        of_session[row["session_id"]].append(TurnRecord(row, said[row["id"]], asked[row["id"]]))
    return Records(
        [SessionRecord(row, of_session[row["id"]]) for row in sessions],
        {str(row["source_id"]) for row in asides},
        frozenset(str(row["name"]) for row in pool),
    )
