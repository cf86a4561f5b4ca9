"""A device is found by its name whether it is removed or not: each line of the journal asks.

Revision ID: 0013
Revises: 0012
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_index("device_names", "device", ["name"])


def downgrade() -> None:
    op.drop_index("device_names", "device")
