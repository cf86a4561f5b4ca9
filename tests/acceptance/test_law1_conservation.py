"""Law 1: caps in force on all devices never sum to more than what is purchased and in date."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
import threading
import time

import pytest
from lawkit import LabMaker, calls_up, enforced, most

from callpool.host.ports import free_port
from callpool.host.sipp import caller
from callpool.lab.fleet import Plan
from callpool.lab.handle import LabHandle
from callpool.lab.processes import spawn, stop, wait_for
from callpool.licensing.capacity import SBC_SESSIONS
from callpool.licensing.errors import CallpoolError
from callpool.manager.client import Connection, ManagerClient

YEAR = 365 * 86_400


def buy(lab: LabHandle, sessions: int, users: int = 0) -> None:
    now = int(time.time())
    counts = {"sbc_sessions": sessions, "far_end_users": users}
    lab.buy({k: v for k, v in counts.items() if v}, starts=now - 60, ends=now + YEAR)


def held(lab: LabHandle) -> int:
    with sqlite3.connect(lab.lab.manager.database, timeout=60) as database:
        return int(database.execute("SELECT coalesce(sum(held), 0) FROM holding").fetchone()[0])


def test_two_managers_allocating_at_once_never_let_the_devices_enforce_more_than_was_bought(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(Plan(apply="live"))
    buy(lab, 60)
    directory, first = lab.lab.manager.directory, lab.lab.manager
    port = free_port()
    second = spawn(
        "manager-2",
        [*_callpool(), "manager", "run", "--dir", directory, "--listen", f"127.0.0.1:{port}"],
        lab.directory / "log" / "manager-2.log",
    )
    urls = [first.url, f"https://localhost:{port}"]
    try:
        connections = [
            Connection(
                url=url, ca_file=first.ca_file, username=first.username, password=first.password
            )
            for url in urls
        ]
        wait_for("the second manager", lambda: _answers(connections[1]), seconds=60)
        granted, refused = [0, 0], [0, 0]
        codes: set[str] = set()

        def allocate(index: int) -> None:
            chosen = random.Random(7 + index)
            with ManagerClient(connections[index]) as client:
                for _ in range(60):
                    name = chosen.choice(["sbc-a", "sbc-b", "sbc-c"])
                    body = {"sbc_sessions": chosen.randrange(0, 61)}
                    try:
                        client.call("PUT", f"/devices/{name}/allocation", body)
                        granted[index] += 1
                    except CallpoolError as error:
                        codes.add(error.code)
                        refused[index] += 1

        threads = [threading.Thread(target=allocate, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert held(lab) <= 60
            threads[0].join(0.01)
        assert min(granted) > 0
        assert min(refused) > 0
        assert codes == {"pool_exceeded"}

        def followed() -> bool:
            devices = {d["name"]: d for d in lab.pool()["devices"]}
            return all(
                lab.row(n, SBC_SESSIONS)["actual"] == d["allocation"].get(SBC_SESSIONS, 0)
                for n, d in devices.items()
            )

        wait_for("the devices to follow", followed, seconds=60)
        changes = [c for d in lab.devices for c in enforced(lab, d.name, SBC_SESSIONS)]
        assert len(changes) > 10
        assert most(changes) <= 60
    finally:
        stop(second, grace=10)


def test_a_share_with_calls_on_it_grows_elsewhere_only_as_those_calls_end(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(Plan(names=("sbc-a", "sbc-b"), apply="live"))
    buy(lab, 20)
    lab.allocate("sbc-a", sbc_sessions=20)
    lab.await_actual("sbc-a", SBC_SESSIONS, 20)

    async def story() -> None:
        # 12 short calls and 8 long ones fill A.
        short = await caller(lab.sip("sbc-a"), calls=12, rate=50, hold_ms=9000)
        long = await caller(lab.sip("sbc-a"), calls=8, rate=50, hold_ms=30_000)
        await asyncio.to_thread(
            wait_for, "A to be full", lambda: lab.gate("sbc-a")["sessions"] == 20, seconds=60
        )
        lab.allocate("sbc-a", sbc_sessions=5)
        lab.await_actual("sbc-a", SBC_SESSIONS, 5)
        # A admits no more, but its 20 calls go on: nothing is free for B yet.
        with pytest.raises(CallpoolError) as caught:
            lab.allocate("sbc-b", sbc_sessions=15)
        assert caught.value.code == "pool_exceeded"
        assert lab.pool()["types"][SBC_SESSIONS]["reclaiming"] == 15
        result = await short.wait(60)
        assert (result.completed, result.failed) == (12, 0)
        # 8 calls are left on A, so 12 are free, not 15.
        await asyncio.to_thread(
            wait_for,
            "12 to be free",
            lambda: lab.pool()["types"][SBC_SESSIONS]["free"] == 12,
            seconds=60,
        )
        lab.allocate("sbc-b", sbc_sessions=12)
        lab.await_actual("sbc-b", SBC_SESSIONS, 12)
        fill = await caller(lab.sip("sbc-b"), calls=40, rate=50, hold_ms=2000)
        assert (await long.wait(90)).failed == 0
        filled = await fill.wait(60)
        assert filled.admitted + filled.answers.get(503, 0) == 40

    asyncio.run(story())
    assert most(calls_up(lab, ["sbc-a", "sbc-b"])) == 20
    wait_for(
        "the rest of A's share to be free",
        lambda: lab.pool()["types"][SBC_SESSIONS]["free"] == 3,
        seconds=60,
    )


def test_an_order_that_ends_takes_its_licenses_out_of_force_even_with_the_manager_dead(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(Plan(names=("sbc-a",), apply="live"))
    now = int(time.time())
    lab.buy({SBC_SESSIONS: 7}, starts=now - 60, ends=now + YEAR)
    end = int(time.time()) + 30
    lab.buy({SBC_SESSIONS: 9}, starts=now - 60, ends=end)
    lab.allocate("sbc-a", sbc_sessions=16)
    lab.await_actual("sbc-a", SBC_SESSIONS, 16)
    lab.kill("manager")
    # The core cannot help either: Kamailio walks the step by itself.
    lab.send("sbc-a", signal.SIGSTOP)

    async def fill() -> int:
        sipp = await caller(lab.sip("sbc-a"), calls=20, rate=100, hold_ms=5000)
        return (await sipp.wait(60)).admitted

    assert asyncio.run(fill()) == 16
    assert time.time() < end - 1, "this machine is too slow to tell"
    wait_for("the order to end", lambda: time.time() > end + 0.1, seconds=60)
    assert asyncio.run(fill()) == 7
    lab.send("sbc-a", signal.SIGCONT)
    lab.await_actual("sbc-a", SBC_SESSIONS, 7)


def _callpool() -> list[str]:
    return [sys.executable, "-m", "callpool"]


def _answers(connection: Connection) -> bool:
    try:
        with ManagerClient(connection) as client:
            return bool(client.call("GET", "/pool"))
    except CallpoolError:
        return False
