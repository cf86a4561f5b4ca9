"""Our MIB modules as smilint and snmptranslate read them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from snmpkit import BASE_MIBS, OWN_MIBS, environment, own_modules

from callpool.device.faces.snmp import tree
from callpool.host.snmp import notify
from callpool.licensing.alarm_table import DEFINITIONS

#: What smilint's strictest level may say, and why it is no fault of ours: the field's tables and
#: notifications have the shape and the names that they have, and receivers know them by these.
FIELD_SHAPES = {
    "namelength-32": "the field's names are longer than 32 characters",
    "index-element-accessible": "AcAlarm serves the sequence number as column 1",
    "notification-not-reversible": "the field's notifications do not stand under a 0",
}


def smilint(module: Path, *options: str) -> str:
    """What smilint finds, which is nothing where a module is clean."""
    done = subprocess.run(
        ["smilint", "-s", "-m", *options, module],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "SMIPATH": f"{BASE_MIBS}:{OWN_MIBS}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("module", own_modules(), ids=lambda file: file.stem)
def test_every_module_is_clean(module: Path) -> None:
    assert smilint(module, "-l", "4") == ""
    ignored = [word for name in FIELD_SHAPES for word in ("-i", name)]
    assert smilint(module, "-l", "9", *ignored) == ""


def test_a_module_with_a_fault_is_not_clean(tmp_path: Path) -> None:
    text = (OWN_MIBS / "CALLPOOL-MIB.txt").read_text()
    broken = tmp_path / "CALLPOOL-MIB.txt"
    for fault, found in (
        (text.replace("    Gauge32, TimeTicks,\n", "").replace("Gauge32, ", "", 1), "[2]"),
        (text.replace("                  acBoardEvResettingBoard,\n", "", 1), "group"),
    ):
        assert fault != text
        broken.write_text(fault)
        assert found in smilint(broken, "-l", "4")


def translated(directory: Path, *oids: str) -> list[str]:
    """The name of each OID."""
    done = subprocess.run(
        ["snmptranslate", *oids],
        capture_output=True, text=True, timeout=60, env=environment(directory, named=True),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "every module is found and read without a word"
    return done.stdout.split()


def test_snmptranslate_names_all_that_is_served_and_sent(tmp_path: Path) -> None:
    sent = {d.oid for d in DEFINITIONS.values()} | {
        notify.STARTED, notify.RESETTING, notify.COLD_START, notify.WARM_START
    }  # fmt: skip
    columns = [(*entry, n) for entry in (tree.ACTIVE, tree.HISTORY) for n in range(1, 14)]
    columns += [(*tree.OWN_LICENSES, n) for n in range(1, 10)]
    columns += [(*tree.OWN_SCALARS, n) for n in range(1, 10)]
    columns += [(*notify.GLOBALS, n) for n in range(1, 17)]
    columns += [(*tree.SYSTEM, n) for n in range(1, 8)]
    columns += [tree.SERIAL, tree.HA_READY, *tree.PERCENT.values()]
    oids = sorted(sent | {".".join(map(str, oid)) for oid in columns})
    names = dict(zip(oids, translated(tmp_path, *(f".{oid}" for oid in oids)), strict=True))
    for oid, name in names.items():
        module, _, label = name.partition("::")
        assert module in ("CALLPOOL-MIB", "CALLPOOL-SMART-MIB", "SNMPv2-MIB"), (oid, name)
        assert label.isalnum(), f"{oid} has a name of its own, not {name}"
    prefix = "1.3.6.1.4.1.5003.9.10.1.21.2.0."
    assert {oid.removeprefix(prefix): names[oid] for oid in names if oid.startswith(prefix)} == {
        "4": "CALLPOOL-MIB::acBoardEvBoardStarted",
        "5": "CALLPOOL-MIB::acBoardEvResettingBoard",
        "106": "CALLPOOL-MIB::acLicensePoolInfraAlarm",
        "107": "CALLPOOL-MIB::acLicensePoolApplicationAlarm",
        "125": "CALLPOOL-MIB::acLicensePoolOverAllocationAlarm",
        "33": "CALLPOOL-MIB::acHASystemFaultAlarm",
        "34": "CALLPOOL-MIB::acHASystemConfigMismatchAlarm",
        "35": "CALLPOOL-MIB::acHASystemSwitchOverAlarm",
    }
