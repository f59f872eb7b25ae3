"""Templates of sessions, and what each session's template said when the session began."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "templates",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("user_id", "name", name="uq_templates_owner"),
    )
    public = sa.text("is_public")
    op.create_index(
        "uq_templates_public", "templates", ["name"], unique=True, sqlite_where=public, postgresql_where=public
    )
    op.create_table(
        "session_templates",
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
    )
    op.add_column("sessions", sa.Column("template_name", sa.Text))


def downgrade() -> None:
    op.drop_column("sessions", "template_name")
    op.drop_table("session_templates")
    op.drop_table("templates")
