"""A row for every tool that Claude called."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tool_uses",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("turn_id", sa.Text),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("ask_id", "tool", "risk", "basis", "digest")],
        sa.UniqueConstraint("session_id", "epoch", "seq", "part", name="uq_tool_uses_place"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tool_uses_session", "tool_uses", ["session_id", "id"])
    op.create_index("ix_tool_uses_at", "tool_uses", ["at"])


def downgrade() -> None:
    op.drop_table("tool_uses")
