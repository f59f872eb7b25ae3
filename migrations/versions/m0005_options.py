"""What people set for themselves, channels and threads; how a turn is shown; the reactions on asking messages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "options",
        *[sa.Column(name, sa.Text, primary_key=True) for name in ("scope", "scope_id", "name")],
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
    )
    op.create_index("ix_options_at", "options", ["at"])
    op.add_column("turns", sa.Column("level", sa.Text))
    op.add_column("turns", sa.Column("mention", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "reactions",
        sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("ts", sa.Text, nullable=False),
        sa.Column("names", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("reactions")
    op.drop_column("turns", "mention")
    op.drop_column("turns", "level")
    op.drop_index("ix_options_at", "options")
    op.drop_table("options")
