"""The alarms that a device reports in its contacts.

Its log is taken by number: what comes twice is taken once, and the reply says how far. What is
active is told whole in each contact, so that whatever was lost or claimed meanwhile is put right.
"""

from __future__ import annotations

import math
from typing import Final

from callpool.licensing.alarm_feed import BEHIND, NO_NUMBER, Heard, is_managers
from callpool.licensing.alarm_table import DEFINITIONS, OWN_TRAPS, VENDOR_TRAPS, Severity
from callpool.licensing.alarm_words import LAST_UNIQUE, SOURCE, described, unique_number
from callpool.licensing.alarms import Event
from callpool.manager.alarms import PROTOCOL, reconcile, take
from callpool.manager.change import Change
from callpool.manager.store.tx import Row
from callpool.wire.messages import AlarmMessage, AlarmsMessage

#: Events that are taken of one contact, and active alarms; a device sends no more.
MOST_EVENTS: Final = 200
MOST_LISTED: Final = 100
#: Notifications that a device of this release raises: its log says all of them.
_OF_THE_LOG: Final = frozenset(d.oid for d in DEFINITIONS.values())
_ARCS: Final = (VENDOR_TRAPS, OWN_TRAPS)
#: The longest name of a log.
_NAME: Final = 64


def heard_from(event: Event) -> Heard:
    """Return an event of callpool's own alarm log as it is taken."""
    short, kind, cause, info = described(event)
    return Heard(
        oid=event.oid,
        severity=event.severity,
        short=short,
        text=event.text,
        event_type=kind,
        cause=cause,
        info=info,
        codes=event.codes,
        at=event.at,
        unique=unique_number(event),
    )


def take_report(change: Change, unit: Row, report: AlarmsMessage | None) -> int | None:
    """Take what a unit reports of its alarms; return how far its log is taken, None for none.

    It never raises for what a device says: its alarms must not cost it its lease.
    """
    if report is None or not 0 < len(report.log) <= _NAME:
        return None
    serial = unit["serial"]
    same = report.log == unit["alarm_log"]
    taken = unit["alarm_taken"] if same else 0
    for message in report.events[:MOST_EVENTS]:
        if message.sequence <= taken:
            continue
        heard = _heard(message)
        if heard is not None:
            take(change, serial, heard, PROTOCOL)
        taken = message.sequence
    if (report.log, taken) != (unit["alarm_log"], unit["alarm_taken"]):
        change.tx.run(
            "UPDATE unit SET alarm_log = :log, alarm_taken = :taken WHERE serial = :serial",
            log=report.log,
            taken=taken,
            serial=serial,
        )
    if len(report.active) <= MOST_LISTED:
        last = report.sequence % (LAST_UNIQUE + 1)
        reconcile(
            change,
            serial,
            (h for h in map(_heard, report.active) if h is not None and h.severity),
            PROTOCOL,
            at=change.now,
            mine=_in_the_log,
            # A notification that has overtaken this contact; numbers of another log tell nothing.
            newer=lambda number, at: (
                same and number != NO_NUMBER and 0 < (number - last) % (LAST_UNIQUE + 1) <= BEHIND
            ),
        )
    return taken


def _in_the_log(row: Row) -> bool:
    heard = PROTOCOL in row["heard"].split()
    return bool(row["about"] == SOURCE and (heard or row["oid"] in _OF_THE_LOG))


def _heard(message: AlarmMessage) -> Heard | None:
    """Return an event as it is taken, None for what a device cannot have raised."""
    parent, _, number = message.oid.rpartition(".")
    good = (
        parent in _ARCS
        and number.isascii()
        and number.isdecimal()
        and len(number) < 6
        and not is_managers(message.oid)
        and message.severity <= Severity.CRITICAL
        and message.codes
        and math.isfinite(message.at)
    )
    if not good:
        return None
    return heard_from(
        Event(
            sequence=message.sequence,
            at=message.at,
            oid=message.oid,
            severity=Severity(message.severity),
            codes=message.codes,
            text=message.text,
        )
    )


__all__ = ["heard_from", "take_report"]
