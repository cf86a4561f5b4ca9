"""How an alarm is told: the same words in traps, alarm tables and syslog."""

from __future__ import annotations

from typing import Final

from callpool.licensing.alarm_table import ALARM_NAMES, DEFINITIONS, EventType
from callpool.licensing.alarms import Event

#: What is named as the source of an alarm.
SOURCE: Final = "system0Mo"
#: The vendor's unique number wraps here.
LAST_UNIQUE: Final = 32_000


def described(event: Event) -> tuple[str, EventType, int, tuple[str, str, str]]:
    """Return short text, event type, probable cause and AdditionalInfo1..3 of an event."""
    found = DEFINITIONS.get(event.code)
    if found is None:  # of a release that knew more alarms than this one
        return event.text, EventType.OTHER, 0, (event.code, "", "")
    info = (",".join(event.codes), event.text, found.next_step)
    return found.short or event.text, found.event_type, found.cause, info


def alarm_name(event: Event) -> str:
    """Return what the event's alarm is called; its OID where this release does not know it."""
    return ALARM_NAMES.get(event.oid, event.oid)


def unique_number(event: Event) -> int:
    """Return the vendor's unique number of an event."""
    return event.sequence % (LAST_UNIQUE + 1)
