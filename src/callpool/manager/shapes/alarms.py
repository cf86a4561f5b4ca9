"""Alarms of the manager and of its devices."""

from __future__ import annotations

from typing import Literal

from callpool.manager.shapes.base import Shape

Severity = Literal["cleared", "indeterminate", "warning", "minor", "major", "critical"]


class Told(Shape, frozen=True, kw_only=True):
    """What an alarm and an event of it have in common."""

    id: int
    #: None where it is the manager's own, or of a unit that is in no inventory.
    device: str | None
    tenant: str | None
    serial: str
    #: What of the manager it is about, such as an order; empty for a device's.
    about: str
    oid: str
    name: str
    severity: Severity
    #: The conditions behind it, the gravest first.
    codes: list[str]
    text: str
    next_step: str
    #: The sender's time, seconds since 1970.
    told_at: float
    #: Why it is expected; empty where it is not.
    expected: str


class Alarm(Told, frozen=True, kw_only=True):
    """An active alarm. Times are seconds since 1970."""

    raised_at: float
    changed_at: float
    #: The ways it was heard by: protocol, trap, walk, manager.
    heard: list[str]
    expected_until: float | None
    acknowledged_at: float | None
    acknowledged_by: str
    note: str


class AlarmPage(Shape, frozen=True, kw_only=True):
    """A page of active alarms; `counts` are of all, per severity, expected ones apart."""

    time: float
    alarms: list[Alarm]
    next: str | None
    counts: dict[str, int]


class Event(Told, frozen=True, kw_only=True):
    """One line of the history."""

    at: float
    #: raised, changed, cleared, event, late, unexpected, acknowledged.
    transition: str
    #: The gravest that the alarm had been.
    worst: Severity
    source: str
    #: The number of the alarm; None where it was none.
    alarm: int | None
    who: str
    note: str


class EventPage(Shape, frozen=True, kw_only=True):
    """A page of the history."""

    time: float
    events: list[Event]
    next: str | None


class Target(Shape, frozen=True, kw_only=True):
    """How far one target was told."""

    name: str
    told: int
    #: Events that it has not been told yet.
    behind: int
    failing_since: float | None
    failure: str


class Receiver(Shape, frozen=True, kw_only=True):
    """The SNMP receiver: its process, and what was turned away since it began."""

    boots: int
    pid: int
    listen: str
    counts: dict[str, int]


class Links(Shape, frozen=True, kw_only=True):
    """Where alarms go to and come from."""

    targets: list[Target]
    snmp: Receiver


class Acknowledged(Shape, frozen=True, kw_only=True):
    """An alarm that an operator has seen."""

    id: int
    acknowledged_by: str
