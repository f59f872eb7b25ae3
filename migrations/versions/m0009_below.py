"""Where an answer went on in a new message below what people wrote."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("opens_at", sa.Text))


def downgrade() -> None:
    op.drop_column("messages", "opens_at")
