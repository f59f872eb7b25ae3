"""What Claude asks people, and who decided what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("sessions", sa.Column("mode", sa.Text))
    op.add_column("sessions", sa.Column("mode_before", sa.Text))
    _asks()
    _audit()
    op.create_table(
        "rules",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("scope_id", sa.Text, nullable=False),
        sa.Column("behavior", sa.Text, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.UniqueConstraint("scope", "scope_id", "behavior", "rule", name="uq_rules_rule"),
    )


def _asks() -> None:
    op.create_table(
        "asks",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), nullable=False),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("kind", "tool", "tool_id", "request_id", "epoch")],
        *[sa.Column(name, sa.Text, nullable=False) for name in ("input", "suggestions", "state")],
        sa.Column("asked_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT),
        sa.Column("decided_by", sa.Text),
        sa.Column("decided_at", _MOMENT),
        sa.Column("decision", sa.Text),
        sa.Column("given", sa.Boolean, nullable=False),
        sa.Column("parked", sa.Boolean, nullable=False),
    )
    op.create_index("ix_asks_turn", "asks", ["turn_id", "asked_at"])
    is_open = sa.text("state = 'open'")
    op.create_index("ix_asks_open", "asks", ["asked_at"], sqlite_where=is_open, postgresql_where=is_open)


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("by", sa.Text),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("session_id", "turn_id", "ask_id", "kind", "tool")],
        *[sa.Column(name, sa.Text, nullable=False) for name in ("input", "behavior")],
        *[sa.Column(name, sa.Text) for name in ("scope", "rule", "message")],
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_session", "audit", ["session_id", "id"])
    op.create_index("ix_audit_at", "audit", ["at"])


def downgrade() -> None:
    for table in ("rules", "audit", "asks"):
        op.drop_table(table)
    op.drop_column("sessions", "mode_before")
    op.drop_column("sessions", "mode")
