"""A manager that takes alarms, with net-snmp's snmptrap and snmpinform as devices."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from managerkit import Running, Site, eventually, running

from callpool.host.clock import LabClock
from callpool.host.ports import free_port
from callpool.host.snmp.engine import engine_id
from callpool.host.snmp.values import date_and_time
from callpool.manager.snmp_settings import StationSettings, SyslogSettings, write_settings

USER, AUTH, PRIVACY, COMMUNITY = "noc", "auth-secret-1", "privacy-secret-1", "community-1"
GLOBALS = "1.3.6.1.4.1.5003.9.10.1.21.1"
TRAPS = "1.3.6.1.4.1.5003.9.10.1.21.2.0"
COLD_START = "1.3.6.1.6.3.1.1.5.1"


def user(name: str = USER, **more: Any) -> dict[str, Any]:
    return {"name": name, "auth_secret": AUTH, "privacy_secret": PRIVACY, **more}


class Sender:
    """A device as far as SNMP goes: snmptrap and snmpinform with an engine of its own."""

    def __init__(self, home: Path, serial: str, port: int) -> None:
        self.serial, self.port = serial, port
        self.engine = engine_id(serial).hex()
        self.home = home / f"sender-{serial}-{secrets.token_hex(2)}"
        self.home.mkdir()
        self.count = 0

    def notify(
        self,
        number: int,
        severity: int,
        *,
        text: str = "A text",
        inform: bool = False,
        serial: str | None = None,
        unique: int | None = None,
        source: str = "system0Mo",
        prefix: str = TRAPS,
        v2c: bool = False,
        ok: bool = True,
        level: str = "authPriv",
        auth: str = AUTH,
        name: str = USER,
        engine: str | None = None,
        info: str = "",
        at: float | None = None,
    ) -> None:
        """Send one alarm; an inform waits for its acknowledgement. `at` is the sender's time."""
        self.count += 1
        values = [
            (1, "i", str(number - 1)), (2, "s", text), (3, "s", source), (4, "i", str(severity)),
            (5, "i", str(self.count if unique is None else unique)), (6, "i", "1"),
            (7, "i", "0"), (8, "s", info), (9, "s", ""), (10, "s", ""), (12, "i", str(severity)),
            (13, "s", ""), (14, "s", ""), (15, "s", ""),
            (16, "s", self.serial if serial is None else serial),
        ]  # fmt: skip
        if at is not None:
            values.insert(10, (11, "x", bytes(date_and_time(at)).hex()))
        binds = [w for n, t, v in values for w in (f"{GLOBALS}.{n}.0", t, v)]
        self.send(
            f"{prefix}.{number}", *binds, inform=inform, v2c=v2c, ok=ok, level=level, auth=auth,
            name=name, engine=engine,
        )  # fmt: skip

    def send(
        self, oid: str, *binds: str, inform: bool = False, v2c: bool = False, ok: bool = True,
        level: str = "authPriv", auth: str = AUTH, name: str = USER, engine: str | None = None,
    ) -> None:  # fmt: skip
        """Send one notification with these variables."""
        if v2c:
            who = ["-v2c", "-c", auth if auth != AUTH else COMMUNITY]
        else:
            who = ["-v3", "-u", name, "-l", level, "-a", "SHA-256", "-A", auth,
                   "-x", "AES", "-X", PRIVACY]  # fmt: skip
            if not inform:
                who += ["-e", f"0x{engine or self.engine}"]
        done = subprocess.run(
            ["snmpinform" if inform else "snmptrap", "-r2", "-t5", *who, f"127.0.0.1:{self.port}",
             "0", oid, *binds],
            capture_output=True, text=True, timeout=120,
            env={**os.environ, "SNMPCONFPATH": str(self.home), "MIBS": "", "HOME": str(self.home),
                 "SNMP_PERSISTENT_DIR": str(self.home)},
        )  # fmt: skip
        assert (done.returncode == 0) is ok, f"{done.stdout}{done.stderr}"


class Alarms:
    """One manager and what it says of alarms."""

    def __init__(self, site: Site, manager: Running, port: int, home: Path) -> None:
        self.site, self.manager, self.port, self.home = site, manager, port, home

    def sender(self, serial: str) -> Sender:
        return Sender(self.home, serial, self.port)

    def active(self, **asked: Any) -> list[dict[str, Any]]:
        reply = self.manager.http.get("/api/v1/alarms", params=asked)
        assert reply.status_code == 200, reply.text
        found: list[dict[str, Any]] = reply.json()["alarms"]
        return found

    def told(self, serial: str) -> set[tuple[str, str]]:
        """(last arc of the OID, severity) of what is active of a unit, but the manager's own."""
        return {
            (a["oid"].rpartition(".")[2], a["severity"])
            for a in self.active()
            if a["serial"] == serial and "manager" not in a["heard"]
        }

    def history(self, **asked: Any) -> list[dict[str, Any]]:
        """The newest last."""
        reply = self.manager.http.get("/api/v1/alarms/history", params={"limit": 1000, **asked})
        assert reply.status_code == 200, reply.text
        found: list[dict[str, Any]] = reply.json()["events"]
        return found[::-1]

    def course(self, serial: str) -> list[tuple[str, str, str]]:
        """(last arc, transition, severity) of a unit's history, but the manager's own."""
        return [
            (e["oid"].rpartition(".")[2], e["transition"], e["severity"])
            for e in self.history()
            if e["serial"] == serial and e["source"] != "manager"
        ]

    def links(self) -> Any:
        return self.manager.call("GET", "/alarms/links", status=200)

    def counted(self, name: str) -> int:
        return int(self.links()["snmp"]["counts"].get(name, 0))

    def advance(self, seconds: float) -> None:
        """Move the lab's clock."""
        LabClock(self.site.clock_file).advance(seconds)

    def pid(self) -> int:
        return int(self.links()["snmp"]["pid"])


def set_snmp(site: Site, port: int, **settings: Any) -> None:
    """Write snmp.json: listening on `port`, one user, devices asked as that user."""
    given = {
        "listen": f"127.0.0.1:{port}" if port else "", "users": [user()], **settings,
    }  # fmt: skip
    write_settings(site.layout.snmp, msgspec.convert(given, StationSettings))


def set_syslog(site: Site, *targets: dict[str, Any]) -> None:
    write_settings(site.layout.syslog, msgspec.convert({"targets": list(targets)}, SyslogSettings))


@contextlib.contextmanager
def alarms(
    home: Path, *, units: tuple[str, ...] = ("S1", "S2"), manager: dict[str, Any] | None = None,
    syslog: tuple[dict[str, Any], ...] = (), **settings: Any,
) -> Iterator[Alarms]:  # fmt: skip
    """A manager with a device for each unit, once it takes notifications."""
    site = Site(home / secrets.token_hex(3), **(manager or {}))
    port = free_port()
    set_snmp(site, port, **settings)
    if syslog:
        set_syslog(site, *syslog)
    with running(site) as started:
        for serial in units:
            started.add(serial.lower(), serial)
        made = Alarms(site, started, port, home)
        ready(made)
        yield made


def ready(alarms: Alarms) -> None:
    """Wait until the alarm process of this manager is at work."""
    address = f"127.0.0.1:{alarms.port}"

    def listens() -> bool:
        snmp = alarms.links()["snmp"]
        return bool(snmp["listen"] == address and Path(f"/proc/{snmp['pid']}").exists())

    eventually(listens)


def quick(alarms: Alarms) -> float:
    """Seconds of one contact of an enrolled device."""
    (device,) = alarms.manager.devices
    began = time.monotonic()
    device.contact()
    return time.monotonic() - began


def memory(pid: int) -> int:
    """Resident memory of a process, KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def load(text: str) -> Any:
    return json.loads(text)
