"""Tokens for Vault that sessions were given."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vault_tokens",
        sa.Column("accessor", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_vault_tokens_session_id", "vault_tokens", ["session_id"])


def downgrade() -> None:
    op.drop_table("vault_tokens")
