"""A real device's alarms at its real manager: by contacts, by traps, by its table."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from devicekit import Device, Site, call, command, eventually, site
from snmpkit import ACTIVE, AUTH, PRIVACY, TRAPS, USER, V3, Snmp
from syslogkit import Rsyslog, form, own

from callpool.host.ports import free_port
from callpool.host.snmp.engine import engine_id

GLOBALS = "1.3.6.1.4.1.5003.9.10.1.21.1"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


class Manager:
    """The manager's view of alarms."""

    def __init__(self, site: Site) -> None:
        self.site, self.port = site, free_port()

    def listen(self, **more: Any) -> None:
        """Turn its SNMP on."""
        keys = {"name": USER, "auth_secret": AUTH, "privacy_secret": PRIVACY}
        settings = {"listen": f"127.0.0.1:{self.port}", "users": [keys], **more}
        subprocess.run(
            command("manager", "snmp", "set", "-", "--dir", self.site.manager_directory),
            input=json.dumps(settings), text=True, check=True, timeout=60,
        )  # fmt: skip
        eventually(lambda: self.links()["listen"] == settings["listen"])

    def links(self) -> dict[str, Any]:
        snmp: dict[str, Any] = self.site.client.call("GET", "/alarms/links")["snmp"]
        return snmp

    def alarms(self, serial: str) -> dict[tuple[str, str], list[str]]:
        """Which ways each alarm of a unit was heard by, by the OID's last arc and severity."""
        shown = self.site.client.call("GET", "/alarms?limit=1000")["alarms"]
        return {
            (a["oid"].rpartition(".")[2], a["severity"]): a["heard"]
            for a in shown
            if a["serial"] == serial and a["heard"] != ["manager"]
        }

    def course(self, serial: str, number: str) -> list[tuple[str, str]]:
        """(transition, severity) of one alarm's history, the oldest first."""
        events = self.site.client.call("GET", "/alarms/history?limit=1000")["events"]
        return [
            (e["transition"], e["severity"])
            for e in reversed(events)
            if e["serial"] == serial and e["oid"].endswith(f".{number}")
        ]


def told_as(manager: Manager, serial: str, number: str, course: list[tuple[str, str]]) -> bool:
    """Whether one alarm's history is `course`."""
    return manager.course(serial, number) == course


def forged(manager: Manager, device: Device, number: int, severity: int, source: str) -> None:
    """Send a trap in a device's name: somebody has its credentials."""
    values = [(1, "i", number - 1), (2, "s", "forged"), (3, "s", source), (4, "i", severity),
              (5, "i", 31_000), (6, "i", 1), (7, "i", 0), (16, "s", device.serial)]  # fmt: skip
    binds = [w for n, t, v in values for w in (f"{GLOBALS}.{n}.0", t, str(v))]
    home = str(device.site.directory)
    subprocess.run(
        ["snmptrap", *V3, "-e", f"0x{engine_id(device.serial).hex()}",
         f"127.0.0.1:{manager.port}", "0", f"{TRAPS}{number}", *binds],
        check=True, timeout=60,
        env={**os.environ, "SNMPCONFPATH": home, "SNMP_PERSISTENT_DIR": home, "MIBS": "",
             "HOME": home},
    )  # fmt: skip


def test_alarms_come_by_contact_soon_and_by_trap_are_the_same_alarms(alone: Site) -> None:
    manager = Manager(alone)
    manager.listen()
    quiet, told = alone.device("a"), alone.device("b")
    Snmp(told, targets=[{"address": f"127.0.0.1:{manager.port}", "kind": "inform", "user": USER}])
    for device in (quiet, told):
        device.start()
        eventually(device.connected)
        alone.allocate(device.name, sbc_sessions=10)
    major = ("107", "major")
    eventually(lambda: manager.alarms("SN-a") == {major: ["protocol"]})
    eventually(lambda: manager.alarms("SN-b") == {major: ["protocol", "trap"]})
    for device in (quiet, told):
        device.ask("restart", save=True)
    course = [("raised", "major"), ("cleared", "cleared")]
    for device in (quiet, told):
        eventually(partial(told_as, manager, device.serial, "107", course))
        assert manager.alarms(device.serial) == {}
    # What happened while the manager was down is told when it is back, in order, once.
    assert alone.manager is not None
    alone.manager.end()
    quiet.ask("pull")
    # Two events, each in the device's own history: one look apart at least.
    eventually(lambda: len(quiet.ask("alarms", after=0)["history"]) == 3)
    alone.clock.advance(6.5 * 86_400)
    eventually(lambda: len(quiet.ask("alarms", after=0)["history"]) == 4)
    alone.start()
    quiet.ask("pull")
    course = [("raised", "major"), ("changed", "critical"), ("cleared", "cleared")]

    def told_all() -> bool:
        if "contact_lost" in quiet.alarms():
            quiet.ask("pull")  # the last one came before the manager was whole again
        return manager.course("SN-a", "106") == course

    eventually(told_all)


def test_alarms_are_forwarded_by_syslog_over_tls_in_order_and_later_where_it_was_down(
    alone: Site, tmp_path: Path
) -> None:
    rsyslog = Rsyslog(tmp_path / "rsyslog")
    try:
        device = alone.device("a")
        targets = [
            rsyslog.target("tls"),
            {"address": f"127.0.0.1:{free_port()}", "transport": "tcp"},
        ]
        subprocess.run(
            command("manager", "syslog", "set", "-", "--dir", alone.manager_directory),
            input=json.dumps({"targets": targets}), text=True, check=True, timeout=60,
        )  # fmt: skip

        def links() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = alone.client.call("GET", "/alarms/links")["targets"]
            return found

        eventually(lambda: len(links()) == 2)
        device.start()
        eventually(device.connected)
        alone.allocate("a", sbc_sessions=10)
        eventually(lambda: rsyslog.alarms("tls") == [("RAISE-ALARM", "major", "restart_pending")])
        told = rsyslog.got("tls")[0]
        assert (told["hostname"], told["app"]) == ("a", "callpool-manager")
        assert told["severity"] == "2", "major is critical (RFC 5674)"
        assert own(told)["serial"] == "SN-a"
        assert own(told)["device"] == "a"
        assert own(told)["tenant"] == "default"
        assert own(told)["transition"] == "raised"
        assert form(told["text"])["name"] == "acLicensePoolApplicationAlarm"
        rsyslog.stop()
        device.ask("restart", save=True)
        eventually(lambda: "restart_pending" not in device.alarms())
        # Told before it is raised again: what is over within one look is no event.
        eventually(lambda: len(alone.client.call("GET", "/alarms/history")["events"]) == 2)
        alone.allocate("a", sbc_sessions=20)
        eventually(lambda: len(alone.client.call("GET", "/alarms/history")["events"]) == 3)
        rsyslog.start()
        wanted = [
            ("RAISE-ALARM", "major", "restart_pending"),
            ("CLEAR-ALARM", "cleared", "restart_pending"),
            ("RAISE-ALARM", "major", "restart_pending"),
        ]
        eventually(lambda: rsyslog.alarms("tls") == wanted)
        # The target that nobody listens at has delayed none of it, and says so.
        down = eventually(lambda: [t for t in links() if t["failure"]])
        assert [t["name"].split()[1] for t in down] == ["tcp"]
        shown = call("manager", "syslog", "show", "--dir", alone.manager_directory)
        assert rsyslog.address("tls") in shown
        call("manager", "syslog", "off", "--dir", alone.manager_directory)
    finally:
        rsyslog.stop()


def test_a_device_that_cannot_be_heard_is_asked_for_its_table(alone: Site) -> None:
    manager = Manager(alone)
    device = alone.device("a")
    snmp = Snmp(
        device, targets=[{"address": f"127.0.0.1:{manager.port}", "kind": "trap", "user": USER}]
    )
    device.start()
    eventually(device.connected)
    eventually(snmp.answers)
    # Its identity is void: it can say nothing by the protocol, and nobody hears its trap.
    alone.client.call("POST", "/units/SN-a/unlock")
    device.ask("pull")
    eventually(lambda: "contact_lost" in device.alarms())
    eventually(lambda: any(r[3] == f"{TRAPS}106" for r in snmp.table(ACTIVE)))
    assert manager.alarms("SN-a") == {}
    manager.listen(ask_user=USER, devices=[{"serial": "SN-a", "address": snmp.address}])
    lost = ("106", "major")
    eventually(lambda: manager.alarms("SN-a") == {lost: ["walk"]})

    # What is forged lasts until the device begins anew: then its table counts.
    forged(manager, device, 33, 5, "System#0/Module#1")
    forged(manager, device, 106, 0, "system0Mo")
    eventually(lambda: manager.alarms("SN-a") == {("33", "critical"): ["trap"]})
    eventually(lambda: manager.links()["counts"].get("walks") == 1)
    device.kill()
    device.start()
    eventually(lambda: manager.links()["counts"]["walks"] > 1)
    device.ask("pull")
    eventually(lambda: list(manager.alarms("SN-a")) == [lost])
    assert ("cleared", "cleared") in manager.course("SN-a", "33")
    shown = call("manager", "snmp", "show", "--dir", alone.manager_directory)
    assert USER in shown
    assert AUTH not in shown
    call("manager", "snmp", "off", "--dir", alone.manager_directory)
    assert not (alone.manager_directory / "snmp.json").exists()
