"""Hitless installations by a real manager and units that speak the real protocol."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from managerkit import POOL, Running, Site, cli, eventually, load, running
from managerpairkit import Pair, S, law_1

from callpool.host.clock import LabClock
from callpool.licensing.alarm_feed import HA_SWITCH_OVER
from callpool.wire.messages import AlarmMessage, AlarmsMessage

BOUGHT = 1_000


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "manager")


def env(manager: Running) -> dict[str, str]:
    return {
        "CALLPOOL_MANAGER": manager.url,
        "CALLPOOL_CA_FILE": str(manager.site.layout.ca),
        "CALLPOOL_PASSWORD": manager.site.password,
    }


def made_pair(manager: Running, name: str = "edge", number: int = 1) -> Pair:
    """Return a pair that runs 100 on both units."""
    pair = Pair(manager, name, f"E{number}-A", f"E{number}-B")
    manager.call("PUT", f"/devices/{name}/allocation", {S: 100}, 200)
    pair.settle()
    assert pair.state() == (pair.first, 100, 100)
    return pair


def run_of(manager: Running, name: str = "edge") -> Any:
    return manager.call("GET", f"/devices/{name}/hitless", status=200)["run"]


def statuses(manager: Running, name: str = "edge") -> list[str]:
    return [step["status"] for step in run_of(manager, name)["steps"]]


def turn(manager: Running, pairs: list[Pair]) -> None:
    """Let every unit call once; law 1 holds after each of them."""
    for pair in pairs:
        for serial in pair.units:
            pair.call(serial)
            law_1(pairs, BOUGHT)
    manager.site.check_sums()


@contextmanager
def following(manager: Running, *words: str) -> Iterator[subprocess.Popen[str]]:
    code = [sys.executable, "-c", POOL, "hitless", *words]
    process = subprocess.Popen(
        code,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", **env(manager)},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_raise_and_a_cut_are_installed_while_somebody_follows(site: Site) -> None:
    with running(site) as manager:
        manager.import_order(site.order("PO-1", sbc_sessions=BOUGHT))
        pair = made_pair(manager)
        manager.call("PUT", "/devices/edge/allocation", {S: 140}, 200)
        refused = cli(POOL, "hitless", "nobody", env=env(manager))
        assert (refused[0], "unknown_device" in refused[2]) == (1, True)

        seen = [pair.state()]
        with following(manager, "edge") as process:
            eventually(lambda: run_of(manager))
            while run_of(manager)["state"] == "running":
                turn(manager, [pair])
                seen.append(pair.state())
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
        assert "The hitless installation of 140 SBC Sessions on edge is complete." in out
        assert [out.count(f"step {n} done") for n in (1, 2, 3, 4)] == [1, 1, 1, 1]
        assert list(dict.fromkeys(seen)) == [
            ("E1-A", 100, 100), ("E1-A", 100, 140), ("E1-B", 100, 140), ("E1-B", 140, 140),
            ("E1-A", 140, 140),
        ]  # fmt: skip
        assert pair.most_asked == 1
        turn(manager, [pair])

        manager.call("PUT", "/devices/edge/allocation", {S: 60}, 200)
        status, out, _ = cli(POOL, "hitless", "edge", "--no-wait", "--json", env=env(manager))
        assert (status, load(out)["run"]["wanted"][S]) == (0, 60)
        while run_of(manager)["state"] == "running":
            # What the cut frees is free once the run is over.
            held = manager.pool()["types"][S]["held"]
            turn(manager, [pair])
            assert held == 280 or run_of(manager)["state"] == "complete"
        turn(manager, [pair])
        assert pair.state() == ("E1-A", 60, 60)
        assert manager.pool()["types"][S]["held"] == 120

        status, out, _ = cli(POOL, "show", env=env(manager))
        assert status == 0
        assert (
            "HA pair edge: E1-A is active, synchronised; E1-A runs 60 SBC Sessions; "
            "E1-B runs 60 SBC Sessions." in out
        )
        causes = [e["cause"] for e in manager.call("GET", "/journal?limit=200")["journal"]]
        assert causes.count("hitless_done") == 8
        assert causes.count("pair_active") == 5


def test_the_manager_is_killed_at_every_step_and_the_run_ends_complete(site: Site) -> None:
    manager = Running(site)
    listen = f"127.0.0.1:{manager.port}"
    ended = []
    try:
        manager.import_order(site.order("PO-1", sbc_sessions=BOUGHT))
        pair = made_pair(manager)
        manager.call("PUT", "/devices/edge/allocation", {S: 140}, 200)
        manager.call("POST", "/devices/edge/hitless", status=202)
        last, kills = "", 0
        for _ in range(60):
            now = str(statuses(manager))
            if now != last:
                # A step has begun, or been ordered, or is done: a power cut right then.
                last, kills = now, kills + 1
                manager.process.kill()
                manager.process.wait()
                ended.append(manager)
                manager = Running(site, listen)
                pair.moved(manager)
            if run_of(manager)["state"] != "running":
                break
            for serial in pair.units:
                pair.call(serial)
                law_1([pair], BOUGHT)
        assert kills > 8
        assert run_of(manager)["state"] == "complete"
        assert pair.state() == ("E1-A", 140, 140)
        assert pair.most_asked == 1
        assert [u.device.restart_done for u in pair.units.values()] == [1, 1]
        assert [u.switch for u in pair.units.values()] == [(1, "done"), (2, "done")]
        site.check_sums()
    finally:
        manager.kill()
        for one in ended:
            one.close()


def test_a_unit_lost_at_any_step_stops_the_run_and_it_is_resumed_or_rolled_back(
    site: Site,
) -> None:
    clock = LabClock(site.clock_file)
    with running(site) as manager:
        manager.import_order(site.order("PO-1", sbc_sessions=BOUGHT))
        pairs = []
        # One pair for each moment of losing each unit.
        moments = [(at, lost) for at in range(1, 6) for lost in (0, 1)]
        for number in range(len(moments)):
            pair = Pair(manager, f"p{number}", f"S{number}-A", f"S{number}-B")
            manager.call("PUT", f"/devices/p{number}/allocation", {S: 20}, 200)
            pair.settle()
            manager.call("PUT", f"/devices/p{number}/allocation", {S: 30}, 200)
            manager.call("POST", f"/devices/p{number}/hitless", status=202)
            pairs.append(pair)
        for at in range(1, 6):
            turn(manager, pairs)
            for pair, (when, lost) in zip(pairs, moments, strict=True):
                if when == at:
                    pair.crash((pair.first, pair.other)[lost])
        for _ in range(3):
            clock.advance(301)
            for pair in pairs:
                for unit in pair.units.values():
                    unit.device.ahead += 301
            turn(manager, pairs)
        stopped = 0
        for number, pair in enumerate(pairs):
            run = run_of(manager, pair.name)
            assert pair.active not in pair.down  # it serves
            view = manager.call("GET", f"/devices/{pair.name}", status=200)["pair"]
            runs = {u["serial"]: u["runs"][S] for u in view["units"]}
            assert set(runs.values()) <= {20, 30}
            if run["state"] == "complete":
                pair.down.clear()
                continue
            stopped += 1
            assert run["state"] == "stopped"
            assert run["may"] == ["resume", "roll_back", "close"]
            assert run["waits_for"]["sentence"]
            pair.down.clear()
            action = "resume" if number % 4 < 2 else "roll-back"
            manager.call("POST", f"/devices/{pair.name}/hitless/{action}", status=200)
        assert stopped >= 8
        for _ in range(12):
            turn(manager, pairs)
        for number, pair in enumerate(pairs):
            run = run_of(manager, pair.name)
            assert run["state"] in ("complete", "rolled_back"), run
            count = 30 if run["state"] == "complete" else 20
            assert pair.state() == (pair.first, count, count), number
            assert pair.most_asked <= 1
        assert {run_of(manager, p.name)["state"] for p in pairs} == {"complete", "rolled_back"}


def test_of_two_managers_one_drives_and_their_orders_are_one(site: Site) -> None:
    with running(site) as one, running(site) as two:
        one.import_order(site.order("PO-1", sbc_sessions=BOUGHT))
        pair = made_pair(one)
        one.call("PUT", "/devices/edge/allocation", {S: 140}, 200)
        broken: list[BaseException] = []

        def starts(manager: Running) -> None:
            codes.append(manager.http.post("/api/v1/devices/edge/hitless").status_code)

        codes: list[int] = []
        threads = [threading.Thread(target=starts, args=(m,)) for m in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(codes) == [202, 409]

        def calls(serial: str) -> None:
            try:
                for _ in range(100):
                    pair.call(serial)
                    if run_of(one)["state"] != "running":
                        return
                    time.sleep(0.01)  # so that the other one comes in between
            except BaseException as error:
                broken.append(error)

        # The units reach different managers, at once.
        pair.units[pair.other].device.moved(two)
        threads = [threading.Thread(target=calls, args=(serial,)) for serial in pair.units]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert broken == []
        assert run_of(two)["state"] == "complete"
        assert pair.state() == ("E1-A", 140, 140)
        assert pair.most_asked == 1
        site.check_sums()


def test_alarms_of_the_pair_during_its_run_are_expected_and_a_stopped_run_is_closed(
    site: Site,
) -> None:
    with running(site) as manager:
        manager.import_order(site.order("PO-1", sbc_sessions=BOUGHT))
        pair = made_pair(manager)
        manager.call("PUT", "/devices/edge/allocation", {S: 140}, 200)
        manager.call("POST", "/devices/edge/hitless", status=202)
        raised = AlarmMessage(
            sequence=1, at=time.time(), oid=HA_SWITCH_OVER, severity=5,
            codes=("switch_over",), text="Switch-Over: on the manager's request",
        )  # fmt: skip
        log = AlarmsMessage(log="log-1", sequence=1, active=(raised,), events=(raised,))
        reply = pair.call("E1-A", alarm_log=log)
        assert reply is not None
        assert reply.expect_ha_alarms_until > time.time()
        alarms = manager.call("GET", "/alarms?expected=true", status=200)["alarms"]
        assert [a["serial"] for a in alarms] == ["E1-A"]
        assert alarms[0]["expected"].startswith("hitless installation")
        refused = manager.call("PUT", "/devices/edge/allocation", {S: 1}, 409)
        assert refused["code"] == "hitless_running"
        status, out, _ = cli(POOL, "hitless", "edge", "--stop", env=env(manager))
        assert (status, "has stopped safely; the pair serves on" in out) == (0, True)
        status, out, _ = cli(POOL, "hitless", "edge", "--close", env=env(manager))
        assert (status, "was closed" in out) == (0, True)
        status, out, _ = cli(POOL, "hitless", "edge", "--status", "--json", env=env(manager))
        assert load(out)["run"]["state"] == "closed"
        status, _, err = cli(POOL, "hitless", "edge", "--resume", env=env(manager))
        assert (status, "[no_hitless_run]" in err) == (1, True)


def test_a_pair_is_formed_and_dissolved_by_command(site: Site) -> None:
    with running(site) as manager:
        manager.import_order(site.order("PO-1", sbc_sessions=250))
        manager.add("edge", "E1-A")
        manager.call("PUT", "/devices/edge/allocation", {S: 100}, 200)
        status, out, _ = cli(POOL, "pair", "edge", "E1-B", "--preview", env=env(manager))
        assert (status, "held 100 -> 200" in out) == (0, True), out
        assert manager.call("GET", "/devices/edge")["cost"] == 1
        status, out, _ = cli(POOL, "pair", "edge", "E1-B", env=env(manager))
        assert (status, "is an HA pair now" in out) == (0, True)
        assert manager.call("GET", "/devices/edge")["cost"] == 2
        second = manager.device("E1-B")
        assert second.counts(second.contact()) == {S: 100}
        site.check_sums()
        manager.add("more", "M-1")
        manager.call("PUT", "/devices/more/allocation", {S: 30}, 200)
        status, _, err = cli(POOL, "pair", "more", "M-2", env=env(manager))
        assert (status, "[pool_exceeded]" in err) == (1, True)
        status, out, _ = cli(POOL, "unpair", "edge", "E1-B", env=env(manager))
        assert (status, "E1-B has left edge" in out) == (0, True)
        assert manager.pool()["types"][S]["held"] == 230
        second.contact()
        second.remote = second.applied = 0
        second.contact()
        assert eventually(lambda: manager.pool()["types"][S]["held"] == 130)
        site.check_sums()
