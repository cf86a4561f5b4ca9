"""What each device is now, kept beside what it reports: for lists, sums and what needs attention.

Revision ID: 0009
Revises: 0008
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# These tables hold nothing of their own: triggers derive them from unit, device, allocation and
# holding in the same transaction, so that a list of 100,000 devices is sorted, searched and
# summed without reading a single report. The codes of `worst` are console/attention.py's; the
# three digits before a code are its gravity.

_GRANTED = (
    "(SELECT coalesce(sum(h.granted), 0) FROM holding h WHERE h.serial = u.serial"
    " AND h.type = {type} AND h.since = 0)"
)
_ANY_GRANTED = (
    "EXISTS (SELECT 1 FROM holding h WHERE h.serial = u.serial AND h.since = 0 AND h.granted > 0)"
)
_REPORT = "json_extract(u.report, '$.{}')"
_ACTUAL = (
    "(SELECT coalesce(sum(j.value), 0) FROM json_each(coalesce(u.report, '{}'), '$.actual') j)"
)

_UNIT = f"""
    CASE
      WHEN u.locked IS NOT NULL THEN '100:locked'
      WHEN u.released THEN '080:released'
      WHEN u.public_key IS NULL THEN '050:new'
      WHEN u.last_contact IS NOT NULL AND {_REPORT.format("reason")} = 'factory_reset'
        THEN '082:reset'
      WHEN d.mode <> 'fixed' THEN ''
      WHEN u.restart_number > coalesce({_REPORT.format("restart_done")}, 0) THEN '045:restarting'
      WHEN u.grant_version > 0 AND coalesce({_REPORT.format("mode")}, '') <> 'smart'
        AND {_REPORT.format("remote_version")} = u.grant_version
        AND {_REPORT.format("applied_version")} <> u.grant_version AND d.apply = 'restart'
        THEN CASE WHEN {_ACTUAL} = 0 THEN '085:restart' ELSE '060:restart' END
      WHEN u.grant_version > 0 AND {_REPORT.format("remote_version")} < u.grant_version
        THEN '040:unsent'
      ELSE ''
    END
"""

_ALARM = """
    coalesce((SELECT max(a.rank || ':alarm') FROM json_each(coalesce(u.report, '{}'), '$.alarms') j
      JOIN alarm_rank a ON a.code = j.value), '')
"""

_SHORT = f"""
    CASE WHEN d.mode = 'fixed' AND EXISTS (SELECT 1 FROM allocation a
      WHERE a.device_id = d.device_id AND a.target > {_GRANTED.format(type="a.type")})
      AND coalesce({_REPORT.format("mode")}, 'fixed') <> 'smart' AND u.public_key IS NOT NULL
      THEN '055:short' ELSE '' END
"""  # noqa: S608

_SERIALS = (
    "(SELECT group_concat(s.serial, ' ') FROM (SELECT serial FROM unit"
    " WHERE device_id = d.device_id AND state = 'active' ORDER BY role, serial) s)"
)

_NOW = f"""
    INSERT INTO device_now (device_id, tenant_id, name, mode, serials, worst, lease_end,
        last_contact)
      SELECT d.device_id, d.tenant_id, d.name, d.mode, {_SERIALS},
        max(CASE WHEN d.mode = 'none' THEN '020:unmanaged' ELSE '' END,
          max({_UNIT}), max({_ALARM}), max({_SHORT})),
        min(CASE WHEN {_ANY_GRANTED} THEN u.lease_end END),
        min(CASE WHEN u.public_key IS NOT NULL THEN u.last_contact END)
      FROM device d JOIN unit u ON u.device_id = d.device_id AND u.state = 'active'
      WHERE d.removed_at IS NULL AND {{which}}
      GROUP BY d.device_id
      ON CONFLICT (device_id) DO UPDATE SET tenant_id = excluded.tenant_id, name = excluded.name,
        mode = excluded.mode, serials = excluded.serials, worst = excluded.worst,
        lease_end = excluded.lease_end, last_contact = excluded.last_contact
"""  # noqa: S608

# Of a pair: what both units are sure to have, and calls once, since one of them carries them.
_COUNT = f"""
    INSERT INTO device_count (device_id, type, tenant_id, target, granted, local, actual, in_use,
        pool_in_use)
      SELECT d.device_id, s.type, d.tenant_id,
        coalesce((SELECT a.target FROM allocation a
          WHERE a.device_id = d.device_id AND a.type = s.type), 0),
        min({_GRANTED.format(type="s.type")}),
        min(coalesce(json_extract(u.report, '$.local.' || s.type), 0)),
        min(coalesce(json_extract(u.report, '$.actual.' || s.type), 0)),
        max(coalesce(json_extract(u.report, '$.in_use.' || s.type), 0)),
        max(coalesce(json_extract(u.report, '$.remote_in_use.' || s.type), 0))
      FROM device d JOIN tenant_share s ON s.tenant_id = d.tenant_id
        JOIN unit u ON u.device_id = d.device_id AND u.state = 'active'
      WHERE d.removed_at IS NULL AND {{which}}
      GROUP BY d.device_id, s.type
      ON CONFLICT (device_id, type) DO UPDATE SET tenant_id = excluded.tenant_id,
        target = excluded.target, granted = excluded.granted, local = excluded.local,
        actual = excluded.actual, in_use = excluded.in_use, pool_in_use = excluded.pool_in_use
"""  # noqa: S608

# Sums per tenant, and of the whole pool as tenant 0.
_ADD = """
    INSERT INTO tenant_use (tenant_id, type, in_use, pool_in_use)
      VALUES ({tenant}, NEW.type, NEW.in_use, NEW.pool_in_use)
      ON CONFLICT (tenant_id, type) DO UPDATE SET in_use = in_use + excluded.in_use,
        pool_in_use = pool_in_use + excluded.pool_in_use
"""
_TAKE = """
    UPDATE tenant_use SET in_use = in_use - OLD.in_use, pool_in_use = pool_in_use - OLD.pool_in_use
      WHERE tenant_id IN (0, OLD.tenant_id) AND type = OLD.type
"""

# The peaks of devices within the same hour, added up: the most that can have been in use at once
# (docs/usage.md). Of a pair the higher, since calls are on one unit at a time.
_OTHER = """
    coalesce((SELECT max(h.peak) FROM unit u JOIN unit o ON o.device_id = u.device_id
      AND o.serial <> u.serial AND o.state = 'active' JOIN usage_hour h ON h.serial = o.serial
      AND h.at = NEW.at AND h.type = NEW.type WHERE u.serial = NEW.serial), 0)
"""
_PEAK = f"""
    INSERT INTO tenant_peak (tenant_id, type, at, peak)
      SELECT {{tenant}}, NEW.type, NEW.at, max(NEW.peak, {_OTHER}) - max({{was}}, {_OTHER})
      FROM unit u JOIN device d ON d.device_id = u.device_id WHERE u.serial = NEW.serial
      ON CONFLICT (tenant_id, type, at) DO UPDATE SET peak = peak + excluded.peak
"""  # noqa: S608
_PEAK_OLD = """
    DELETE FROM tenant_peak WHERE tenant_id = NEW.tenant_id AND type = NEW.type
      AND at < NEW.at - 172800;
"""


def _peaks(was: str) -> str:
    return "".join(f"{_PEAK.format(tenant=tenant, was=was)};" for tenant in ("d.tenant_id", "0"))


_UNIT_COLUMNS = (
    "report, grant_version, lease_end, locked, released, public_key, state, device_id,"
    " restart_number"
)


def _derive(which: str) -> str:
    return ";".join(statement.replace("{which}", which) for statement in (_NOW, _COUNT)) + ";"


def _forget(device: str) -> str:
    gone = (
        "NOT EXISTS (SELECT 1 FROM device d JOIN unit u ON u.device_id = d.device_id"  # noqa: S608
        f" AND u.state = 'active' WHERE d.device_id = {device} AND d.removed_at IS NULL)"
    )
    return "".join(
        f"DELETE FROM {table} WHERE device_id = {device} AND {gone};"  # noqa: S608
        for table in ("device_now", "device_count")
    )


TRIGGERS = (
    "CREATE TRIGGER unit_added_now AFTER INSERT ON unit BEGIN "
    + _derive("d.device_id = NEW.device_id")
    + " END",
    f"CREATE TRIGGER unit_changed_now AFTER UPDATE OF {_UNIT_COLUMNS} ON unit BEGIN "
    + _derive("d.device_id = NEW.device_id")
    + " END",
    "CREATE TRIGGER unit_left_now AFTER UPDATE OF state, device_id ON unit"
    " WHEN NEW.state <> OLD.state OR NEW.device_id <> OLD.device_id BEGIN "
    + _derive("d.device_id = OLD.device_id")
    + _forget("OLD.device_id")
    + " END",
    "CREATE TRIGGER device_changed_now AFTER UPDATE ON device BEGIN "
    + _derive("d.device_id = NEW.device_id")
    + _forget("NEW.device_id")
    + " END",
    "CREATE TRIGGER allocation_added_now AFTER INSERT ON allocation BEGIN "
    + _derive("d.device_id = NEW.device_id")
    + " END",
    "CREATE TRIGGER allocation_changed_now AFTER UPDATE OF target ON allocation BEGIN "
    + _derive("d.device_id = NEW.device_id")
    + " END",
    "CREATE TRIGGER allocation_removed_now AFTER DELETE ON allocation BEGIN "
    + _derive("d.device_id = OLD.device_id")
    + " END",
    "CREATE TRIGGER count_added AFTER INSERT ON device_count BEGIN "
    + ";".join(_ADD.format(tenant=tenant) for tenant in ("NEW.tenant_id", "0"))
    + "; END",
    "CREATE TRIGGER count_changed AFTER UPDATE ON device_count"
    " WHEN OLD.in_use <> NEW.in_use OR OLD.pool_in_use <> NEW.pool_in_use"
    " OR OLD.tenant_id <> NEW.tenant_id BEGIN "
    + _TAKE
    + ";"
    + ";".join(_ADD.format(tenant=tenant) for tenant in ("NEW.tenant_id", "0"))
    + "; END",
    "CREATE TRIGGER count_removed AFTER DELETE ON device_count BEGIN " + _TAKE + "; END",
    "CREATE TRIGGER peak_added AFTER INSERT ON usage_hour WHEN NEW.peak > 0 BEGIN "
    + _peaks("0")
    + " END",
    "CREATE TRIGGER peak_changed AFTER UPDATE OF peak ON usage_hour WHEN NEW.peak <> OLD.peak"
    " BEGIN " + _peaks("OLD.peak") + " END",
    f"CREATE TRIGGER peak_old AFTER INSERT ON tenant_peak BEGIN {_PEAK_OLD} END",
)


def upgrade() -> None:
    op.create_table(
        "alarm_rank",
        sa.Column("code", sa.Text, primary_key=True),
        sa.Column("rank", sa.Text, nullable=False),
    )
    op.create_table(
        "device_now",
        sa.Column("device_id", sa.Integer, primary_key=True),
        sa.Column("tenant_id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("serials", sa.Text, nullable=False),
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
    op.create_table(
        "tenant_use",
        sa.Column("tenant_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("in_use", sa.Integer, nullable=False),
        sa.Column("pool_in_use", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tenant_peak",
        sa.Column("tenant_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("at", sa.Integer, primary_key=True),
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
        "holding_reclaiming",
        "holding",
        ["type", "tenant_id", "serial"],
        sqlite_where=sa.text("held > granted"),
    )
    op.create_index(
        "unit_gone", "unit", ["last_contact"], sqlite_where=sa.text("state = 'removed'")
    )
    # A device's life is told from the journal, by its name and its serial numbers.
    for name in ("device", "serial"):
        op.execute(
            f"CREATE INDEX journal_{name} ON journal (json_extract(detail, '$.{name}'), entry)"
            # What somebody has altered by hand is found by `audit verify`, not by an index.
            " WHERE json_valid(detail)"
        )
    for trigger in TRIGGERS:
        op.execute(sa.text(trigger.replace(":", "\\:")))
    for statement in (_NOW, _COUNT):
        op.execute(sa.text(statement.replace("{which}", "TRUE").replace(":", "\\:")))


def downgrade() -> None:
    for trigger in TRIGGERS:
        op.execute(f"DROP TRIGGER {trigger.split()[2]}")
    for index, table in (
        ("unit_gone", "unit"),
        ("holding_reclaiming", "holding"),
        ("journal_device", "journal"),
        ("journal_serial", "journal"),
    ):
        op.drop_index(index, table)
    for table in ("tenant_peak", "tenant_use", "device_count", "device_now", "alarm_rank"):
        op.drop_table(table)
