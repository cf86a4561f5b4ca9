"""What every contact changes stands in few indexes: PostgreSQL changes a unit within its page.

When a device was heard last stands in a narrow table of its own, which is searched and sorted by
it. Leases that end are looked for by their hour first, which changes once an hour.

Revision ID: 0012
Revises: 0011
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from callpool.manager.store import dialect

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

#: How a report of a reset is known: as we write reports, no text within one can look like that.
_RESET = """instr({r}.report, '"reason":"factory_reset"') > 0"""
_PARSED = "json_extract({r}.report, '$.reason') = 'factory_reset'"
#: Room that pages keep for what is changed in them, of a hundred.
_FILLED = {"unit": 75, "usage_hour": 70, "usage_day": 80, "device_heard": 80}


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == dialect.POSTGRESQL


def _index(name: str, columns: list[str], which: str) -> None:
    where = sa.text(which)
    op.create_index(name, "unit", columns, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.create_table(
        "device_heard",
        sa.Column("device_id", sa.Integer, primary_key=True, autoincrement=False),
        # of a pair the unit whose contact is longer ago; null for none that is enrolled
        sa.Column("last_contact", sa.Float),
    )
    op.create_index("device_heard_last", "device_heard", ["last_contact"])
    op.execute("INSERT INTO device_heard SELECT device_id, last_contact FROM device_now")
    op.drop_index("device_now_contact", "device_now")
    op.drop_column("device_now", "last_contact")
    for index in ("unit_heard", "unit_gone", "unit_lease"):
        op.drop_index(index, "unit")
    hour = (
        "bigint GENERATED ALWAYS AS (CAST(floor(lease_end / 3600) AS bigint)) STORED"
        if _on_postgresql()
        else "INTEGER GENERATED ALWAYS AS (CAST(lease_end / 3600 AS INTEGER)) VIRTUAL"
    )
    op.execute(f"ALTER TABLE unit ADD COLUMN lease_hour {hour}")
    _index("unit_lease_hour", ["lease_hour"], "leased")
    _index("unit_removed", ["device_id"], "state = 'removed'")
    _tally(_RESET)
    if _on_postgresql():
        for table, share in _FILLED.items():
            op.execute(f"ALTER TABLE {table} SET (fillfactor = {share})")


def _tally(reset: str) -> None:
    """Make the tally of units anew (migration 0006), which asks of every report what `reset` is."""
    status = (
        "CASE WHEN {r}.state <> 'active' THEN NULL WHEN {r}.locked IS NOT NULL THEN 'locked'"
        " WHEN {r}.released THEN 'released' WHEN {r}.last_contact IS NOT NULL"
        f" AND {reset} THEN 'reset'"
        " WHEN {r}.public_key IS NOT NULL THEN 'enrolled' ELSE 'new' END"
    )
    old, new = status.format(r="OLD"), status.format(r="NEW")
    move = "".join(
        f" INSERT INTO tally (name, label, count) SELECT 'units', {what}, {count}"
        f" WHERE {what} IS NOT NULL"
        " ON CONFLICT (name, label) DO UPDATE SET count = tally.count + excluded.count;"
        for what, count in ((old, -1), (new, 1))
    )
    dialect.drop_trigger(op.get_bind(), "tally_units_0_changed", "unit")
    dialect.trigger(
        op.get_bind(),
        "tally_units_0_changed",
        "AFTER UPDATE OF state, locked, released, last_contact, report, public_key ON unit",
        move,
        condition=f"{old} IS DISTINCT FROM {new}",
    )


def downgrade() -> None:
    _tally(_PARSED)
    op.drop_index("unit_removed", "unit")
    op.drop_index("unit_lease_hour", "unit")
    op.execute("ALTER TABLE unit DROP COLUMN lease_hour")
    if _on_postgresql():
        for table in _FILLED:
            op.execute(f"ALTER TABLE {table} RESET (fillfactor)")
    op.create_index("unit_lease", "unit", ["leased", "lease_end"])
    _index("unit_heard", ["last_contact"], "state = 'active'")
    _index("unit_gone", ["last_contact"], "state = 'removed'")
    op.add_column("device_now", sa.Column("last_contact", sa.Float))
    op.execute(
        "UPDATE device_now SET last_contact = (SELECT last_contact FROM device_heard h"
        " WHERE h.device_id = device_now.device_id)"
    )
    op.create_index("device_now_contact", "device_now", ["last_contact"])
    op.drop_table("device_heard")
