"""The port table of docs/operations.md against the sockets of a running lab.

Lab ports are free ports, so a row is held against the setting that it is about: what the row
names as listening must listen where that setting says, and nothing else may listen at all.

A new row needs one entry in `ROWS` (or its receiver in `OUTSIDE`), and nothing more.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from lawkit import LabMaker

from callpool.device.gate.journal import GateState
from callpool.device.settings import Layout
from callpool.host.ports import free_port
from callpool.host.snmp.settings import read_settings
from callpool.lab.fleet import Plan
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.errors import CallpoolError
from callpool.manager.settings import Layout as ManagerLayout
from callpool.manager.snmp_settings import StationSettings
from callpool.manager.snmp_settings import read_settings as station_settings

DOC = Path(__file__).parents[2] / "docs" / "operations.md"


class Listening(NamedTuple):
    """One socket that takes what comes."""

    role: str
    protocol: str
    address: str
    port: int


class Row(NamedTuple):
    """One line of the table."""

    port: int
    protocols: str
    to: str


def rows() -> list[Row]:
    """The port table."""
    table = re.findall(r"^\| (\d+) \| (.+?) \| .+? \| (.+?) \|", DOC.read_text(), re.MULTILINE)
    return [Row(int(port), protocols, to) for port, protocols, to in table]


def at(role: str, protocol: str, address: str) -> Listening:
    """A socket at host:port."""
    host, _, port = address.rpartition(":")
    return Listening(role, protocol, host, int(port))


def _sip(lab: LabHandle) -> set[Listening]:
    listen = json.loads(Layout(device(lab)).settings.read_text())["gate"]["listen"]
    split = (text.partition(":") for text in listen)
    return {at("device", "UDP" if kind == "udp" else "TCP", where) for kind, _, where in split}


def _manager(lab: LabHandle) -> set[Listening]:
    settings = json.loads((Path(lab.lab.manager.directory) / "manager.json").read_text())
    return {at("manager", "TCP", settings["listen"])}


#: What listens behind a row, by the settings of the running lab.
ROWS: Mapping[tuple[int, str], Callable[[LabHandle], set[Listening]]] = {
    (443, "manager"): _manager,
    (5060, "device"): _sip,
    (8443, "device"): lambda lab: {at("device", "TCP", Layout(device(lab)).load().pages)},
    (22, "device"): lambda lab: {at("device", "TCP", lab.device("sbc-a").ssh)},
    (162, "manager"): lambda lab: {
        at("manager", "UDP", station_settings(manager(lab).snmp, StationSettings).listen)
    },
    (161, "device"): lambda lab: {
        at("device", "UDP", read_settings(Layout(device(lab)).snmp).listen)
    },
}
#: Who is not ours: what these listen on is no socket of this lab. A pair's sockets are looked at
#: where a pair runs (test_pair.py).
OUTSIDE = {"network operations centre", "log collector", "other unit of an HA pair"}


def manager(lab: LabHandle) -> ManagerLayout:
    return ManagerLayout(Path(lab.lab.manager.directory))


def device(lab: LabHandle) -> Path:
    return Path(lab.device("sbc-a").directory)


def inside(lab: LabHandle) -> set[Listening]:
    """What the parts of one device speak over the loopback address."""
    port = GateState.load(device(lab) / "gate").core_port
    return {Listening("device", "UDP", "127.0.0.1", port)}


def family(pid: int) -> set[int]:
    """A process and all that it has started."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def sockets() -> dict[int, tuple[str, str, int]]:
    """(protocol, address, port) of every socket that takes what comes, by inode."""
    found = {}
    for name, protocol, state in (
        ("tcp", "TCP", "0A"), ("tcp6", "TCP", "0A"), ("udp", "UDP", "07"), ("udp6", "UDP", "07")
    ):  # fmt: skip
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, remote, at_state, *rest = line.split()
            host, _, port = local.partition(":")
            if at_state == state and remote.endswith(":0000") and int(port, 16):
                found[int(rest[5])] = protocol, readable(host), int(port, 16)
    return found


def readable(host: str) -> str:
    """An address of /proc/net: words of four octets, each in the machine's order."""
    words = [bytes.fromhex(host[n : n + 8])[::-1] for n in range(0, len(host), 8)]
    return ".".join(map(str, words[0])) if len(words) == 1 else b"".join(words).hex()


def listening(lab: LabHandle) -> set[Listening]:
    """Every socket of the lab's manager and device that takes what comes."""
    known, found = sockets(), set()
    for role, name in (("manager", "manager"), ("device", "sbc-a")):
        for pid in family(lab.process(name).pid):
            found |= {Listening(role, *known[i]) for i in held(pid) if i in known}
    return found


def held(pid: int) -> set[int]:
    """The sockets that a process holds, by inode."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):  # it is gone meanwhile
            if inode := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
                found.add(int(inode[1]))
    return found


@pytest.fixture
def lab(make_lab: LabMaker, tmp_path: Path) -> LabHandle:
    """A manager and a device with all that can be turned on: TCP, TLS, shell, SNMP."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
        capture_output=True, check=True,
    )  # fmt: skip
    sip, tls, snmp, traps = (free_port() for _ in range(4))
    listen = [f"udp:127.0.0.1:{sip}", f"tcp:127.0.0.1:{sip}", f"tls:127.0.0.1:{tls}"]
    gate = (
        ("listen", listen),
        ("tls_certificate", str(certificate)),
        ("tls_private_key", str(key)),
    )
    made = make_lab(Plan(names=("sbc-a",), gate=gate, ssh=True))
    settings = {"listen": f"127.0.0.1:{snmp}", "community": "only-for-this-test"}
    subprocess.run(
        [sys.executable, "-m", "callpool", "device", "snmp", "set", "-", "--dir", device(made)],
        input=json.dumps(settings), text=True, check=True, capture_output=True,
    )  # fmt: skip
    station = {
        "listen": f"127.0.0.1:{traps}",
        "users": [{"name": "t", "auth_secret": "only-for-this", "privacy_secret": "only-for-this"}],
    }
    subprocess.run(
        [sys.executable, "-m", "callpool", "manager", "snmp", "set", "-", "--dir",
         made.lab.manager.directory],
        input=json.dumps(station), text=True, check=True, capture_output=True,
    )  # fmt: skip
    made.ask("sbc-a", "stop")
    wait_for("the device to stop", lambda: not made.alive("sbc-a"), seconds=60)
    made.start("sbc-a")
    made.await_device("sbc-a")
    return made


def test_every_row_of_the_port_table_listens_and_nothing_else_does(lab: LabHandle) -> None:
    table = rows()
    ours = {(row.port, row.to): row for row in table if row.to not in OUTSIDE}
    assert set(ours) == set(ROWS), "a row without an entry in ROWS, or an entry without its row"
    wanted = {key: ROWS[key](lab) for key in ours}
    explained = set[Listening]().union(*wanted.values()) | inside(lab)

    def all_up() -> bool:
        return explained <= listening(lab)

    try:
        wait_for("all that the table names to listen", all_up, seconds=60)
    except CallpoolError:
        missing = {key: found - listening(lab) for key, found in wanted.items()}
        raise AssertionError(f"rows that nobody listens for: {missing}") from None
    assert listening(lab) - explained == set(), "sockets that no row explains"
    for key, row in ours.items():
        for found in wanted[key]:
            assert found.protocol in row.protocols, f"{row}: {found}"
            assert found.role == row.to


def test_a_socket_that_no_row_explains_would_be_found() -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for kind in (tcp, udp):
            kind.bind(("127.0.0.1", 0))
        tcp.listen()
        known = sockets()
        mine = {known[inode] for inode in held(os.getpid()) if inode in known}
        for protocol, kind in (("TCP", tcp), ("UDP", udp)):
            assert (protocol, "127.0.0.1", kind.getsockname()[1]) in mine
    assert os.getpid() in family(os.getppid())
