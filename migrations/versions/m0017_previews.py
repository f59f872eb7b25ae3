"""Servers in worklets that people can open."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "previews",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("command", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("message_ts", sa.Text),
        sa.Column("owner", sa.Text),
        sa.Column("until", sa.DateTime(timezone=True)),
        sa.Column("failed", sa.Text),
        sa.UniqueConstraint("session_id", "port", name="uq_previews_port"),
    )
    op.create_table(
        "preview_uses",
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("tool_id", sa.Text, primary_key=True),
    )


def downgrade() -> None:
    op.drop_table("preview_uses")
    op.drop_table("previews")
