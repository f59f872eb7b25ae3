"""What turns cost, how much more was allowed, what the threads were told of it; and who waits to be let in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    _costs()
    op.create_table(
        "grants",
        sa.Column("id", sa.Text, primary_key=True),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("kind", "key", "period")],
        sa.Column("amount", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
    )
    op.create_index("ix_grants_limit", "grants", ["kind", "key", "period"])
    op.create_table(
        "limit_warnings",
        *[sa.Column(name, sa.Text, primary_key=True) for name in ("kind", "key", "period")],
        sa.Column("granted", sa.Double, primary_key=True),
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
    )
    op.create_table(
        "held",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("thread_ts", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("behind", sa.Text, nullable=False),
    )
    op.create_index("ix_held_behind", "held", ["behind", "at"])


def _costs() -> None:
    op.create_table(
        "costs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("turn_id", sa.Text),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("team", "channel", "user_id")],
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        *[
            sa.Column(f"{name}_tokens", sa.BigInteger, nullable=False)
            for name in ("input", "output", "cache_read", "cache_write")
        ],
        sa.Column("cost", sa.Double),
        sa.Column("base", sa.Double),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.UniqueConstraint("session_id", "epoch", "seq", "part", name="uq_costs_place"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_costs_turn", "costs", ["turn_id"])
    op.create_index("ix_costs_person", "costs", ["user_id", "day"])
    op.create_index("ix_costs_channel", "costs", ["channel", "day"])
    op.create_index("ix_costs_day", "costs", ["day"])


def downgrade() -> None:
    for table in ("held", "limit_warnings", "grants", "costs"):
        op.drop_table(table)
