"""Fill a manager's database with many tenants and devices, as years of use would."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import msgspec

S, F = "sbc_sessions", "far_end_users"


def fill(file: Path, *, devices: int, tenants: int, now: float) -> None:
    """Write `devices` devices of `tenants` tenants, one unit each, as one transaction."""
    slices = [{"order_id": "PO-many", "since": 0, "until": now + 1e7, "counts": {S: 5, F: 5}}]
    grant = msgspec.json.encode(slices).decode()
    counts = {S: 3, F: 2}
    report = msgspec.json.encode(
        {
            "remote_version": 1, "applied_version": 1, "time": now, "actual": counts,
            "in_use": counts, "peak": counts, "local": {S: 0, F: 0}, "maximum": {S: 100, F: 100},
            "refused": {S: 1}, "alarms": [], "software": "callpool 1.0", "mode": "fixed",
            "remote_in_use": counts, "reason": "poll",
        }
    ).decode()  # fmt: skip
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA synchronous=OFF")
        database.execute(
            "INSERT INTO purchase_order VALUES ('PO-many', ?, ?, ?, ?, 'generated')",
            (now - 10, now + 1e7, now, now),
        )
        # It began before the manager last looked: nothing is due.
        database.execute("INSERT OR REPLACE INTO meta VALUES ('swept', ?)", (repr(now),))
        for kind in (S, F):
            database.execute(
                "INSERT INTO order_line (order_id, type, count) VALUES ('PO-many', ?, ?)",
                (kind, 10 * devices),
            )
        for n in range(tenants):
            tenant = 1000 + n
            database.execute("INSERT INTO tenant VALUES (?, ?)", (tenant, f"tenant-{n:04}"))
            database.executemany(
                "INSERT INTO tenant_share (tenant_id, type, share) VALUES (?, ?, NULL)",
                [(tenant, kind) for kind in (S, F)],
            )
        rows = range(devices)
        database.executemany(
            "INSERT INTO device (device_id, name, tenant_id, apply, mode, added_at)"
            " VALUES (?, ?, ?, 'restart', 'fixed', ?)",
            [(1000 + n, f"sbc-{n:06}", 1000 + n % tenants, now - n) for n in rows],
        )
        database.executemany(
            "INSERT INTO unit (serial, device_id, role, public_key, kid, enrolled_at, report,"
            " last_contact, leased, lease_end, grant_version, grant_content, sent_version)"
            " VALUES (?, ?, 0, 'key', ?, ?, ?, ?, TRUE, ?, 1, ?, 1)",
            [
                (f"SN{n:08}", 1000 + n, f"kid-{n}", now, report, now - n % 3000, now + 6e5, grant)
                for n in rows
            ],
        )
        for kind in (S, F):
            database.executemany(
                "INSERT INTO allocation (device_id, type, target, since) VALUES (?, ?, ?, ?)",
                [(1000 + n, kind, 1 + n % 5, now) for n in rows],
            )
            database.executemany(
                "INSERT INTO holding (serial, type, order_id, since, tenant_id, granted, held)"
                " VALUES (?, ?, 'PO-many', 0, ?, ?, ?)",
                [(f"SN{n:08}", kind, 1000 + n % tenants, 1 + n % 5, 1 + n % 5) for n in rows],
            )
        database.commit()
        database.execute("ANALYZE")
        database.commit()
