"""HA pairs: which unit was active last, and hitless runs.

Revision ID: 0011
Revises: 0010
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("device", sa.Column("active_serial", sa.Text))
    # The number of the last switchover that a unit of it was asked for.
    op.add_column(
        "device", sa.Column("switch_number", sa.Integer, nullable=False, server_default="0")
    )
    # The highest number of a restart ever given out: one that was taken back is not used again.
    op.add_column(
        "unit", sa.Column("restart_issued", sa.Integer, nullable=False, server_default="0")
    )
    op.create_table(
        "hitless_run",
        sa.Column("run_id", sa.Integer, primary_key=True),
        sa.Column("device_id", sa.Integer, sa.ForeignKey("device.device_id"), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("began_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        # when it is to be looked at, whoever calls or does not
        sa.Column("due", sa.Float),
        # rises with every look: the manager that has moved it has the row
        sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
        # `hitless_store.Kept`
        sa.Column("content", sa.Text, nullable=False),
        sa.CheckConstraint(
            "state IN ('running', 'stopped', 'complete', 'rolled_back', 'closed')",
            name="hitless_state",
        ),
    )
    op.create_index("hitless_device", "hitless_run", ["device_id", "run_id"])
    op.create_index(
        "hitless_open",
        "hitless_run",
        ["device_id"],
        unique=True,
        sqlite_where=sa.text("state IN ('running', 'stopped')"),
        postgresql_where=sa.text("state IN ('running', 'stopped')"),
    )
    op.create_index(
        "hitless_due",
        "hitless_run",
        ["due"],
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )


def downgrade() -> None:
    op.drop_table("hitless_run")
    op.drop_column("unit", "restart_issued")
    op.drop_column("device", "switch_number")
    op.drop_column("device", "active_serial")
