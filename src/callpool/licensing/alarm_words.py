"""How an alarm is told: the same words in traps, alarm tables and syslog."""

from __future__ import annotations

from typing import Final

from callpool.licensing.alarm_table import ALARM_NAMES, VENDOR_TRAPS, EventType
from callpool.licensing.alarms import Event
from callpool.licensing.manager_alarm_table import ALL_DEFINITIONS, MANAGER_ALARM_NAMES

#: What is named as the source of an alarm.
SOURCE: Final = "system0Mo"
#: The vendor's unique number wraps here.
LAST_UNIQUE: Final = 32_000
#: Alarms of the vendor's devices that a manager hears of (facts on the pool, 4.4).
_OTHERS: Final = {
    f"{VENDOR_TRAPS}.4": "acBoardEvBoardStarted",
    f"{VENDOR_TRAPS}.5": "acBoardEvResettingBoard",
    f"{VENDOR_TRAPS}.6": "acFeatureKeyError",
    f"{VENDOR_TRAPS}.12": "acActiveAlarmTableOverflow",
    f"{VENDOR_TRAPS}.33": "acHASystemFaultAlarm",
    f"{VENDOR_TRAPS}.34": "acHASystemConfigMismatchAlarm",
    f"{VENDOR_TRAPS}.35": "acHASystemSwitchOverAlarm",
    f"{VENDOR_TRAPS}.48": "acHitlessUpdateStatus",
    f"{VENDOR_TRAPS}.132": "acCloudLicenseManagerAlarm",
}
_NAMES: Final = {**_OTHERS, **ALARM_NAMES, **MANAGER_ALARM_NAMES}


def described(event: Event) -> tuple[str, EventType, int, tuple[str, str, str]]:
    """Return short text, event type, probable cause and AdditionalInfo1..3 of an event."""
    found = ALL_DEFINITIONS.get(event.code)
    if found is None:  # of a release that knew more alarms than this one
        return event.text, EventType.OTHER, 0, (event.code, "", "")
    info = (",".join(event.codes), event.text, found.next_step)
    return found.short or event.text, found.event_type, found.cause, info


def alarm_name(event: Event) -> str:
    """Return what the event's alarm is called; its OID where this release does not know it."""
    return name_of(event.oid)


def name_of(oid: str) -> str:
    """Return what the alarm of an OID is called; the OID where this release does not know it."""
    return _NAMES.get(oid, oid)


def unique_number(event: Event) -> int:
    """Return the vendor's unique number of an event."""
    return event.sequence % (LAST_UNIQUE + 1)
