"""A real device read by net-snmp: what it serves, and what it keeps to itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from devicekit import call, eventually, site
from snmpkit import ACTIVE, AUTH, COMMUNITY, HISTORY, PRIVACY, V2C, V3, Snmp, show

SYS_DESCR = ".1.3.6.1.2.1.1.1.0"
LICENSES = ".1.3.6.1.4.1.32473.1.1.10.1"


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


def test_the_whole_tree_is_walked_in_rising_order_and_ends_alike_by_every_way(snmp: Snmp) -> None:
    ways = [
        [oid for oid, _ in snmp.walk(".1", *credentials, tool=tool)]
        for credentials in (V3, V2C)
        for tool in ("snmpwalk", "snmpbulkwalk")
    ]
    for way in ways:
        oids = [tuple(int(n) for n in oid[1:].split(".")) for oid in way]
        assert all(a < b for a, b in pairwise(oids))
        assert len(oids) > 60
        assert way == ways[0]
    said = snmp.run(
        "snmpbulkget", "-Cn1", "-Cr3", *V3, snmp.address, ".1.3.6.1.2.1.1.2", ".1.3.6.1.2.1.11"
    )
    assert len(said.splitlines()) == 4
    for credentials in (V3, V2C):
        for last in (ways[0][-1], ".1.3.6.1.9", ".2.5"):
            beyond = snmp.run("snmpgetnext", *credentials, snmp.address, last)
            assert "No more variables left" in beyond, last
        beyond = snmp.run("snmpbulkget", "-Cn0", "-Cr50", *credentials, snmp.address, ways[0][-2])
        first, *rest = beyond.splitlines()
        assert first.startswith(f"{ways[0][-1]} = ")
        assert rest
        assert all("No more variables left" in line for line in rest)


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


def test_without_a_community_v2c_is_silent(tmp_path: Path) -> None:
    with site(tmp_path) as made:
        device = made.device("b")
        served = Snmp(device, v2c=False)
        device.start()
        eventually(served.answers)
        said = served.run("snmpget", *V2C, served.address, SYS_DESCR, ok=False, patience=1)
        assert "No Response" in said
