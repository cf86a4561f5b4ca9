"""Several managers on one PostgreSQL database: what holds across them, and what happens once."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import managerkit
import pytest
from managerkit import Running, Site, eventually

from callpool.host.clock import LabClock
from callpool.lab.postgres import Cluster
from callpool.manager import inventory
from callpool.manager.change import Change
from callpool.manager.core import Manager
from callpool.manager.settings import Layout


class Two:
    """One site, and two managers of it, each in a directory of its own."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.site = Site(directory / "a", **settings)
        shutil.copytree(directory / "a", directory / "b")
        self.other = Site.__new__(Site)
        self.other.__dict__.update(self.site.__dict__)
        self.other.layout = Layout(directory / "b")
        self.a = Running(self.site)
        self.b = Running(self.other)

    def close(self) -> None:
        for manager in (self.a, self.b):
            if manager.process.poll() is None:
                manager.kill()


@pytest.fixture(scope="module", autouse=True)
def engine(postgres: Cluster) -> Iterator[None]:
    managerkit.new_database = postgres.database
    yield
    managerkit.new_database = None


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path, lease_seconds=1000.0)
    yield made
    made.close()


def last(journal: Path) -> int:
    return int(json.loads(journal.read_text().splitlines()[-1])["number"])


def test_sessions_keys_and_limits_hold_at_both_and_the_clock_acts_once(two: Two) -> None:
    a, b = two.a, two.b
    # A session, and an idempotency key.
    body = {"username": "admin", "password": two.site.password}
    session = a.client(signed_in=False).post("/api/v1/sessions", json=body).json()["token"]
    bearer = {"Authorization": f"Bearer {session}", "Idempotency-Key": "the-same-change"}
    plain = [m.client(signed_in=False) for m in (a, b)]
    first = plain[0].post("/api/v1/tokens", json={}, headers=bearer)
    again = plain[1].post("/api/v1/tokens", json={}, headers=bearer)
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert again.headers["Idempotent-Replayed"]
    # A device goes from one to the other; its reply is the same where it asks again.
    a.import_order(two.site.order("PO-1", days=5, sbc_sessions=20))
    a.add("x", "X", apply="live")
    device = a.device("X")
    b.call("PUT", "/devices/x/allocation", {"sbc_sessions": 5}, 200)
    device.moved(b)
    assert device.counts(device.contact()) == {"sbc_sessions": 5}
    asked = device.request()
    reply = device.send(asked)
    device.moved(a)
    # The same request at the other manager: repeated byte for byte, whatever its address says.
    assert device.take(reply).contact == device.value
    for n in range(6):
        device.moved((a, b)[n % 2])
        device.contact()
    assert two.a.unit("X")["locked"] is None
    # What the clock brings is done once, by whoever comes first.
    clock = LabClock(two.site.clock_file)
    clock.advance(1000.0 + 400.0)
    ended = "SELECT count(*) FROM journal WHERE cause = 'lease_ended'"
    eventually(lambda: two.site.sql(ended) == [(1,)])
    raised = "SELECT about FROM alarm_event WHERE about LIKE 'order %' AND transition = 'raised'"
    eventually(lambda: two.site.sql(raised) == [("order PO-1",)])
    for manager in (a, b, a, b):
        clock.advance(1.0)
        manager.pool()  # it looks first at what the clock brought: nothing more
    assert two.site.sql(ended) == [(1,)]
    # The look that raises the second order's alarm has seen the first one's once more.
    a.import_order(two.site.order("PO-2", days=5, sbc_sessions=1))
    eventually(lambda: ("order PO-2",) in two.site.sql(raised))
    assert sorted(two.site.sql(raised)) == [("order PO-1",), ("order PO-2",)]
    entries = [n for (n,) in two.site.sql("SELECT entry FROM journal ORDER BY entry")]
    assert entries == list(range(1, len(entries) + 1))
    # Each has the whole grant journal.
    files = [s.layout.grants for s in (two.site, two.other)]
    eventually(lambda: len({last(file) for file in files}) == 1)
    # Guesses at one count at the other.
    stranger = httpx.BasicAuth("admin", "wrong")
    codes = [plain[n % 2].get("/api/v1/pool", auth=stranger).json()["code"] for n in range(12)]
    assert codes[:10] == ["bad_credentials"] * 10
    assert set(codes[10:]) == {"too_many_failures"}


def allocate_all(two: Two, devices: int, pool: int, threads: int) -> Counter[str]:
    """Ask for one session for each of `devices`, all at once at both; return the answers."""
    two.a.import_order(two.site.order("PO-1", sbc_sessions=pool))

    def add(change: Change, numbers: range) -> None:
        for n in numbers:
            inventory.add_device(change, f"d{n}", [f"S{n}"], "default", "live")

    manager = Manager(two.site.layout)
    for start in range(0, devices, 500):
        numbers = range(start, min(devices, start + 500))
        manager.change("admin", "here", partial(add, numbers=numbers))
    manager.close()
    answers: Counter[str] = Counter()
    lock = threading.Lock()

    def operate(thread: int) -> None:
        client = (two.a, two.b)[thread % 2].client()
        for n in range(thread, devices, threads):
            reply = client.put(f"/api/v1/devices/d{n}/allocation", json={"sbc_sessions": 1})
            code = "given" if reply.status_code == 200 else reply.json()["code"]
            with lock:
                answers[code] += 1

    workers = [threading.Thread(target=operate, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        began = time.monotonic()
        two.site.check_sums()
        # The witness takes a tenth of the time at most: with 100,000 rows a look takes long.
        time.sleep(max(0.2, 10 * (time.monotonic() - began)))
    return answers


@pytest.mark.parametrize(
    "devices",
    [1_000, pytest.param(100_000, marks=[pytest.mark.full, pytest.mark.timeout(7200)])],
)
def test_many_allocations_at_two_managers_give_exactly_the_pool(two: Two, devices: int) -> None:
    pool = devices // 2
    answers = allocate_all(two, devices, pool, threads=8)
    assert answers == {"given": pool, "pool_exceeded": devices - pool}
    two.site.check_sums()
    assert two.site.sql("SELECT held, count FROM order_line") == [(pool, pool)]
    assert two.site.sql("SELECT count(*), sum(target) FROM allocation WHERE target > 0") == [
        (pool, pool)
    ]
