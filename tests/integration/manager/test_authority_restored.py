"""An authority that is restored from an older backup: nobody is taken for a clone."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from authoritykit import Denied, SmartDevice, buy, smart_token
from managerkit import Running, Site

from callpool.host.clock import LabClock
from callpool.lab.fleet import Plan, down, up
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.errors import CallpoolError


def save(database: Path, copy: Path) -> None:
    """Back a database up while the manager runs on it."""
    with (
        contextlib.closing(sqlite3.connect(database, timeout=60)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def put_back(database: Path, copy: Path) -> None:
    """Restore a backup; no manager runs."""
    for tail in ("-wal", "-shm"):
        database.with_name(database.name + tail).unlink(missing_ok=True)
    database.write_bytes(copy.read_bytes())


class Restorable:
    """A manager that can be put back to a backup, and stays at its address."""

    def __init__(self, directory: Path) -> None:
        self.site = Site(directory / "manager")
        self.copy = directory / "backup.db"
        self.running = Running(self.site)
        self.listen = f"127.0.0.1:{self.running.port}"
        self.devices: list[SmartDevice] = []

    def device(self, serial: str, count: int) -> SmartDevice:
        made = SmartDevice(self.running, serial)
        made.register(smart_token(self.running))
        made.authorize(count)
        self.devices.append(made)
        return made

    def save(self) -> None:
        save(self.site.layout.database, self.copy)

    def restore(self) -> None:
        kept = self.running.devices
        self.running.devices = []
        self.running.kill()
        put_back(self.site.layout.database, self.copy)
        self.running = Running(self.site, self.listen)
        self.running.devices = kept
        for made in self.devices:
            made.manager = self.running

    def alerts(self) -> list[str]:
        return [a["kind"] for a in self.running.call("GET", "/smart/alerts", status=200)["alerts"]]

    def license(self) -> tuple[int, int]:
        (row,) = self.running.call("GET", "/smart/entitlements", status=200)["entitlements"]
        return row["purchased"], row["in_use"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Restorable]:
    made = Restorable(tmp_path)
    try:
        made.running.call("POST", "/smart/accounts", {"name": "acme"}, 201)
        buy(made.running, "PO-1", 100)
        yield made
    finally:
        made.running.kill()


@pytest.mark.parametrize("first", ["authorize", "renew-id", "deregister"])
@pytest.mark.parametrize("lost", ["authorize", "renew-id"])
def test_a_device_that_called_since_the_backup_is_no_clone(
    world: Restorable, lost: str, first: str
) -> None:
    made = world.device("SP-1", 60)
    world.save()
    for _ in range(3):  # more than the two values that a lost reply may leave open
        if lost == "renew-id":
            made.renew_id()
        else:
            made.authorize(80)
    world.restore()
    assert world.license() == (100, 60)
    if first == "authorize":
        made.authorize(80)  # its version is above the one that it holds: the kit checks
        assert world.license() == (100, 80)
    elif first == "renew-id":
        made.renew_id()
    else:
        made.deregister()
        assert world.license() == (100, 0)
    assert world.alerts() == ["authority_restored"]
    if first != "deregister":
        assert made.status(80) == "in_compliance"
    (alert,) = world.running.call("GET", "/smart/alerts", status=200)["alerts"]
    assert "revocations" in alert["action"]
    world.running.call("DELETE", f"/smart/alerts/{alert['id']}", status=200)


def test_others_are_asked_to_report_at_once_and_the_counts_are_right_again(
    world: Restorable,
) -> None:
    one, two = world.device("SP-1", 60), world.device("SP-2", 20)
    world.save()
    assert two.status(60) == "out_of_compliance"
    assert one.status(60) == "out_of_compliance"
    world.restore()
    rows = world.running.call("GET", "/smart/instances", status=200)["instances"]
    assert [r["hint_waiting"] for r in rows] == [False, False]
    assert one.status(60) == "in_compliance"  # true of what the backup knows
    rows = world.running.call("GET", "/smart/instances", status=200)["instances"]
    assert {r["serial"]: r["hint_waiting"] for r in rows} == {"SP-1": False, "SP-2": True}
    assert two.status(60) == "out_of_compliance"
    assert one.status(60) == "out_of_compliance"
    assert world.license() == (100, 120)


def test_a_clone_is_still_found_and_a_made_up_value_is_no_proof(world: Restorable) -> None:
    made = world.device("SP-1", 60)
    clone = SmartDevice(world.running, made.serial, made.key)
    clone.instance_id, clone.value, clone.keys = made.instance_id, made.value, made.keys
    world.devices.append(clone)
    for _ in range(3):
        made.authorize(60)
    world.save()
    for _ in range(3):
        made.authorize(60)
    world.restore()
    for value in (clone.value, "999999.aaaa.bbbb", f"99{made.value}", "9" * 100, "é.é.é", ""):
        with pytest.raises(Denied) as caught:
            clone.authorize(60, contact=value)
        assert caught.value.code in ("stale_contact", "instance_locked"), value
    assert "authority_restored" not in world.alerts()
    with pytest.raises(Denied) as caught:
        made.authorize(60)
    assert caught.value.code == "instance_locked"


def test_a_value_of_another_instance_proves_nothing(world: Restorable) -> None:
    one, two = world.device("SP-1", 20), world.device("SP-2", 20)
    for _ in range(5):
        one.authorize(20)
    with pytest.raises(Denied) as caught:
        two.authorize(20, contact=one.value)
    assert caught.value.code == "stale_contact"


@pytest.fixture
def lab() -> Iterator[LabHandle]:
    with tempfile.TemporaryDirectory(prefix="cp-") as name:
        directory = Path(name)
        up(directory, Plan(names=(), proxies=("proxy-1", "proxy-2")), lambda _: None)
        try:
            yield LabHandle(directory)
        finally:
            down(directory)


def test_real_devices_outlive_a_restoration_or_say_what_to_do(lab: LabHandle) -> None:
    database = Path(lab.lab.manager.database)
    copy = lab.directory / "backup.db"
    lab.call("POST", "/smart/accounts", {"name": "acme"})
    now = int(LabClock(Path(lab.lab.clock)).now().wall)
    lab.buy({"cps": 100}, starts=now, ends=now + 400 * 86_400, virtual_account="default")
    for name in ("proxy-1", "proxy-2"):
        lab.smart(name, "enable")
    lab.register("proxy-1")
    lab.smart("proxy-1", "count", count=40)
    save(database, copy)
    lab.register("proxy-2")  # the backup knows nothing of it
    lab.smart("proxy-2", "count", count=40)
    for count in (45, 50, 55):
        lab.smart("proxy-1", "count", count=count)
    instance = lab.smart("proxy-1")["instance_id"]
    lab.kill("manager")
    put_back(database, copy)
    lab.start("manager")
    lab.await_manager()

    def reported() -> bool:
        with contextlib.suppress(CallpoolError):
            lab.smart("proxy-1", "renew_auth")
        (row,) = lab.call("GET", "/smart/entitlements")["entitlements"]
        return bool(row["in_use"] == 55)

    wait_for("proxy-1 to report", reported, seconds=60)
    told = lab.smart("proxy-1")
    assert (told["state"], told["instance_id"]) == ("Authorized", instance)

    with pytest.raises(CallpoolError) as caught:
        lab.smart("proxy-2", "renew_auth")
    assert caught.value.code == "unknown_signer"
    assert "--force" in caught.value.sentence
    assert lab.smart("proxy-2")["state"] == "Authorized"  # nobody signed that it is not
    secret = str(lab.call("POST", "/smart/tokens", {})["token"])
    lab.smart("proxy-2", "register", token=secret, force=True)
    lab.await_smart("proxy-2", "Authorized")
    rows = {r["serial"]: r for r in lab.call("GET", "/smart/instances")["instances"]}
    assert {r["status"] for r in rows.values()} == {"registered"}
    wait_for(
        "95 of 100 to be in use",
        lambda: lab.call("GET", "/smart/entitlements")["entitlements"][0]["in_use"] == 95,
        seconds=60,
    )
    assert {a["kind"] for a in lab.call("GET", "/smart/alerts")["alerts"]} == {"authority_restored"}
