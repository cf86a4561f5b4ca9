"""The MIB module names what the device serves and sends."""

from __future__ import annotations

import re
from pathlib import Path

from callpool.device.faces.snmp.tree import (
    ACTIVE,
    HA_READY,
    HISTORY,
    OWN_LICENSES,
    OWN_SCALARS,
    PERCENT,
    SERIAL,
)
from callpool.host.snmp.notify import GLOBALS, RESETTING, STARTED
from callpool.host.snmp.values import Oid
from callpool.licensing.alarm_table import ALARM_NAMES
from callpool.licensing.manager_alarm_table import ALL_DEFINITIONS, MANAGER_ALARM_NAMES

MIB = Path(__file__).parents[3] / "packaging" / "mibs" / "CALLPOOL-MIB.txt"


def nodes() -> dict[Oid, tuple[str, str]]:
    """(name, macro) of every node, by OID."""
    text = re.sub(r"--.*|(?s:IMPORTS.*?;)", "", MIB.read_text())
    found: dict[str, tuple[str, str, int]] = {}
    shape = re.compile(
        r"^(\w+)\s+(OBJECT IDENTIFIER|[A-Z]+-[A-Z]+)\b(?:(?!::=).)*::=\s*\{ (\w+) (\d+) \}",
        re.MULTILINE | re.DOTALL,
    )
    for name, macro, parent, number in shape.findall(text):
        found[name] = (macro, parent, int(number))

    def oid(name: str) -> Oid:
        if name == "enterprises":
            return (1, 3, 6, 1, 4, 1)
        _, parent, number = found[name]
        return (*oid(parent), number)

    return {oid(name): (name, macro) for name, (macro, _, _) in found.items()}


def test_every_notification_that_is_sent_is_in_the_mib_and_no_other() -> None:
    told = {n: name for n, (name, macro) in nodes().items() if macro == "NOTIFICATION-TYPE"}
    sent = {d.oid for d in ALL_DEFINITIONS.values()} | {STARTED, RESETTING}
    assert {".".join(map(str, n)) for n in told} == sent
    by_oid = {".".join(map(str, n)): name for n, name in told.items()}
    events = (STARTED, RESETTING)
    named = {oid: name for oid, name in by_oid.items() if oid not in events}
    assert named == {**ALARM_NAMES, **MANAGER_ALARM_NAMES}


def test_every_object_that_is_served_is_in_the_mib_and_no_other() -> None:
    objects = {n for n, (_, macro) in nodes().items() if macro == "OBJECT-TYPE"}
    tables = {ACTIVE, HISTORY, OWN_LICENSES}
    served = {(*entry, column) for entry in (ACTIVE, HISTORY) for column in range(1, 14)}
    served |= {(*OWN_LICENSES, column) for column in range(1, 10)}
    served |= {(*OWN_SCALARS, number) for number in range(1, 10)}
    served |= {(*GLOBALS, number) for number in range(1, 17)}
    served |= {SERIAL, HA_READY, *PERCENT.values()}
    assert objects == served | tables | {entry[:-1] for entry in tables}


def test_texts_are_octet_strings() -> None:
    assert "SnmpAdminString" not in MIB.read_text()
    assert "DisplayString" not in MIB.read_text()
