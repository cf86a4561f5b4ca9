"""The MIB modules name what the device serves and sends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from callpool.device.faces.snmp import smart_notify, smart_tree
from callpool.device.faces.snmp.tree import (
    ACTIVE,
    HA_READY,
    HISTORY,
    OWN_LICENSES,
    OWN_PAIR,
    OWN_SCALARS,
    PERCENT,
    SERIAL,
)
from callpool.host.snmp.notify import GLOBALS, RESETTING, STARTED
from callpool.host.snmp.values import Oid
from callpool.licensing.alarm_table import ALARM_NAMES
from callpool.licensing.manager_alarm_table import ALL_DEFINITIONS, MANAGER_ALARM_NAMES

MIBS = Path(__file__).parents[3] / "packaging" / "mibs"
MIB = MIBS / "CALLPOOL-MIB.txt"
SMART = MIBS / "CALLPOOL-SMART-MIB.txt"


def nodes(file: Path = MIB) -> dict[Oid, tuple[str, str]]:
    """(name, macro) of every node, by OID."""
    text = re.sub(r"--.*|(?s:IMPORTS.*?;)", "", file.read_text())
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
    served |= {(*OWN_PAIR, number) for number in range(1, 8)}
    served |= {(*GLOBALS, number) for number in range(1, 17)}
    served |= {SERIAL, HA_READY, *PERCENT.values()}
    assert objects == served | tables | {entry[:-1] for entry in tables}


def objects_of(notification: str, file: Path) -> list[str]:
    """The names of a notification's variables."""
    found = re.search(
        rf"^{notification} NOTIFICATION-TYPE\s+OBJECTS\s+\{{(.*?)\}}", file.read_text(), re.M | re.S
    )
    assert found is not None
    return [name.strip() for name in found[1].split(",")]


def test_every_notification_of_smart_licensing_is_in_its_mib_with_its_variables() -> None:
    known = nodes(SMART)
    told = {n: name for n, (name, macro) in known.items() if macro == "NOTIFICATION-TYPE"}
    sent = {(*smart_tree.SLA, 1, n) for n in range(1, 23)}
    assert set(told) == sent | {smart_notify.EXCEEDED, smart_notify.STATE_ALERT}
    for oid, name in told.items():
        severity = smart_tree.USP_SEVERITY
        wanted = {
            (*smart_tree.SLA, 1, 1): [smart_tree.SUDI, (*smart_tree.ENTITLEMENT, 5, 1)],
            (*smart_tree.SLA, 1, 15): [
                *((*smart_tree.ENTITLEMENT, column, 1) for column in (2, 3, 4, 5)),
                smart_tree.SUDI,
            ],
            (*smart_tree.SLA, 1, 22): [
                smart_tree.SUDI, smart_tree.FAILURE_REASON, smart_tree.FAILURE_MESSAGE
            ],
            smart_notify.EXCEEDED: [severity, smart_tree.USP_CPS, smart_tree.USP_LIMIT],
            smart_notify.STATE_ALERT: [severity, smart_tree.USP_STATE],
        }.get(oid, [smart_tree.SUDI])  # fmt: skip
        assert objects_of(name, SMART) == [known[oid[:-1]][0] for oid in wanted]


def test_every_object_of_smart_licensing_is_in_its_mib_and_no_other() -> None:
    objects = {n for n, (_, macro) in nodes(SMART).items() if macro == "OBJECT-TYPE"}
    entry = smart_tree.ENTITLEMENT
    suffixes = [
        (1,),
        (2,),
        (3,),
        (4,),
        *((6, n) for n in (1, 2, 3, 4)),
        *((7, n) for n in (1, 2, 3)),
    ]
    suffixes += [(*group, n) for group in ((6, 5), (6, 6), (7, 5)) for n in (1, 2, 3, 4)]
    suffixes += [(7, 4, n) for n in (1, 2, 3)] + [(8, 1), (8, 2), (9, 1), (9, 2)]
    served = {(*smart_tree.SLA_OBJECTS, *s) for s in suffixes}
    served |= {(*entry, column) for column in range(1, 9)} | {entry, entry[:-1]}
    served |= {(*smart_tree.USP_SCALARS, n) for n in range(1, 7)}
    served |= {(*smart_tree.USP_CALLS, n) for n in range(1, 13) if n != 2}
    served |= {oid[:-1] for oid in (*smart_tree.SWITCHES, smart_tree.USP_SEVERITY)}
    assert objects == served


def test_only_the_four_switches_can_be_written() -> None:
    text = SMART.read_text()
    written = re.findall(r"^(\w+) OBJECT-TYPE(?:(?!::=).)*?read-write", text, re.M | re.S)
    known = {name: oid for oid, (name, _) in nodes(SMART).items()}
    assert {(*known[name], 0) for name in written} == set(smart_tree.SWITCHES)
    assert "read-write" not in MIB.read_text()


@pytest.mark.parametrize("file", [MIB, SMART], ids=lambda file: file.stem)
def test_texts_are_octet_strings(file: Path) -> None:
    assert "SnmpAdminString" not in file.read_text()
    assert "DisplayString" not in file.read_text()
