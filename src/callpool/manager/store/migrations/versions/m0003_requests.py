"""Requests that wait for licenses.

Revision ID: 0003
Revises: 0002
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "request",
        sa.Column("request_id", sa.Integer, primary_key=True),
        sa.Column(
            "device_id", sa.Integer, sa.ForeignKey("device.device_id"), nullable=False, unique=True
        ),
        sa.Column("wanted", sa.Text, nullable=False),
        sa.Column("asked_at", sa.Float, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("hint", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.CheckConstraint("state IN ('waiting', 'moving')", name="request_state"),
    )


def downgrade() -> None:
    op.drop_table("request")
