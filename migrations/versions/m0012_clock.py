"""How long turns and sessions have worked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "worked",
        sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
    )
    op.create_index("ix_worked_session", "worked", ["session_id"])


def downgrade() -> None:
    op.drop_index("ix_worked_session", table_name="worked")
    op.drop_table("worked")
