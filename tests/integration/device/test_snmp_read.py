"""A real device read by net-snmp: what it serves, and what it keeps to itself."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from devicekit import call, eventually, site
from snmpkit import ACTIVE, AUTH, COMMUNITY, HISTORY, PRIVACY, USER, V2C, V3, Snmp, show

SYS_DESCR = ".1.3.6.1.2.1.1.1.0"
LICENSES = ".1.3.6.1.4.1.32473.1.1.10.1"
BAD_COMMUNITIES = ".1.3.6.1.2.1.11.4.0"
UNKNOWN_USERS = ".1.3.6.1.6.3.15.1.1.3.0"
WRONG_DIGESTS = ".1.3.6.1.6.3.15.1.1.5.0"


@pytest.fixture(scope="module")
def snmp(module_path: Path) -> Iterator[Snmp]:
    """An enrolled device with an alarm, served by v3 and v2c."""
    with site(module_path) as made:
        device = made.device("a")
        served = Snmp(device, contact="noc@example.net", location="rack 1")
        device.start()
        eventually(device.connected)
        made.allocate("a", sbc_sessions=10)
        eventually(lambda: device.alarms() == {"restart_pending"})
        eventually(served.answers)
        eventually(lambda: served.table(ACTIVE))
        yield served


def test_the_whole_tree_is_walked_in_order_and_ends_alike_by_every_way(snmp: Snmp) -> None:
    walked = snmp.walk(".1")
    oids = [tuple(int(n) for n in oid[1:].split(".")) for oid, _ in walked]
    assert oids == sorted(set(oids))
    assert len(oids) > 60
    for ways in (snmp.walk(".1", *V2C), snmp.walk(".1", tool="snmpbulkwalk")):
        assert [oid for oid, _ in ways] == [oid for oid, _ in walked]
    said = snmp.run(
        "snmpbulkget", "-Cn1", "-Cr3", *V3, snmp.address, ".1.3.6.1.2.1.1.2", ".1.3.6.1.2.1.11"
    )
    assert len(said.splitlines()) == 4
    beyond = snmp.run("snmpgetnext", *V3, snmp.address, ".1.3.6.1.9")
    assert "No more variables left" in beyond


def test_the_alarm_tables_and_the_licenses_are_what_the_device_says(snmp: Snmp) -> None:
    (row,) = snmp.table(ACTIVE)
    assert sorted(row) == list(range(1, 14)), "the vendor's 13 columns"
    assert row[3] == ".1.3.6.1.4.1.5003.9.10.1.21.2.0.107"
    assert (row[5], row[7], row[8], row[9], row[10]) == ("106", "system0Mo", "4", "1", "0")
    assert row[6] == "License Pool Alarm. New license pool allocations received"
    assert row in snmp.table(HISTORY)
    (told,) = json.loads(call("device", "alarms", "--dir", snmp.device.layout.root, "--json"))
    assert (told["code"], told["severity"]) == ("restart_pending", "major")
    assert int(row[1]) == told["sequence"]
    licenses = {oid.removeprefix(f"{LICENSES}."): value for oid, value in snmp.walk(LICENSES)}
    # SBC Sessions: remote, local, actual, after a restart with save, in use, peak, maximum.
    assert [licenses[f"{column}.1"] for column in range(2, 10)] == [
        "SBC Sessions", "10", "5", "5", "15", "0", "0", "1000"
    ]  # fmt: skip
    assert snmp.get(".1.3.6.1.4.1.5003.9.10.10.2.3.2.0") == "SN-a"
    assert snmp.get(".1.3.6.1.2.1.1.4.0", *V2C) == "noc@example.net"
    words = (*V3, snmp.address, ".1.3.6.1.2.1.1.1.1", ".1.3.6.1.9.1.0")
    said = snmp.run("snmpget", *words).splitlines()
    assert "No Such Instance" in said[0]
    assert "No Such Object" in said[1]


def test_a_wrong_community_and_v1_get_silence_and_are_counted(snmp: Snmp) -> None:
    before = int(snmp.get(BAD_COMMUNITIES))
    for wrong in (("-v2c", "-c", "public"), ("-v2c", "-c", ""), ("-v1", "-c", COMMUNITY)):
        said = snmp.run("snmpget", *wrong, snmp.address, SYS_DESCR, ok=False, patience=1)
        assert "No Response" in said, wrong
    eventually(lambda: int(snmp.get(BAD_COMMUNITIES)) >= before + 2)


def test_a_wrong_user_gets_the_report_of_the_standard_and_no_value(snmp: Snmp) -> None:
    def refused(*credentials: str) -> str:
        said = snmp.run("snmpget", *credentials, snmp.address, SYS_DESCR, ok=False)
        assert "callpool" not in said
        return said

    users, digests = int(snmp.get(UNKNOWN_USERS)), int(snmp.get(WRONG_DIGESTS))
    stranger = tuple("nobody" if word == USER else word for word in V3)
    assert "Unknown user name" in refused(*stranger)
    guess = tuple("wrong-secret" if word == AUTH else word for word in V3)
    assert "Authentication failure" in refused(*guess)
    assert "Unsupported security level" in refused("-v3", "-u", USER, "-l", "noAuthNoPriv")
    plain = V3[: V3.index("-x")]
    refused(*("authNoPriv" if word == "authPriv" else word for word in plain))
    # They are refreshed twice a second.
    eventually(lambda: int(snmp.get(UNKNOWN_USERS)) > users)
    eventually(lambda: int(snmp.get(WRONG_DIGESTS)) > digests)


def test_nothing_can_be_written(snmp: Snmp) -> None:
    for credentials in (V3, V2C):
        words = (*credentials, snmp.address, ".1.3.6.1.2.1.1.4.0", "s", "mallory")
        said = snmp.run("snmpset", *words, ok=False)
        assert "notWritable" in said
    assert snmp.get(".1.3.6.1.2.1.1.4.0") == "noc@example.net"


def test_no_secret_is_in_a_process_list_a_log_or_a_readable_file(snmp: Snmp) -> None:
    layout = snmp.device.layout
    assert layout.snmp.stat().st_mode & 0o777 == 0o600
    faces = snmp.device.running()["faces_pid"]
    assert snmp.device.process is not None
    seen = [
        Path(f"/proc/{faces}/cmdline").read_text(),
        Path(f"/proc/{faces}/environ").read_text(),
        snmp.device.process.said(),
        layout.journal.read_text(),
        layout.snmp_state.read_text(),
        show(snmp.device),
    ]
    for secret in (AUTH, PRIVACY, COMMUNITY):
        assert not any(secret in text for text in seen), secret


def test_mutated_packets_crash_nothing_disclose_nothing_and_fill_no_log(snmp: Snmp) -> None:
    assert snmp.device.process is not None
    faces = snmp.device.running()["faces_pid"]
    said = len(snmp.device.process.said())
    caught = captured(snmp)
    assert len(caught) >= 3, "v2c, v3's discovery and v3 itself"
    chance = random.Random(20)
    parse_errors = ".1.3.6.1.2.1.11.6.0"
    before = int(snmp.get(parse_errors))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        attacker.settimeout(0.003)
        for _ in range(1000):
            packet = mutated(chance, chance.choice(caught))
            attacker.sendto(packet, ("127.0.0.1", snmp.port))
            with contextlib.suppress(TimeoutError):
                answer = attacker.recv(65535)  # of this packet, or late of one before it
                assert b"callpool" not in answer or COMMUNITY.encode() in answer
    eventually(lambda: int(snmp.get(parse_errors)) > before + 100)
    assert snmp.device.running()["faces_pid"] == faces
    assert len(snmp.device.process.said()) - said < 2000
    assert snmp.get(SYS_DESCR).startswith("callpool")


def captured(snmp: Snmp) -> list[bytes]:
    """Valid packets of net-snmp's own, caught on their way to the agent."""
    packets: list[bytes] = []
    for credentials in (V2C, V3):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as middle,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as onward,
        ):
            middle.bind(("127.0.0.1", 0))
            middle.settimeout(0.1)
            onward.settimeout(10)
            address = f"127.0.0.1:{middle.getsockname()[1]}"
            with ThreadPoolExecutor(1) as pool:
                reading = pool.submit(snmp.run, "snmpget", *credentials, address, SYS_DESCR)
                while not reading.done():
                    with contextlib.suppress(TimeoutError):
                        packet, source = middle.recvfrom(65535)
                        packets.append(packet)
                        onward.sendto(packet, ("127.0.0.1", snmp.port))
                        middle.sendto(onward.recv(65535), source)
                assert "callpool" in reading.result()
    return packets


def mutated(chance: random.Random, packet: bytes) -> bytes:
    """A packet with a few octets changed, lost or added, or its end cut off."""
    made = bytearray(packet)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at, how = chance.randrange(len(made)), chance.randrange(4)
        if how == 0:
            made[at] = chance.randrange(256)
        elif how == 1 and len(made) > 1:
            del made[at]
        elif how == 2:
            made.insert(at, chance.randrange(256))
        else:
            made = made[: max(1, at)]
    return bytes(made)


def test_without_a_community_v2c_is_silent(tmp_path: Path) -> None:
    with site(tmp_path) as made:
        device = made.device("b")
        served = Snmp(device, v2c=False)
        device.start()
        eventually(served.answers)
        said = served.run("snmpget", *V2C, served.address, SYS_DESCR, ok=False, patience=1)
        assert "No Response" in said
