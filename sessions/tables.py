"""The tables as SQLAlchemy sees them, and the way from a row to a value. `migrations/` makes them in the database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from sessions.types import Session, SessionId, SessionState, ThreadId, Turn, TurnId, TurnState

metadata = sa.MetaData()


class Moment(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime: `timestamptz` in PostgreSQL; in SQLite, which knows no zones, text that sorts."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, _dialect: sa.Dialect) -> datetime | None:
        return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


# Conditions of the partial indexes. Queries repeat them to the letter: a planner does not see through parameters.
LIVE = sa.text("status not in ('new', 'asleep')")
IDLE = sa.text("status = 'idle'")
OPEN = sa.text("ended_at is null")
HELD = sa.text("lease_owner is not null")
ASLEEP = sa.text("status = 'asleep' and retired_at is null")
RETIRED = sa.text("retired_at is not null and archived_at is null")
UNDELIVERED = sa.text("delivered = false")


def _index(name: str, *columns: str, where: sa.TextClause) -> sa.Index:
    return sa.Index(name, *columns, sqlite_where=where, postgresql_where=where)


sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("container_id", sa.Text),
    sa.Column("repository", sa.Text),
    sa.Column("branch", sa.Text),
    sa.Column("startup_script", sa.Text),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    sa.Column("team", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("thread_ts", sa.Text),
    sa.Column("claude_session_id", sa.Text, nullable=False),
    sa.Column("has_history", sa.Boolean, nullable=False),
    sa.Column("worklet", sa.Text, nullable=False),
    sa.Column("last_activity_at", Moment, nullable=False),
    sa.Column("lease_owner", sa.Text),
    sa.Column("lease_until", sa.Double),  # seconds since 1970 by the database's clock
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.Text),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("retired_at", Moment),
    sa.Column("archived_at", Moment),
    sa.Column("summary", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("fork_of", sa.Text),
    sa.Column("mode", sa.Text),  # auto | ask | plan; null: as the settings say
    sa.Column("mode_before", sa.Text),  # of plan: the mode that an approved plan goes back to
    sa.Column("template", sa.Text),  # id of the template that it was started from
    sa.Column("template_name", sa.Text),
    sa.UniqueConstraint("team", "channel", "thread_ts", name="uq_sessions_thread"),
    sa.UniqueConstraint("worklet", name="uq_sessions_worklet"),
    sa.Index("ix_sessions_user", "user_id", "created_at"),
    _index("ix_sessions_live", "created_at", where=LIVE),
    _index("ix_sessions_idle", "last_activity_at", where=IDLE),
    _index("ix_sessions_held", "lease_owner", where=HELD),
    _index("ix_sessions_asleep", "last_activity_at", where=ASLEEP),
    _index("ix_sessions_retired", "last_activity_at", where=RETIRED),
)

turns = sa.Table(
    "turns",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("team", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("ts", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("stopped_by", sa.Text),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("started_at", Moment),
    sa.Column("ended_at", Moment),
    sa.Column("delivered", sa.Boolean, nullable=False),
    sa.Column("hurried", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("edited_ts", sa.Text),  # of the newest edit that `text` follows
    sa.Column("stop_asked", sa.Text),  # user id: whoever runs the turn is to end it
    sa.Column("level", sa.Text),
    sa.Column("mention", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("team", "channel", "source_id", name="uq_turns_source"),
    sa.Index("ix_turns_session", "session_id", "ts"),
    _index("ix_turns_open", "session_id", "ts", where=OPEN),
    _index("ix_turns_undelivered", "session_id", "ts", where=UNDELIVERED),
)

events = sa.Table(
    "events",
    metadata,
    # AUTOINCREMENT: cursors must never see a number again. SQLite numbers only INTEGER keys.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE")),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("part", sa.Integer, nullable=False),  # a line of the journal may hold several events
    sa.Column("body", sa.Text, nullable=False),  # worklets.events.dump as JSON
    sa.Column("created_at", Moment, nullable=False),
    sa.UniqueConstraint("session_id", "epoch", "seq", "part", name="uq_events_place"),
    sa.Index("ix_events_session", "session_id", "id"),
    sa.Index("ix_events_turn", "turn_id", "id"),
    sqlite_autoincrement=True,
)


#: Edits and deletions (`text` null) of messages, for one that overtakes the message itself.
amendments = sa.Table(
    "amendments",
    metadata,
    sa.Column("team", sa.Text, primary_key=True),
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("text", sa.Text),
    sa.Column("edited_ts", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)

#: What was said in threads without asking anything. `turn_id`: the turn that it is, or was, given to Claude with.
asides = sa.Table(
    "asides",
    metadata,
    sa.Column("team", sa.Text, primary_key=True),
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="SET NULL")),
    sa.Column("ts", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_asides_session", "session_id", "ts"),
    sa.Index("ix_asides_turn", "turn_id"),
)

#: Who does what only one replica may do; `until` in seconds since 1970 by the database's clock.
leaders = sa.Table(
    "leaders",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
)

#: Each firing of a scheduled job is claimed by an insert.
firings = sa.Table(
    "firings",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("due_at", Moment, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
)


def session_of(row: sa.Row[Any]) -> Session:
    return Session(
        id=SessionId(row.id),
        user_id=row.user_id,
        name=row.name,
        state=SessionState(row.status),
        thread=ThreadId(row.team, row.channel, row.thread_ts),
        worklet=row.worklet,
        container_id=row.container_id,
        claude_session_id=row.claude_session_id,
        has_history=row.has_history,
        repository=row.repository,
        branch=row.branch,
        startup_script=row.startup_script,
        epoch=row.epoch,
        seq=row.seq,
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_activity_at=row.last_activity_at,
        retired_at=row.retired_at,
        summary=row.summary,
        model=row.model,
        fork_of=row.fork_of,
        mode=row.mode,
        mode_before=row.mode_before,
        template=row.template,
        template_name=row.template_name,
    )


def turn_of(row: sa.Row[Any]) -> Turn:
    return Turn(
        id=TurnId(row.id),
        session_id=SessionId(row.session_id),
        source_id=row.source_id,
        ts=row.ts,
        user_id=row.user_id,
        text=row.text,
        state=TurnState(row.state),
        error=row.error,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        delivered=row.delivered,
        stopped_by=row.stopped_by,
        hurried=row.hurried,
        attempts=row.attempts,
        stop_asked=row.stop_asked,
        level=row.level,
        mention=row.mention,
    )
