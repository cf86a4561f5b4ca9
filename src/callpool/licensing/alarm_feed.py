"""One alarm heard by several ways: what a notification changes, and what it does not.

A device tells an alarm event in its contacts and by SNMP, sometimes twice, sometimes late,
sometimes not at all. An alarm is known by the unit, what it is about, and its notification's
OID; an event of it by the sender's number and time. `judge` says what a newly heard event is.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from callpool.licensing.alarm_table import OWN_TRAPS, VENDOR_TRAPS, EventType, Severity
from callpool.licensing.alarm_words import LAST_UNIQUE, SOURCE
from callpool.licensing.manager_alarm_table import ALL_DEFINITIONS, FIRST_OWN

#: A notification without a number.
NO_NUMBER: Final = -1
#: Times of the same event differ by no more, in seconds: SNMP tells tenths.
SAME_TIME: Final = 1.0
#: Numbers behind the last one by no more are older events of the same count.
BEHIND: Final = 1_000
#: Characters by which two sentences are compared: SNMP cuts them.
_COMPARED: Final = 80

#: Notifications that tell of something once: they never stay active.
BOARD_STARTED: Final = f"{VENDOR_TRAPS}.4"
RESETTING: Final = f"{VENDOR_TRAPS}.5"
HITLESS_STATUS: Final = f"{VENDOR_TRAPS}.48"
EVENTS: Final = frozenset({BOARD_STARTED, RESETTING, HITLESS_STATUS})

#: What an HA pair raises and clears in a hitless run (facts/license-pool.md 6, inferred there;
#: between its steps the units run different licenses, which callpool's tell as a mismatch).
HA_SYSTEM_FAULT: Final = f"{VENDOR_TRAPS}.33"
HA_MISMATCH: Final = f"{VENDOR_TRAPS}.34"
HA_SWITCH_OVER: Final = f"{VENDOR_TRAPS}.35"
HITLESS_RUN: Final = (HA_SYSTEM_FAULT, HA_MISMATCH, HA_SWITCH_OVER, HITLESS_STATUS)


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """One event of one alarm, as it was heard."""

    #: The notification's OID, by the vendor's own prefix or ours.
    oid: str
    #: What of the unit it is about.
    about: str = SOURCE
    severity: Severity
    #: The sender's short text, and its sentence.
    short: str
    text: str
    event_type: EventType = EventType.OTHER
    #: X.733 probable cause, as AcBoard numbers it.
    cause: int = 0
    #: AdditionalInfo1..3.
    info: tuple[str, str, str] = ("", "", "")
    #: The conditions behind it, where the sender is callpool.
    codes: tuple[str, ...] = ()
    #: The sender's time, seconds since 1970.
    at: float
    #: The sender's number modulo LAST_UNIQUE + 1, or NO_NUMBER.
    unique: int = NO_NUMBER

    @property
    def code(self) -> str:
        """Return the gravest condition, empty where it is not known."""
        return self.codes[0] if self.codes else ""

    @property
    def number_known(self) -> bool:
        """Tell whether the sender has numbered it."""
        return self.unique != NO_NUMBER


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm that is active, as far as `judge` asks."""

    severity: Severity
    code: str
    text: str


class Last(msgspec.Struct, frozen=True, kw_only=True):
    """The event of an alarm that was taken last."""

    unique: int
    at: float


class Verdict(Enum):
    """What an event is."""

    #: It raises the alarm.
    RAISED = "raised"
    #: It changes an active alarm.
    CHANGED = "changed"
    #: It clears it.
    CLEARED = "cleared"
    #: It stands for itself and leaves nothing active.
    EVENT = "event"
    #: It is older than what is known: only history.
    LATE = "late"
    #: It says what is known.
    NOTHING = "nothing"


def is_late(last: Last, unique: int, at: float) -> bool:
    """Tell whether an event is older than `last`: by its number and by its time.

    By both: a sender may count anew, and its clock may be set back.
    """
    if NO_NUMBER in (unique, last.unique):
        return False
    behind = (last.unique - unique) % (LAST_UNIQUE + 1)
    return 0 < behind <= BEHIND and at < last.at


def judge(active: Known | None, last: Last | None, heard: Heard) -> Verdict:
    """Return what an event is that has not been taken before.

    `active` is the alarm as it stands, None where it is not active; `last` its last event,
    None where there was none.
    """
    if heard.oid in EVENTS:
        return Verdict.EVENT
    if last is not None and is_late(last, heard.unique, heard.at):
        return Verdict.LATE
    if heard.severity is Severity.CLEARED:
        return Verdict.NOTHING if active is None else Verdict.CLEARED
    if active is None:
        return Verdict.RAISED
    if (active.severity, active.code) != (heard.severity, heard.code):
        return Verdict.CHANGED
    same = active.text[:_COMPARED] == heard.text[:_COMPARED]
    retold = heard.code not in ALL_DEFINITIONS or ALL_DEFINITIONS[heard.code].retold
    return Verdict.CHANGED if retold and not same else Verdict.NOTHING


def is_managers(oid: str) -> bool:
    """Tell whether a notification is one that only the manager raises."""
    parent, _, number = oid.rpartition(".")
    return parent == OWN_TRAPS and int(number) >= FIRST_OWN
