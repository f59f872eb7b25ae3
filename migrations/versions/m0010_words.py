"""Which words to Flow itself have been done in a thread."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "words",
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("what", sa.Text, primary_key=True),
        sa.Column("ts", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("words")
