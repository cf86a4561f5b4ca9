"""The tallies equal a recount whatever happens, and every series is bounded."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric

from callpool.manager.metrics import MOST_ORDERS, MOST_TENANTS, OTHERS, families
from callpool.manager.store.database import Database
from callpool.manager.store.tx import Tx

NOW = 1_800_000_000.0
RECOUNT = {
    "units": (
        "SELECT CASE WHEN locked IS NOT NULL THEN 'locked' WHEN released THEN 'released'"
        " WHEN last_contact IS NOT NULL AND json_extract(report, '$.reason') = 'factory_reset'"
        " THEN 'reset' WHEN public_key IS NOT NULL THEN 'enrolled' ELSE 'new' END AS label,"
        " count(*) AS n FROM unit WHERE state = 'active' GROUP BY label"
    ),
    "devices": "SELECT mode AS label, count(*) AS n FROM device WHERE removed_at IS NULL"
    " GROUP BY mode",
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "manager.db")
    made.migrate()
    yield made
    made.close()


def sample(found: list[Metric], name: str, **labels: str) -> float:
    [value] = [s.value for m in found for s in m.samples if s.name == name and s.labels == labels]
    return float(value)


def counted(tx: Tx, name: str) -> dict[str, int]:
    rows = tx.rows("SELECT label, count AS n FROM tally WHERE name = :name", name=name)
    return {r["label"]: r["n"] for r in rows if r["n"]}


def report(rng: random.Random) -> str:
    return json.dumps(
        {
            "reason": rng.choice(["poll", "poll", "factory_reset"]),
            "in_use": {"sbc_sessions": rng.randrange(9), "far_end_users": rng.randrange(9)},
        },
        separators=(",", ":"),  # as the manager writes them
    )


def test_the_tallies_equal_a_recount_whatever_is_done(database: Database) -> None:
    rng = random.Random(7)
    database.write(lambda tx: tx.run("INSERT INTO tenant (name) VALUES ('t')"))
    changes: list[tuple[str, Any]] = [
        ("locked", lambda: rng.choice([None, "stale_contact"])),
        ("released", lambda: rng.choice([0, 1])),
        ("public_key", lambda: rng.choice([None, "k"])),
        ("last_contact", lambda: rng.choice([None, NOW])),
        ("report", lambda: rng.choice([None, report(rng), report(rng)])),
        ("state", lambda: rng.choice(["active", "active", "removed", "replaced"])),
    ]

    def step(tx: Tx, number: int) -> None:
        if number < 10:
            tx.run(
                "INSERT INTO device (device_id, name, tenant_id, apply, mode, added_at)"
                " VALUES (:n, 'd' || :n, 1, 'live', :mode, 0)",
                n=number, mode=rng.choice(["fixed", "none"]),
            )  # fmt: skip
            tx.run("INSERT INTO unit (serial, device_id, role) VALUES ('s' || :n, :n, 0)", n=number)
            return
        chosen = rng.randrange(10)
        if rng.random() < 0.2:
            tx.run(
                "UPDATE device SET mode = :mode, removed_at = :at WHERE device_id = :n",
                n=chosen, mode=rng.choice(["fixed", "none"]), at=rng.choice([None, None, 1.0]),
            )  # fmt: skip
        for name, value in rng.sample(changes, 2):
            tx.run(
                f"UPDATE unit SET {name} = :value WHERE serial = 's' || :n",  # noqa: S608
                n=chosen, value=value(),
            )  # fmt: skip

    for number in range(300):
        database.write(lambda tx, n=number: step(tx, n))  # type: ignore[misc]
        for name, recount in RECOUNT.items():
            told = database.read(lambda tx, n=name: counted(tx, n))  # type: ignore[misc]
            rows = database.read(lambda tx, r=recount: tx.rows(r))  # type: ignore[misc]
            assert told == {r["label"]: r["n"] for r in rows if r["n"]}, (number, name)


def test_the_tallies_begin_with_what_is_there(tmp_path: Path) -> None:
    from test_migrations import to

    made = Database(tmp_path / "manager.db")
    to(made, "0005")

    with contextlib.closing(sqlite3.connect(made.file)) as found:
        found.execute("INSERT INTO tenant (name) VALUES ('t')")
        found.execute(
            "INSERT INTO device (device_id, name, tenant_id, apply, mode, added_at)"
            " VALUES (1, 'd', 1, 'live', 'fixed', 0)"
        )
        found.execute(
            "INSERT INTO unit (serial, device_id, role, public_key, report)"
            " VALUES ('s', 1, 0, 'k', ?)",
            (json.dumps({"in_use": {"sbc_sessions": 4}}),),
        )
        found.commit()
    made.migrate()
    made.write(lambda tx: None)  # the first write derives what has been there before
    assert made.read(lambda tx: counted(tx, "units")) == {"enrolled": 1}
    assert made.read(lambda tx: tx.value("SELECT sum(in_use) FROM device_count")) == 4
    to(made, "0005", down=True)
    made.close()


def test_tenants_beyond_the_first_and_orders_beyond_the_next_are_told_of_together(
    database: Database,
) -> None:
    more = MOST_TENANTS + 5

    def fill(tx: Tx) -> None:
        for number in range(more):
            tx.run("INSERT INTO tenant (name) VALUES (:name)", name=f"t{number}")
            tx.run(
                "INSERT INTO tenant_share (tenant_id, type, share, held)"
                " VALUES (:id, 'sbc_sessions', 10, :held)",
                id=number + 1, held=number % 3,
            )  # fmt: skip
            tx.run(
                "INSERT INTO purchase_order (order_id, starts, ends, issued_at, imported_at,"
                " envelope) VALUES (:id, 0, :ends, 0, 0, '')",
                id=f"o{number}", ends=NOW + number,
            )  # fmt: skip

    database.write(fill)
    found = database.read(lambda tx: families(tx, NOW))
    tenants = {
        s.labels["tenant"]: s.value
        for m in found
        for s in m.samples
        if s.name == "callpool_manager_tenant_held"
    }
    assert len(tenants) == MOST_TENANTS + 1
    assert set(tenants) == {f"t{n}" for n in range(MOST_TENANTS)} | {OTHERS}
    assert tenants[OTHERS] == sum(n % 3 for n in range(MOST_TENANTS, more))
    share = sample(found, "callpool_manager_tenant_share", tenant=OTHERS, type="sbc_sessions")
    assert share == 50
    orders = [
        s.labels["order"]
        for m in found
        for s in m.samples
        if s.name == "callpool_manager_order_end_timestamp_seconds"
    ]
    assert orders == [f"o{n}" for n in range(1, MOST_ORDERS + 1)], "those that end next"


def test_a_scrape_reads_no_table_of_units_or_holdings_whole(database: Database) -> None:
    plans: list[str] = []

    class Explained(Tx):
        def rows(self, statement: str, /, **values: Any) -> Any:
            for row in super().rows(f"EXPLAIN QUERY PLAN {statement}", **values):
                plans.append(row["detail"])
            return super().rows(statement, **values)

        def value(self, statement: str, /, **values: Any) -> Any:
            self.rows(statement, **values)
            return super().value(statement, **values)

    database.read(lambda tx: families(Explained(tx._connection), NOW))
    grown = ("unit", "holding", "device", "product_instance", "allocation", "journal")
    whole = [p for p in plans if p.startswith(tuple(f"SCAN {t}" for t in grown))]
    # What is in use is added up along an index that holds nothing else.
    indexed = ("holding_giving_back", "COVERING INDEX device_count_in_use")
    assert [p for p in whole if not any(name in p for name in indexed)] == []
    assert any("device_heard_last" in p for p in plans)
