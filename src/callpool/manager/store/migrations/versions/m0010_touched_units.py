"""Marks of the units whose grants a transaction changed: the grant journal is written by them.

Revision ID: 0010
Revises: 0009
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from callpool.manager.store import dialect

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_MARK = "INSERT INTO unit_touched (serial) VALUES ({row}.serial) ON CONFLICT (serial) DO NOTHING;"
_GRANT = ("kid", "grant_version", "grant_content", "sent_version", "floor_version", "leased")
_CHANGED = " OR ".join(f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in _GRANT)

#: Name, table, when, whose mark, and the condition.
_TRIGGERS = (
    ("holding_insert_marks", "holding", "AFTER INSERT", "NEW", ""),
    ("holding_update_marks", "holding", "AFTER UPDATE", "NEW", ""),
    ("holding_delete_marks", "holding", "AFTER DELETE", "OLD", ""),
    ("unit_grant_marks", "unit", f"AFTER UPDATE OF {', '.join(_GRANT)}", "NEW", _CHANGED),
)

# A request is of its device: previews look at what a change touches.
_DEVICE_MARK = (
    "INSERT INTO device_touched (device_id) VALUES ({row}.device_id)"
    " ON CONFLICT (device_id) DO NOTHING;"
)
_REQUESTS = {"INSERT": "NEW", "UPDATE": "NEW", "DELETE": "OLD"}


def upgrade() -> None:
    op.create_table("unit_touched", sa.Column("serial", sa.Text, primary_key=True))
    # The latest entries of the grant journal, for managers on other machines (PostgreSQL).
    op.create_table(
        "grant_entry",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("entry", sa.Text, nullable=False),
    )
    for name, table, when, row, condition in _TRIGGERS:
        dialect.trigger(
            op.get_bind(),
            name,
            f"{when} ON {table}",
            _MARK.format(row=row),
            condition=condition,
        )
    for event, row in _REQUESTS.items():
        dialect.trigger(
            op.get_bind(),
            f"request_{event.lower()}_touches",
            f"AFTER {event} ON request",
            _DEVICE_MARK.format(row=row),
        )


def downgrade() -> None:
    for event in _REQUESTS:
        dialect.drop_trigger(op.get_bind(), f"request_{event.lower()}_touches", "request")
    for name, table, *_ in _TRIGGERS:
        dialect.drop_trigger(op.get_bind(), name, table)
    op.drop_table("grant_entry")
    op.drop_table("unit_touched")
