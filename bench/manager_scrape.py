"""`manager_scrape_ms`: what one scrape of a manager with 100,000 devices costs.

A database as the manager makes it is filled with enrolled units that hold licenses of an order
and have reported; then `/metrics` is worked out again and again, without HTTP. No peer does this;
the figure stands alone. The aim is 50 ms. `write` is what one report adds to a transaction: the
same update with the tallies' triggers and without them, by turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from callpool.host.metrics import Once, answer
from callpool.manager.metrics import families
from callpool.manager.store.database import Database
from callpool.manager.store.tx import Tx

NOW = 1_800_000_000.0


def report(number: int, filler: str) -> str:
    return json.dumps(
        {
            "serial": f"SN-{number}", "reason": "poll", "software": filler,
            "in_use": {"sbc_sessions": number % 40, "far_end_users": number % 7},
        }
    )  # fmt: skip


def fill(tx: Tx, devices: int) -> None:
    tx.run(
        "INSERT INTO purchase_order (order_id, starts, ends, issued_at, imported_at, envelope)"
        " VALUES ('o', 0, 9e9, 0, 0, '')"
    )
    for number in range(200):
        tx.run("INSERT INTO tenant (name) VALUES (:name)", name=f"t{number}")
    for kind in ("sbc_sessions", "far_end_users"):
        tx.run("INSERT INTO order_line (order_id, type, count) VALUES ('o', :t, 9000000)", t=kind)
        tx.run(
            "INSERT INTO tenant_share (tenant_id, type) SELECT tenant_id, :t FROM tenant", t=kind
        )
    for number in range(devices):
        tenant = number % 200 + 1
        tx.run(
            "INSERT INTO device (device_id, name, tenant_id, apply, mode, added_at)"
            " VALUES (:n, 'd' || :n, :tenant, 'live', 'fixed', 0)",
            n=number, tenant=tenant,
        )  # fmt: skip
        tx.run(
            "INSERT INTO unit (serial, device_id, role, public_key, last_reply, last_contact,"
            " leased, lease_end, report) VALUES ('SN-' || :n, :n, 0, 'k', :reply, :at, 1, 9e9, :r)",
            n=number, reply="x" * 2000, at=NOW - number % 40_000, r=report(number, "x" * 1500),
        )  # fmt: skip
        for kind in ("sbc_sessions", "far_end_users"):
            tx.run(
                "INSERT INTO holding (serial, type, order_id, tenant_id, granted, held)"
                " VALUES ('SN-' || :n, :t, 'o', :tenant, 40, :held)",
                n=number, t=kind, tenant=tenant, held=40 + (number % 50 == 0),
            )  # fmt: skip


def scrape(database: Database) -> tuple[float, int]:
    begun = time.perf_counter()
    found = database.read(lambda tx: families(tx, NOW))
    body, _ = answer("", Once(found), CollectorRegistry())
    return 1000 * (time.perf_counter() - begun), body.count(b"\n")


def update(tx: Tx, number: int, salt: int) -> None:
    tx.run(
        "UPDATE unit SET report = :r, last_contact = :at WHERE serial = 'SN-' || :n",
        r=report(number + salt, "x" * 1500), at=NOW + salt, n=number,
    )  # fmt: skip


class Rolled(Exception):
    """Ends a transaction without keeping it."""


def write_ms(database: Database, reports: int, *, triggers: bool, salt: int) -> float:
    """Milliseconds that one report's update takes, the durable end left out."""
    spent = 0.0

    def work(tx: Tx) -> None:
        nonlocal spent
        if not triggers:
            names = tx.rows("SELECT name FROM sqlite_master WHERE name LIKE 'tally_%'")
            for row in names:
                tx.run(f"DROP TRIGGER {row['name']}")
        begun = time.perf_counter()
        for number in range(reports):
            update(tx, number, salt)
        spent = time.perf_counter() - begun
        raise Rolled

    try:
        database.write(work)
    except Rolled:
        return 1000 * spent / reports
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=50)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        database = Database(Path(directory) / "manager.db")
        database.migrate()
        database.write(lambda tx: fill(tx, said.devices))
        size = database.file.stat().st_size / 1e6
        taken = sorted(scrape(database)[0] for _ in range(said.rounds))
        _, lines = scrape(database)
        with_them, without = (
            statistics.median(
                write_ms(database, 2000, triggers=t, salt=salt) for salt in range(1, 6)
            )
            for t in (True, False)
        )
        database.close()
    figure = {
        "name": "manager_scrape_ms",
        "ours": round(statistics.median(taken), 2),
        "peer": None,
        "ratio": None,
        "interval": [round(taken[len(taken) // 20], 2), round(taken[-1 - len(taken) // 20], 2)],
        "unit": "ms",
        "how": f"{said.rounds} scrapes of {lines} lines, {said.devices} devices, database of "
        f"{size:.0f} MB; interval: 5th to 95th percentile; aim 50 ms; one report's update "
        f"{with_them:.3f} ms with the tallies, {without:.3f} ms without",
    }
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
