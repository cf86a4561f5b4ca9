"""A real device through our MIB modules: what a person sees has names, not numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from devicekit import Site, eventually, site
from snmpkit import ACTIVE, USER, V2C, V3, Snmp, TrapReceiver

#: Served under the standard's own modules (SNMP-FRAMEWORK-MIB, SNMP-USER-BASED-SM-MIB), which
#: every network operations centre has and the base set in npm has not.
STANDARD = re.compile(r"^(\.1\.3\.6\.1\.6\.3\.(10|15)\.|SNMPv2-SMI::snmpModules\.(10|15)\.)")

#: The 16 variables as they are to be read; a pattern each.
VARIABLES = {
    "acTrapName": r"INTEGER: 106",
    "acTrapTextualDescription": r"STRING: License Pool Alarm. New license pool allocations.*",
    "acTrapSource": r"STRING: system0Mo",
    "acTrapSeverity": r"INTEGER: major\(4\)",
    "acTrapUniqID": r"INTEGER: 1",
    "acTrapType": r"INTEGER: communicationsAlarm\(1\)",
    "acTrapProbableCause": r"INTEGER: other\(0\)",
    "acTrapAdditionalInfo1": r"STRING: restart_pending",
    "acTrapAdditionalInfo2": r"STRING: New licenses have arrived; restart with save .*",
    "acTrapAdditionalInfo3": r"STRING: Restart the device with save.*",
    "acTrapDateAndTime": r"STRING: 20\d\d-\d{1,2}-\d{1,2},\d{1,2}:\d{1,2}:\d{1,2}\.\d,\+0:0",
    "acTrapSystemSeverity": r"INTEGER: major\(4\)",
    "acTrapDeviceName": "",
    "acTrapDeviceInfo": "",
    "acTrapDeviceDescription": "",
    "acTrapSystemSerialNumber": r"STRING: SN-a",
}


class Told:
    """A device with two receivers that load our modules: an inform by v3, a trap by v2c."""

    def __init__(self, made: Site) -> None:
        device = made.device("a")
        self.informed = TrapReceiver(made.directory / "v3", device.serial, named=True)
        self.trapped = TrapReceiver(made.directory / "v2c", device.serial, named=True)
        self.snmp = Snmp(
            device,
            targets=[
                {"address": self.informed.address, "kind": "inform", "user": USER},
                {"address": self.trapped.address, "kind": "trap"},
            ],
        )
        device.start()
        eventually(device.connected)
        made.allocate("a", sbc_sessions=10)
        eventually(lambda: device.alarms() == {"restart_pending"})
        eventually(self.snmp.answers)
        eventually(lambda: self.snmp.table(ACTIVE))


@pytest.fixture(scope="module")
def told(module_path: Path) -> Iterator[Told]:
    with site(module_path) as made:
        ready = Told(made)
        try:
            yield ready
        finally:
            ready.informed.stop()
            ready.trapped.stop()


def named(receiver: TrapReceiver, notification: str) -> dict[str, str]:
    """The variables of the first notification of that name, by name."""

    def first() -> dict[str, str] | None:
        for binds in receiver.got():
            if binds.get("SNMPv2-MIB::snmpTrapOID.0") == f"OID: {notification}":
                return dict(binds)
        return None

    found: dict[str, str] = eventually(first)
    return found


def test_snmptrapd_reads_every_variable_by_name_by_v3_and_v2c(told: Told) -> None:
    for receiver in (told.informed, told.trapped):
        binds = named(receiver, "CALLPOOL-MIB::acLicensePoolApplicationAlarm")
        assert list(binds)[2:] == [f"CALLPOOL-MIB::{name}.0" for name in VARIABLES]
        for name, pattern in VARIABLES.items():
            value = binds[f"CALLPOOL-MIB::{name}.0"].replace('"', "")
            assert re.fullmatch(pattern, value, re.DOTALL), f"{name}: {value}"
        started = named(receiver, "CALLPOOL-MIB::acBoardEvBoardStarted")
        assert started["CALLPOOL-MIB::acTrapSeverity.0"] == "INTEGER: cleared(0)"
        named(receiver, "SNMPv2-MIB::coldStart")
    assert "inform" in told.informed.security()[0].lower()
    assert "v2c" in told.trapped.security()[0].lower()


def test_a_restart_that_is_asked_for_is_told_before_it_and_after_it(told: Told) -> None:
    told.snmp.device.ask("restart", save=False)
    before = named(told.informed, "CALLPOOL-MIB::acBoardEvResettingBoard")
    assert before["CALLPOOL-MIB::acTrapSeverity.0"] == "INTEGER: indeterminate(1)"

    def order() -> list[str]:
        oids = [b.get("SNMPv2-MIB::snmpTrapOID.0", "") for b in told.informed.got()]
        return [oid.rpartition("acBoardEv")[2] for oid in oids if "acBoardEv" in oid]

    eventually(lambda: order() == ["BoardStarted", "ResettingBoard", "BoardStarted"])
    assert told.snmp.device.ask("running")["kamailio_pid"]
    starts = [b for b in told.informed.got() if "coldStart" in str(b)]
    assert len(starts) == 1, "the agent itself has not started anew"


@pytest.mark.parametrize("credentials", [V3, V2C], ids=["v3", "v2c"])
def test_the_alarm_tables_are_read_as_tables(told: Told, credentials: tuple[str, ...]) -> None:
    address = told.snmp.address
    for table, column in (("acAlarmActiveTable", "Active"), ("acAlarmHistoryTable", "History")):
        said = told.snmp.named(
            "snmptable", *credentials, "-Cb", "-Cf", "|", address, f"CALLPOOL-MIB::{table}"
        )
        title, _, header, *rows = said.splitlines()
        assert title == f"SNMP table: CALLPOOL-MIB::{table}"
        row = dict(zip(header.split("|"), rows[0].split("|"), strict=True))
        assert len(row) == 13, column
        assert row["SequenceNumber"] == "1"
        assert row["TrapOID"] == "CALLPOOL-MIB::acLicensePoolApplicationAlarm"
        assert row["Severity"] == "major"
        assert row["EventType"] == "communicationsAlarm"
        assert row["ProbableCause"] == "other"
        assert re.fullmatch(VARIABLES["acTrapDateAndTime"][8:], row["DateAndTime"])
        assert row["AdditionalInfo1"] == '"restart_pending"'
    walked = told.snmp.named("snmpwalk", *credentials, address, "CALLPOOL-MIB::acAlarmHistoryTable")
    assert "CALLPOOL-MIB::acAlarmHistorySeverity.1 = INTEGER: major(4)" in walked.splitlines()
    said = told.snmp.named(
        "snmpget", *credentials, "-OQ", address,
        "CALLPOOL-MIB::callpoolLicenseLabel.1", "CALLPOOL-MIB::callpoolLicenseRemote.1",
        "CALLPOOL-MIB::callpoolLicenseActual.1", "CALLPOOL-MIB::callpoolInService.0",
        "CALLPOOL-MIB::acSysHAStatusReady.0",
    )  # fmt: skip
    assert [line.partition(" = ")[2] for line in said.splitlines()] == [
        '"SBC Sessions"', "10", "5", "true", "notApplicable"
    ]  # fmt: skip


def test_the_whole_tree_has_names(told: Told) -> None:
    said = told.snmp.named("snmpwalk", *V3, told.snmp.address, ".1").splitlines()
    walked = [line.partition(" = ")[0] for line in said if " = " in line]
    assert len(walked) > 60
    for name in walked:
        assert STANDARD.match(name) or re.fullmatch(r"[\w-]+::[A-Za-z]\w*(\.\d+)+", name), name


def test_the_fields_nagios_check_reads_the_active_alarms_unchanged(told: Told) -> None:
    """It walks AcAlarm's active table by v2c and reads columns 6 (text), 8 and 10."""
    column: dict[int, list[str]] = {6: [], 8: [], 10: []}
    for oid, value in told.snmp.walk(ACTIVE, *V2C):
        number = int(oid.removeprefix(f"{ACTIVE}.").split(".")[0])
        if number in column:
            column[number].append(value)
    found = list(zip(column[6], column[8], column[10], strict=True))
    assert found == [("License Pool Alarm. New license pool allocations received", "4", "0")]
    states = {"5": 2, "4": 2, "3": 1, "2": 1}  # critical and major: CRITICAL; the rest: WARNING
    assert max(states.get(severity, 0) for _, severity, _ in found) == 2
