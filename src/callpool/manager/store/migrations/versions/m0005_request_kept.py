"""What a request was granted, the requests behind it do not take.

Revision ID: 0005
Revises: 0004
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # The number of the hint of the change that granted it to a request; 0 where none did.
    op.add_column(
        "allocation",
        sa.Column("granted_hint", sa.BigInteger, nullable=False, server_default="0"),
    )


def downgrade() -> None:
    op.drop_column("allocation", "granted_hint")
