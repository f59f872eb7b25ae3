"""What a session needs to outlive everything: edits and asides, attempts, retention, leaders, firings, catching up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("sessions", sa.Column("retired_at", _MOMENT))
    op.add_column("sessions", sa.Column("archived_at", _MOMENT))
    op.add_column("sessions", sa.Column("summary", sa.Text))
    op.add_column("turns", sa.Column("hurried", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("turns", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    op.add_column("turns", sa.Column("edited_ts", sa.Text))
    op.add_column("turns", sa.Column("stop_asked", sa.Text))
    _index("ix_sessions_held", "lease_owner is not null", "lease_owner")
    _index("ix_sessions_asleep", "status = 'asleep' and retired_at is null")
    _index("ix_sessions_retired", "retired_at is not null and archived_at is null")
    _messages()
    op.create_table(
        "leaders",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_table(
        "firings",
        sa.Column("job", sa.Text, primary_key=True),
        sa.Column("due_at", _MOMENT, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
    )
    op.create_table(
        "caught_up",
        sa.Column("team", sa.Text, primary_key=True),
        sa.Column("at", _MOMENT, nullable=False),
    )


def _messages() -> None:
    op.create_table(
        "amendments",
        *_source(),
        sa.Column("text", sa.Text),
        sa.Column("edited_ts", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
    )
    op.create_table(
        "asides",
        *_source(),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="SET NULL")),
        sa.Column("ts", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
    )
    op.create_index("ix_asides_session", "asides", ["session_id", "ts"])
    op.create_index("ix_asides_turn", "asides", ["turn_id"])


def _source() -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, primary_key=True) for name in ("team", "channel", "source_id")]


def _index(name: str, where: str, column: str = "last_activity_at") -> None:
    condition = sa.text(where)
    op.create_index(name, "sessions", [column], sqlite_where=condition, postgresql_where=condition)


def downgrade() -> None:
    for table in ("caught_up", "firings", "leaders", "asides", "amendments"):
        op.drop_table(table)
    for index in ("ix_sessions_retired", "ix_sessions_asleep", "ix_sessions_held"):
        op.drop_index(index, "sessions")
    for table, columns in (
        ("turns", ("stop_asked", "edited_ts", "attempts", "hurried")),
        ("sessions", ("summary", "archived_at", "retired_at")),
    ):
        for column in columns:
            op.drop_column(table, column)
