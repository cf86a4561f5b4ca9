"""Tallies: what the metrics tell of all units, kept by triggers, so that a scrape reads few rows.

Revision ID: 0006
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from callpool.manager.store import dialect

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# A unit counts while it is active, by what it is.
_STATUS = (
    "CASE WHEN {r}.state <> 'active' THEN NULL WHEN {r}.locked IS NOT NULL THEN 'locked'"
    " WHEN {r}.released THEN 'released' WHEN {r}.last_contact IS NOT NULL"
    " AND json_extract({r}.report, '$.reason') = 'factory_reset' THEN 'reset'"
    " WHEN {r}.public_key IS NOT NULL THEN 'enrolled' ELSE 'new' END"
)
_INSTANCE = (
    "CASE WHEN {r}.state <> 'registered' THEN NULL WHEN {r}.locked IS NOT NULL THEN 'locked'"
    " WHEN {r}.silent THEN 'silent' ELSE 'registered' END"
)
_DEVICE = "CASE WHEN {r}.removed_at IS NULL THEN {r}.mode END"

#: What is tallied: table, the name of the tally, its label, what is added.
_TALLIES = (
    ("unit", "units", _STATUS, "1"),
    ("product_instance", "instances", _INSTANCE, "1"),
    ("device", "devices", _DEVICE, "1"),
)
_COLUMNS = {
    "unit": "state, locked, released, last_contact, report, public_key",
    "product_instance": "state, locked, silent",
    "device": "removed_at, mode",
}


def _move(name: str, label: str, count: str, row: str, sign: str) -> str:
    what, n = label.format(r=row), count.format(r=row)
    return (
        f" INSERT INTO tally (name, label, count) SELECT '{name}', {what}, {sign}({n})"
        f" WHERE {what} IS NOT NULL AND {n} <> 0"
        f" ON CONFLICT (name, label) DO UPDATE SET count = tally.count + excluded.count;"
    )


def _triggers() -> list[tuple[str, str, str, str]]:
    """Return name, when, body and condition of each."""
    made = []
    for number, (table, name, label, count) in enumerate(_TALLIES):
        trigger = f"tally_{name}_{number}"
        old = (label.format(r="OLD"), count.format(r="OLD"))
        new = (label.format(r="NEW"), count.format(r="NEW"))
        changed = f"{old[0]} IS DISTINCT FROM {new[0]} OR {old[1]} <> {new[1]}"
        take = _move(name, label, count, "OLD", "-")
        add = _move(name, label, count, "NEW", "")
        made += [
            (f"{trigger}_added", f"AFTER INSERT ON {table}", add, ""),
            (
                f"{trigger}_changed",
                f"AFTER UPDATE OF {_COLUMNS[table]} ON {table}",
                take + add,
                changed,
            ),
            (f"{trigger}_removed", f"AFTER DELETE ON {table}", take, ""),
        ]
    return made


def upgrade() -> None:
    op.create_table(
        "tally",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("label", sa.Text, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    for table, name, label, count in _TALLIES:
        what, n = label.format(r=table), count.format(r=table)
        op.execute(
            f"INSERT INTO tally (name, label, count) SELECT '{name}', {what}, sum({n})"  # noqa: S608
            f" FROM {table} WHERE {what} IS NOT NULL AND {n} <> 0 GROUP BY {what}"
        )
    for trigger, when, body, condition in _triggers():
        dialect.trigger(op.get_bind(), trigger, when, body, condition=condition)
    op.create_index(
        "unit_heard",
        "unit",
        ["last_contact"],
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )


def downgrade() -> None:
    op.drop_index("unit_heard", "unit")
    for trigger, when, _, _ in _triggers():
        dialect.drop_trigger(op.get_bind(), trigger, when.split()[-1])
    op.drop_table("tally")
