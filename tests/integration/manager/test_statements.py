"""What the manager asks PostgreSQL again and again finds what it needs by an index.

With a million devices a statement that reads a whole table twice a second is an outage. The planner
is told to read no table whole where it can do otherwise; one that it still does has no index. A
column that it has to cast before it compares is one whose index the value's type does not fit.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import managerkit
import psycopg
import pytest
import sqlalchemy as sa
from managerkit import Site, running
from test_contact_desk import two_of

from callpool.lab.postgres import Cluster
from callpool.manager import inventory, pools
from callpool.manager.change import Change
from callpool.manager.core import Manager
from callpool.manager.own_alarms import OwnAlarms
from callpool.manager.store.tx import Row

#: Tables with a row or more for each device.
LARGE = (
    "unit", "device", "holding", "allocation", "device_now", "device_count", "device_heard",
    "usage_hour", "usage_day", "grant_journal", "journal",
)  # fmt: skip


@contextmanager
def heard() -> Iterator[dict[str, Any]]:
    """Gather statements with their values, as they are sent."""
    found: dict[str, Any] = {}

    def note(
        _connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, _many: bool
    ) -> None:
        found.setdefault(statement, values)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return a plan's nodes."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def reads_all(node: dict[str, Any], first: dict[str, str]) -> bool:
    """Tell whether a node of a plan reads a large table, or one's index, to its end.

    `first` is the first column of each index that has all of its table's rows.
    """
    table, condition = node.get("Relation Name"), node.get("Filter", "")
    if table in LARGE and (
        node["Node Type"] == "Seq Scan" or re.search(r"\(\w+\)::(?:double|numeric)", condition)
    ):
        return True
    column, found = first.get(node.get("Index Name", "")), node.get("Index Cond", "")
    looks = bool(condition or found)  # else it stops at a limit
    return column is not None and looks and not re.search(rf"\b{column}\b", found)


def of_one_device(own: Manager) -> None:
    """Change one device, as operators do."""

    def change(work: Callable[[Change], object]) -> None:
        own.change("tester", "here", work)

    def named(change: Change, name: str) -> Row:
        return inventory.device_by_name(change, name)

    change(lambda c: inventory.add_device(c, "c", ["SN-c"], "default", "live"))
    change(lambda c: pools.allocate(c, named(c, "c"), {"sbc_sessions": 3}))
    change(lambda c: pools.allocate(c, named(c, "a"), {"sbc_sessions": 12}))
    change(lambda c: inventory.make_token(c, uses=1, seconds=60.0, serial="SN-c"))
    change(lambda c: inventory.change_device(c, "c", tenant=None, apply="restart", mode=None))
    change(lambda c: inventory.revoke(c, "SN-b", "lost"))
    change(lambda c: inventory.remove_device(c, "c"))


def of_the_clock(own: Manager) -> None:
    """Do what each manager does again and again."""
    own.change("tester", "", lambda change: change.tx.set_meta("swept", "0"))
    own.sweep()
    looks = OwnAlarms(own)
    looks.look(time.monotonic())
    looks.close()
    own.heads.keep(own)
    own.grants.follow()


@pytest.mark.parametrize("asks", [of_the_clock, of_one_device])
def test_no_large_table_is_read_whole(
    asks: Callable[[Manager], None],
    tmp_path: Path,
    postgres: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(managerkit, "new_database", postgres.database)
    site = Site(tmp_path / "manager", lab_clock="")
    with running(site) as manager:
        two_of(manager)
    own = Manager(site.layout)
    try:
        with heard() as statements:
            asks(own)
    finally:
        own.close()
    assert sum("lease_hour" in s for s in statements) >= 1
    database = str(site.layout.database_place()).replace("+psycopg", "")
    with psycopg.connect(database) as connection:
        for setting in ("enable_seqscan = off", "plan_cache_mode = force_generic_plan"):
            connection.execute(f"SET {setting}")
        first: dict[str, str] = dict(
            connection.execute(
                "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid, 1, TRUE)"
                " FROM pg_index WHERE indpred IS NULL AND indrelid::regclass::text = ANY (%s)",
                (list(LARGE),),
            ).fetchall()
        )
        whole = {}
        for statement, values in statements.items():
            if not re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT)", statement):
                continue
            if re.search(r"pg_|set_config", statement):
                continue
            if statement.startswith("SELECT * FROM device d WHERE EXISTS (SELECT 1 FROM alloc"):
                continue  # an order that begins or ends concerns every device
            (((told,),),) = connection.execute(f"EXPLAIN (FORMAT JSON) {statement}", values)
            plan = told["Plan"]
            # Tables as small as these are joined in any order: where it joins, an index may be
            # read to its end by the planner's choice.
            joins = any("Join" in n["Node Type"] or "Loop" in n["Node Type"] for n in nodes(plan))
            found = [n for n in nodes(plan) if reads_all(n, {} if joins else first)]
            if found:
                whole[statement] = found
    assert not whole
