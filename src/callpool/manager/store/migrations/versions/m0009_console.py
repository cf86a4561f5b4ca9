"""What each device is now, for lists, sums and what needs attention (`store/derived.py`).

Revision ID: 0009
Revises: 0008
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from callpool.manager.store import dialect

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# A mark for each device whose rows a transaction changed; its last act derives them anew.
_MARK = (
    "INSERT INTO device_touched (device_id) VALUES ({row}.device_id)"
    " ON CONFLICT (device_id) DO NOTHING;"
)
_MARK_HOLDER = (
    "INSERT INTO device_touched (device_id) SELECT device_id FROM unit"
    " WHERE serial = {row}.serial ON CONFLICT (device_id) DO NOTHING;"
)
_EVENTS = {"INSERT": ("NEW",), "UPDATE": ("OLD", "NEW"), "DELETE": ("OLD",)}
_MARKED = {"unit": _MARK, "device": _MARK, "allocation": _MARK, "holding": _MARK_HOLDER}

TRIGGERS = {
    f"{table}_{event.lower()}_touches": (
        f"AFTER {event} ON {table}",
        "".join(mark.format(row=row) for row in rows),
    )
    for table, mark in _MARKED.items()
    for event, rows in _EVENTS.items()
}


def upgrade() -> None:
    op.create_table(
        "device_touched",
        sa.Column("device_id", sa.Integer, primary_key=True, autoincrement=False),
    )
    op.create_table(
        "device_now",
        sa.Column("device_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("tenant_id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("serials", sa.Text, nullable=False),
        # codes of the alarms that it reports, a space before and after each
        sa.Column("alarms", sa.Text, nullable=False),
        # gravity and code of what is worst about it, empty for nothing
        sa.Column("worst", sa.Text, nullable=False),
        # by these the clock alone makes it need attention: the lease that ends first, of units
        # that are granted anything, and the contact that is oldest, of units that are enrolled
        sa.Column("lease_end", sa.Float),
        sa.Column("last_contact", sa.Float),
    )
    op.create_table(
        "device_count",
        sa.Column("device_id", sa.Integer, primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Integer, nullable=False),
        *(
            sa.Column(name, sa.Integer, nullable=False)
            for name in ("target", "granted", "local", "actual", "in_use", "pool_in_use")
        ),
        sqlite_with_rowid=False,
    )
    # The peaks of a tenant's devices within the same hour, added up (`usage.py`).
    op.create_table(
        "tenant_peak",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("at", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("tenant_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("peak", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("device_now_name", "device_now", ["name"])
    op.create_index("device_now_tenant", "device_now", ["tenant_id", "name"])
    op.create_index("device_now_contact", "device_now", ["last_contact"])
    op.create_index("device_now_lease", "device_now", ["lease_end"])
    op.create_index("device_now_worst", "device_now", ["worst", "name"])
    for name in ("granted", "local", "actual", "in_use"):
        op.create_index(f"device_count_{name}", "device_count", ["type", name])
    op.create_index(
        "device_count_use", "device_count", ["type", "tenant_id", "in_use", "pool_in_use"]
    )
    op.create_index(
        "unit_gone",
        "unit",
        ["last_contact"],
        sqlite_where=sa.text("state = 'removed'"),
        postgresql_where=sa.text("state = 'removed'"),
    )
    # A device's life is told from the journal, by its name and its serial numbers.
    for name in ("device", "serial"):
        op.execute(
            f"CREATE INDEX journal_{name} ON journal (json_extract(detail, '$.{name}'), entry)"
            # What somebody has altered by hand is found by `audit verify`, not by an index.
            " WHERE json_valid(detail)"
        )
    for name, (when, marks) in TRIGGERS.items():
        dialect.trigger(op.get_bind(), name, when, marks)
    op.execute("INSERT INTO device_touched (device_id) SELECT device_id FROM device")


def downgrade() -> None:
    for name, (when, _) in TRIGGERS.items():
        dialect.drop_trigger(op.get_bind(), name, when.split()[-1])
    for index, table in (
        ("unit_gone", "unit"),
        ("journal_device", "journal"),
        ("journal_serial", "journal"),
    ):
        op.drop_index(index, table)
    for table in ("tenant_peak", "device_count", "device_now", "device_touched"):
        op.drop_table(table)
