"""The tables that triggers derive are what deriving them anew would give, whatever happened."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from callpool.manager.change import Change
from callpool.manager.settings import Settings
from callpool.manager.store.database import Database
from callpool.manager.store.derived import settle
from callpool.manager.store.tx import Tx
from callpool.manager.usage import take_usage
from callpool.wire.messages import UsageCount, UsageMinute

TYPES = ("sbc_sessions", "far_end_users")
TABLES = ("device_now", "device_count", "device_heard")


def derived(tx: Tx) -> dict[str, list[Any]]:
    """Return the derived tables."""
    return {
        table: sorted((tuple(r.values()) for r in tx.rows(f"SELECT * FROM {table}")), key=repr)  # noqa: S608
        for table in TABLES
    }


def anew(tx: Tx) -> dict[str, list[Any]]:
    """Derive the tables anew and return them."""
    for table in TABLES:
        tx.run(f"DELETE FROM {table}")  # noqa: S608
    tx.run("INSERT INTO device_touched (device_id) SELECT device_id FROM device")
    settle(tx)
    return derived(tx)


def report(chance: random.Random) -> str:
    versions = [chance.randint(1, 3), chance.randint(1, 3)]
    counts = {kind: chance.randint(0, 9) for kind in TYPES}
    return json.dumps(
        {
            "remote_version": max(versions), "applied_version": min(versions),
            "in_use": counts, "remote_in_use": counts, "actual": counts, "local": counts,
            "restart_done": 0, "mode": chance.choice(["fixed", "smart", "none"]),
            "reason": chance.choice(["poll", "factory_reset"]),
            "alarms": chance.choice([[], ["gate_down"], ["restart_pending"]]),
        }
    )  # fmt: skip


def step(tx: Tx, chance: random.Random, now: int) -> None:
    """Do one thing that happens to a pool."""
    serial, device = f"SN-{chance.randint(1, 6)}", chance.randint(1, 4)
    known = tx.row("SELECT 1 FROM unit WHERE serial = :s", s=serial)
    what = chance.randint(0, 9)
    if known is None:
        tx.run("INSERT INTO unit (serial, device_id, role) VALUES (:s, :d, 0)", s=serial, d=device)
    elif what == 0:
        state = chance.choice(["active", "removed", "replaced"])
        tx.run("UPDATE unit SET state = :v WHERE serial = :s", v=state, s=serial)
    elif what == 1:
        tx.run("UPDATE unit SET device_id = :d WHERE serial = :s", d=device, s=serial)
    elif what == 2:
        removed = chance.choice([None, float(now)])
        tx.run("UPDATE device SET removed_at = :v WHERE device_id = :d", v=removed, d=device)
    elif what == 3:
        tenant, mode = chance.randint(1, 2), chance.choice(["fixed", "none"])
        tx.run(
            "UPDATE device SET tenant_id = :t, mode = :m WHERE device_id = :d",
            t=tenant, m=mode, d=device,
        )  # fmt: skip
    elif what == 4:
        tx.run("DELETE FROM allocation WHERE device_id = :d", d=device)
    elif what == 5:
        tx.run(
            "INSERT INTO allocation (device_id, type, target, since) VALUES (:d, :t, :n, 0)"
            " ON CONFLICT (device_id, type) DO UPDATE SET target = excluded.target",
            d=device, t=chance.choice(TYPES), n=chance.randint(0, 9),
        )  # fmt: skip
    elif what == 6:
        tx.run(
            "UPDATE unit SET locked = :l, released = :r, restart_number = :n WHERE serial = :s",
            l=chance.choice([None, "clone"]), r=chance.random() < 0.3, n=chance.randint(0, 1),
            s=serial,
        )  # fmt: skip
    else:
        tx.run(
            "INSERT INTO holding VALUES (:s, :t, 'PO', 0, 1, :n, :n)"
            " ON CONFLICT (serial, type, order_id, since) DO UPDATE SET"
            " granted = excluded.granted, held = excluded.held",
            s=serial, t=chance.choice(TYPES), n=chance.randint(0, 9),
        )  # fmt: skip
        tx.run(
            "UPDATE unit SET report = :r, public_key = 'k', last_contact = :now, lease_end = :end,"
            " grant_version = :v WHERE serial = :s",
            r=report(chance), now=float(now), end=now + 600.0, v=chance.randint(0, 3), s=serial,
        )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_derived_tables_are_what_deriving_them_anew_gives(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    made = Database(tmp_path / "manager.db")
    made.migrate()

    def fill(tx: Tx) -> None:
        tx.run("INSERT INTO purchase_order VALUES ('PO', 0, 9e9, 0, 0, '')")
        for tenant in (1, 2):
            tx.run("INSERT INTO tenant VALUES (:t, :n)", t=tenant, n=f"tenant-{tenant}")
            for kind in TYPES:
                tx.run("INSERT INTO tenant_share (tenant_id, type) VALUES (:t, :k)",
                       t=tenant, k=kind)  # fmt: skip
        for kind in TYPES:
            tx.run("INSERT INTO order_line (order_id, type, count) VALUES ('PO', :k, 999)", k=kind)
        for device in range(1, 5):
            tx.run(
                "INSERT INTO device (device_id, name, tenant_id, apply, mode, added_at)"
                " VALUES (:d, :n, 1, 'restart', 'fixed', 0)",
                d=device, n=f"sbc-{device}",
            )  # fmt: skip

    def walk(tx: Tx) -> int:
        shown = 0
        for number in range(150):
            step(tx, chance, 1_000_000 + number)
            settle(tx)
            kept = derived(tx)
            shown += sum(1 for r in tx.rows("SELECT worst FROM device_now") if r["worst"])
            assert anew(tx) == kept
        return shown

    made.write(fill)
    assert made.write(walk) > 60
    made.close()


def test_a_peak_is_that_of_the_hour_and_an_ha_pair_counts_once(tmp_path: Path) -> None:
    made = Database(tmp_path / "manager.db")
    made.migrate()

    def fill(tx: Tx) -> None:
        tx.run("INSERT INTO tenant VALUES (1, 'one')")
        for device, serials in ((1, ("A",)), (2, ("B1", "B2"))):
            tx.run(
                "INSERT INTO device (device_id, name, tenant_id, apply, mode, added_at)"
                " VALUES (:d, :n, 1, 'live', 'fixed', 0)",
                d=device, n=f"sbc-{device}",
            )  # fmt: skip
            for role, serial in enumerate(serials):
                tx.run("INSERT INTO unit (serial, device_id, role) VALUES (:s, :d, :r)",
                       s=serial, d=device, r=role)  # fmt: skip
        change = Change(tx=tx, now=7200.0, elapsed=0.0, who="test", source="", lease_seconds=600.0)
        for serial, at, peak in (
            ("A", 0, 5), ("B1", 60, 7), ("B2", 0, 4), ("A", 3600, 9), ("B1", 120, 8),
            ("B2", 60, 9), ("B2", 120, 3), ("B1", 60, 30),
        ):  # fmt: skip
            minute = UsageMinute(at=at, types={"sbc_sessions": UsageCount(peak)})
            take_usage(change, serial, (minute,), Settings())

    made.write(fill)
    peaks = made.read(lambda tx: {tuple(r.values()) for r in tx.rows("SELECT * FROM tenant_peak")})
    # The last of them repeats a minute that was taken, and counts for nothing.
    assert peaks == {("sbc_sessions", 0, 1, 14), ("sbc_sessions", 3600, 1, 9)}
    made.close()
