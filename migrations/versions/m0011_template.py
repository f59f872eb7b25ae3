"""The template that a session was started from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("template", sa.Text))


def downgrade() -> None:
    op.drop_column("sessions", "template")
