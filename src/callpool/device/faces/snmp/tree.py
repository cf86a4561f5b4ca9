"""The objects that the agent serves, worked out from what the core tells.

Numbers: the vendor's AcAlarm tables, AC-SYSTEM-MIB and AC-KPI-MIB where a network operations
centre already knows them, our own arc (CALLPOOL-MIB) for the rest. What we cannot fill
honestly is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from pysnmp.proto.rfc1902 import Gauge32, Integer32, ObjectIdentifier, TimeTicks, Unsigned32

from callpool.device.alarm_book import AlarmReport
from callpool.device.status import PairStatus, Status
from callpool.host.snmp.notify import name_number
from callpool.host.snmp.values import OWN, VENDOR, Live, Oid, Value, date_and_time, text
from callpool.licensing.alarm_words import SOURCE, described
from callpool.licensing.alarms import Event
from callpool.licensing.capacity import FAR_END_USERS, SBC_SESSIONS

SYSTEM: Final[Oid] = (1, 3, 6, 1, 2, 1, 1)
ACTIVE: Final[Oid] = (*VENDOR, 11, 1, 1, 1, 1)
HISTORY: Final[Oid] = (*VENDOR, 11, 1, 2, 1, 1)
SERIAL: Final[Oid] = (*VENDOR, 9, 10, 10, 2, 3, 2)
HA_READY: Final[Oid] = (*VENDOR, 9, 10, 10, 2, 10, 1)
#: Percent of a license in use: SBC signaling sessions, and far-end users.
PERCENT: Final[Mapping[str, Oid]] = {
    SBC_SESSIONS: (*VENDOR, 15, 2, 1, 1, 1, 4),
    FAR_END_USERS: (*VENDOR, 15, 2, 1, 1, 1, 5),
}
OWN_SCALARS: Final[Oid] = (*OWN, 1)
OWN_PAIR: Final[Oid] = (*OWN, 1, 11)
#: The numbers of an HA pair's roles.
ROLES: Final[Mapping[str, int]] = {"active": 1, "redundant": 2, "alone": 3, "fault": 4}
OWN_LICENSES: Final[Oid] = (*OWN, 1, 10, 1)


def table(entry: Oid, events: tuple[Event, ...], uptime_at: Callable[[float], int]) -> dict[
    Oid, Value
]:  # fmt: skip
    """Return the rows of an alarm table (AcAlarm, columns 1 to 13)."""
    found: dict[Oid, Value] = {}
    for event in events:
        short, kind, cause, info = described(event)
        columns = (
            Unsigned32(event.sequence),
            TimeTicks(uptime_at(event.at)),
            ObjectIdentifier(event.oid),
            date_and_time(event.at),
            Unsigned32(name_number(event.oid)),
            text(short, 200),
            text(SOURCE),
            Integer32(int(event.severity)),
            Integer32(int(kind)),
            Integer32(cause),
            *(text(i, 100) for i in info),
        )
        for column, value in enumerate(columns, 1):
            found[(*entry, column, event.sequence)] = value
    return found


def alarm_objects(report: AlarmReport, uptime_at: Callable[[float], int]) -> dict[Oid, Value]:
    """Return both alarm tables; `uptime_at` gives sysUpTime, in hundredths, of a time."""
    return {
        **table(ACTIVE, report.active, uptime_at),
        **table(HISTORY, report.history, uptime_at),
    }


def license_objects(status: Status) -> dict[Oid, Value]:
    """Return the device's license state: absolute numbers, and the percentages the field has."""
    scalars: dict[int, Value] = {
        1: text(status.serial),
        2: text(status.software),
        3: text(status.mode),
        4: text(status.server_status),
        5: Integer32(1 if status.in_service else 2),
        6: text(status.out_of_service),
        8: Gauge32(status.uncertain),
        9: Gauge32(status.emergency),
    }
    if status.lease_seconds is not None:
        scalars[7] = Gauge32(max(0, int(status.lease_seconds)))
    found: dict[Oid, Value] = {(*OWN_SCALARS, k, 0): v for k, v in scalars.items()}
    found[(*SERIAL, 0)] = text(status.serial)
    found |= pair_objects(status.pair)
    for index, row in enumerate(status.capacity, 1):
        counts = (row.remote, row.local, row.actual, row.pending, row.in_use, row.peak)
        found[(*OWN_LICENSES, 2, index)] = text(row.label)
        for column, count in enumerate(counts, 3):
            found[(*OWN_LICENSES, column, index)] = Gauge32(count)
        if row.maximum is not None:
            found[(*OWN_LICENSES, 9, index)] = Gauge32(row.maximum)
        if row.type in PERCENT:
            share = row.in_use * 100 // row.actual if row.actual else 100 * (row.in_use > 0)
            found[(*PERCENT[row.type], 0)] = Gauge32(min(100, share))
    return found


def pair_objects(pair: PairStatus | None) -> dict[Oid, Value]:
    """Return the HA pair's state; of a device of its own, only that there is none."""
    if pair is None:
        return {(*HA_READY, 0): Integer32(1)}  # notApplicable
    values: tuple[Value, ...] = (
        Integer32(ROLES.get(pair.role, 5)),
        text(pair.peer),
        Integer32(1 if pair.synchronised else 2),
        Integer32(int(pair.peer_age)),
        Gauge32(pair.running_version),
        Gauge32(pair.peer_version),
        Integer32(ROLES.get(pair.peer_role, 5)),
    )
    found: dict[Oid, Value] = {(*OWN_PAIR, n, 0): v for n, v in enumerate(values, 1)}
    found[(*HA_READY, 0)] = Integer32(2 if pair.synchronised else 3)
    return found


def system_objects(
    status: Status, *, contact: str, location: str, uptime: Callable[[], int]
) -> dict[Oid, Value]:
    """Return the system group (SNMPv2-MIB); `uptime` is in hundredths of a second."""
    values = {
        1: text(status.software),
        2: ObjectIdentifier(OWN),
        3: Live(lambda: TimeTicks(uptime())),
        4: text(contact),
        5: text(status.serial),
        6: text(location),
        7: Integer32(64),  # applications (layer 7)
    }
    return {(*SYSTEM, k, 0): v for k, v in values.items()}
