"""Sessions, their turns, and the transcript."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def upgrade() -> None:
    _sessions()
    _turns()
    _events()


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("container_id", sa.Text),
        sa.Column("repository", sa.Text),
        sa.Column("branch", sa.Text),
        sa.Column("startup_script", sa.Text),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.Column("team", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("thread_ts", sa.Text),
        sa.Column("claude_session_id", sa.Text, nullable=False),
        sa.Column("has_history", sa.Boolean, nullable=False),
        sa.Column("worklet", sa.Text, nullable=False),
        sa.Column("last_activity_at", _MOMENT, nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_until", sa.Double),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.Text),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("team", "channel", "thread_ts", name="uq_sessions_thread"),
        sa.UniqueConstraint("worklet", name="uq_sessions_worklet"),
    )
    op.create_index("ix_sessions_user", "sessions", ["user_id", "created_at"])
    _index("ix_sessions_live", "sessions", ["created_at"], "status not in ('new', 'asleep')")
    _index("ix_sessions_idle", "sessions", ["last_activity_at"], "status = 'idle'")


def _turns() -> None:
    op.create_table(
        "turns",
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
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("started_at", _MOMENT),
        sa.Column("ended_at", _MOMENT),
        sa.Column("delivered", sa.Boolean, nullable=False),
        sa.UniqueConstraint("team", "channel", "source_id", name="uq_turns_source"),
    )
    op.create_index("ix_turns_session", "turns", ["session_id", "ts"])
    _index("ix_turns_open", "turns", ["session_id", "ts"], "ended_at is null")
    _index("ix_turns_undelivered", "turns", ["session_id", "ts"], "delivered = false")


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE")),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.UniqueConstraint("session_id", "epoch", "seq", "part", name="uq_events_place"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_session", "events", ["session_id", "id"])
    op.create_index("ix_events_turn", "events", ["turn_id", "id"])


def downgrade() -> None:
    for table in ("events", "turns", "sessions"):
        op.drop_table(table)
