"""What devices used, by hour (with its minutes) and by day.

Revision ID: 0004
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def _columns() -> list[sa.Column[int] | sa.Column[str] | sa.Column[float]]:
    return [
        sa.Column("serial", sa.Text, sa.ForeignKey("unit.serial"), primary_key=True),
        sa.Column("at", sa.Integer, primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("minutes", sa.Integer, nullable=False),
        sa.Column("peak", sa.Integer, nullable=False),
        # the sum of the means of its minutes
        sa.Column("total", sa.Float, nullable=False),
        sa.Column("cap", sa.Integer, nullable=False),
        sa.Column("admitted", sa.Integer, nullable=False),
        sa.Column("refused", sa.Integer, nullable=False),
        sa.Column("repeated", sa.Integer, nullable=False),
        # the most true refusals in one minute
        sa.Column("worst", sa.Integer, nullable=False),
    ]


def upgrade() -> None:
    op.create_table(
        "usage_hour",
        *_columns(),
        # one bit for each minute that was taken: none is ever counted twice
        sa.Column("taken", sa.BigInteger, nullable=False),
        # the minutes one by one (msgpack), while they are young
        sa.Column("detail", sa.LargeBinary),
        sqlite_with_rowid=False,
    )
    op.create_table("usage_day", *_columns(), sqlite_with_rowid=False)


def downgrade() -> None:
    op.drop_table("usage_day")
    op.drop_table("usage_hour")
