"""For which MCP server people gave a rule: its name alone may mean another one in another repository."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0020"
branch_labels = None
depends_on = None

_OLD = ["scope", "scope_id", "behavior", "rule"]


def upgrade() -> None:
    op.add_column("asks", sa.Column("servers", sa.Text, nullable=False, server_default="{}"))
    with op.batch_alter_table("rules") as rules:
        rules.add_column(sa.Column("server", sa.Text, nullable=False, server_default=""))
        rules.drop_constraint("uq_rules_rule", type_="unique")
        rules.create_unique_constraint("uq_rules_rule", [*_OLD, "server"])


def downgrade() -> None:
    op.execute("DELETE FROM rules WHERE server <> ''")  # without its server a rule would count for any of that name
    with op.batch_alter_table("rules") as rules:
        rules.drop_constraint("uq_rules_rule", type_="unique")
        rules.drop_column("server")
        rules.create_unique_constraint("uq_rules_rule", _OLD)
    with op.batch_alter_table("asks") as asks:
        asks.drop_column("servers")
