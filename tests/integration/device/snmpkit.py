"""net-snmp against a real device: its readers, and snmptrapd as the receiver."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from devicekit import Device, Process, call, eventually

from callpool.host.ports import free_port
from callpool.host.snmp.engine import engine_id

USER, AUTH, PRIVACY, COMMUNITY = "noc", "auth-secret-1", "privacy-secret-1", "community-1"
V3 = ("-v3", "-u", USER, "-l", "authPriv", "-a", "SHA-256", "-A", AUTH, "-x", "AES", "-X", PRIVACY)
V2C = ("-v2c", "-c", COMMUNITY)
#: The 16 varbinds of every notification of an alarm.
GLOBALS = ".1.3.6.1.4.1.5003.9.10.1.21.1."
TRAPS = ".1.3.6.1.4.1.5003.9.10.1.21.2.0."
TRAP_OID = ".1.3.6.1.6.3.1.1.4.1.0"
COLD_START = ".1.3.6.1.6.3.1.1.5.1"
#: Columns of both alarm tables.
COLUMNS = 13
ACTIVE = ".1.3.6.1.4.1.5003.11.1.1.1.1"
HISTORY = ".1.3.6.1.4.1.5003.11.1.2.1.1"

_ROOT = Path(__file__).parents[3]
#: Our own MIB modules, and the base modules that Debian's net-snmp comes without.
OWN_MIBS = _ROOT / "packaging" / "mibs"
BASE_MIBS = _ROOT / "packaging" / "npm" / "node_modules" / "net-snmp" / "lib" / "mibs"


def own_modules() -> list[Path]:
    """Every MIB module of ours."""
    return sorted(OWN_MIBS.glob("*.txt"))


def mib_environment() -> dict[str, str]:
    """What has net-snmp load our modules and the base modules."""
    assert BASE_MIBS.is_dir(), "the base MIB modules are missing: run scripts/setup"
    # A module's file has its name.
    names = [file.stem for file in own_modules()]
    return {"MIBDIRS": f"{BASE_MIBS}:{OWN_MIBS}", "MIBS": ":".join(["SNMPv2-MIB", *names])}


def environment(directory: Path, *, named: bool = False) -> dict[str, str]:
    """net-snmp without any file of the machine's; with our MIB modules where `named`."""
    home = str(directory)
    (directory / "cert_indexes").mkdir(exist_ok=True)  # or net-snmp tells that it made it
    return {
        **os.environ, "SNMPCONFPATH": home, "SNMP_PERSISTENT_DIR": home, "HOME": home,
        **(mib_environment() if named else {"MIBS": ""}),
    }  # fmt: skip


class Snmp:
    """One device's agent, as net-snmp's tools see it."""

    def __init__(self, device: Device, *, v2c: bool = True, **more: Any) -> None:
        self.device = device
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.home = device.site.directory / f"{device.name}.net-snmp"
        self.home.mkdir()
        settings = {
            "listen": self.address,
            "users": [{"name": USER, "auth_secret": AUTH, "privacy_secret": PRIVACY}],
            "community": COMMUNITY if v2c else "",
            **more,
        }
        subprocess.run(
            [*_set_command(device)], input=json.dumps(settings), text=True, check=True, timeout=60
        )

    def run(self, tool: str, *words: str, ok: bool = True, patience: int = 5) -> str:
        """Run a tool; return what it said (both streams where it must fail)."""
        done = subprocess.run(
            [tool, "-r1", f"-t{patience}", "-OnQ", *words],
            capture_output=True, text=True, timeout=120, env=environment(self.home),
        )  # fmt: skip
        assert (done.returncode == 0) is ok, f"{tool} {words}: {done.stdout}{done.stderr}"
        return done.stdout if ok else done.stdout + done.stderr

    def named(self, tool: str, *words: str) -> str:
        """Run a tool with our MIB modules, as a person would."""
        done = subprocess.run(
            [tool, "-r1", "-t5", *words],
            capture_output=True, text=True, timeout=120, env=environment(self.home, named=True),
        )  # fmt: skip
        assert done.returncode == 0, f"{tool} {words}: {done.stdout}{done.stderr}"
        assert not done.stderr, done.stderr
        return done.stdout

    def get(self, oid: str, *credentials: str) -> str:
        """The value of one object."""
        words = (*(credentials or V3), self.address, oid)
        return self.run("snmpget", "-Ov", *words).strip().strip('"')

    def walk(self, oid: str, *credentials: str, tool: str = "snmpwalk") -> list[tuple[str, str]]:
        """(OID, value) of everything under `oid`, in the order that it came."""
        said = self.run(tool, *(credentials or V3), self.address, oid)
        return [
            (m[1], m[2].strip('"'))
            for m in re.finditer(r"^(\.[\d.]+) = ?(.*)$", said, re.MULTILINE)
            if not m[2].startswith(("No Such", "No more"))
        ]

    def table(self, entry: str) -> list[dict[int, str]]:
        """The rows of an alarm table, by column.

        A walk is many requests: where the table has changed between two of them it is walked again.
        """
        return eventually(lambda: self._whole_rows(entry))[0]  # type: ignore[no-any-return]

    def _whole_rows(self, entry: str) -> tuple[list[dict[int, str]]] | None:
        rows: dict[int, dict[int, str]] = {}
        for oid, value in self.walk(entry):
            column, index = (int(n) for n in oid.removeprefix(f"{entry}.").split("."))
            rows.setdefault(index, {})[column] = value
        if any(len(row) != COLUMNS for row in rows.values()):
            return None
        return ([rows[index] for index in sorted(rows)],)

    def answers(self) -> bool:
        """Whether the agent serves the device by now."""
        try:
            return self.get(".1.3.6.1.2.1.1.5.0") == self.device.serial
        except AssertionError:
            return False


def _set_command(device: Device) -> list[str]:
    from devicekit import command

    return command("device", "snmp", "set", "-", "--dir", device.layout.root)


def show(device: Device) -> str:
    """What `callpool device snmp show` says."""
    return call("device", "snmp", "show", "--dir", device.layout.root)


class Notification(dict[str, str]):
    """The varbinds of one notification, by OID."""

    @property
    def oid(self) -> str:
        return self[TRAP_OID]

    def glob(self, number: int) -> str:
        return self[f"{GLOBALS}{number}.0"]

    @property
    def severity(self) -> int:
        return int(self.glob(4))


class TrapReceiver:
    """snmptrapd on a free port; with our MIB modules where `named`."""

    def __init__(self, home: Path, serial: str, *, named: bool = False) -> None:
        home.mkdir()
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._log = home / "traps"
        keys = f"{USER} SHA-256 {AUTH} AES {PRIVACY}"
        (home / "state").mkdir()
        (home / "snmptrapd.conf").write_text(
            f"createUser -e 0x{engine_id(serial).hex()} {keys}\n"  # traps: the sender's engine
            f"createUser {keys}\n"  # informs: the receiver's
            f"authUser log {USER}\nauthCommunity log {COMMUNITY}\n"
        )
        self._home = home
        # Its state outlives it: the same engine ID, one boot more, as the standard asks for.
        mibs = mib_environment() if named else {"MIBS": ""}
        self._words = [
            "env", f"SNMPCONFPATH={home}:{home}/state", f"SNMP_PERSISTENT_DIR={home}/state",
            *(f"{name}={value}" for name, value in mibs.items()),
            "snmptrapd", "-f", "-n", "-A", "-Lf", str(self._log), *(() if named else ("-OnQe",)),
            "-F", r"NOTIFY %P|%v\n", f"udp:{self.address}",
        ]  # fmt: skip
        self._process: Process | None = None
        self.start()

    def start(self) -> None:
        before = self._text().count("NET-SNMP version")
        self._process = Process(self._words, self._home / "snmptrapd.out")
        eventually(lambda: self._text().count("NET-SNMP version") > before)

    def _text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def got(self) -> list[Notification]:
        """What has arrived, in order."""
        found = []
        for line in self._text().splitlines():
            if not line.startswith("NOTIFY "):
                continue
            binds = (b.split(" = ", 1) for b in line.partition("|")[2].split("\t"))
            found.append(Notification((b[0], b[1].strip('"')) for b in binds if len(b) == 2))
        return found

    def count(self) -> int:
        """How many have arrived."""
        return self._text().count("NOTIFY ")

    def security(self) -> list[str]:
        """What snmptrapd says of how each arrived."""
        lines = (x for x in self._text().splitlines() if x.startswith("NOTIFY "))
        return [line.removeprefix("NOTIFY ").partition("|")[0] for line in lines]

    def stop(self) -> None:
        if self._process is not None and not self._process.ended():
            self._process.end()
