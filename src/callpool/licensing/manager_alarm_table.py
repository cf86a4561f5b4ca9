"""Every alarm of the manager's own: one definition for pages, API, SNMP and syslog.

Each is about a unit, or about a thing of the manager's (an order, a target, a disk). OIDs stand
in our own arc, from 101 on: no device raises one. The kinds of the authority's alerts are the
field's (facts/smart-licensing.md 5.1, public).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from callpool.licensing.alarm_table import (
    DEFINITIONS,
    OWN_TRAPS,
    Definition,
    EventType,
    Severity,
)

#: The first number of the manager's own alarms.
FIRST_OWN: Final = 101

DEVICE_SILENT: Final = "device_silent"
LEASE_ENDS: Final = "unit_lease_ends"
UNIT_LOCKED: Final = "unit_locked"
ORDER_ENDS: Final = "order_ends"
ORDER_ENDS_SOON: Final = "order_ends_soon"
ORDER_ENDED: Final = "order_ended"
REQUEST_WAITS: Final = "request_waits"
RESTORED: Final = "manager_restored"
CERTIFICATE_ENDS: Final = "certificate_ends"
CERTIFICATE_ENDED: Final = "certificate_ended"
DISK_LOW: Final = "disk_low"
JOURNAL_UNUSABLE: Final = "grant_journal_unusable"
TARGET_DOWN: Final = "target_down"
RECEIVER_DOWN: Final = "receiver_down"
AUTHORITY_MAJOR: Final = "authority_alert_major"
AUTHORITY_MINOR: Final = "authority_alert_minor"
HITLESS_STOPPED: Final = "hitless_run_stopped"

# X.733 probable causes, as AcBoard numbers them.
_COMMUNICATIONS_SUBSYSTEM: Final = 6
_CONFIGURATION: Final = 7
_CORRUPT_DATA: Final = 9
_NEARING_CAPACITY: Final = 43
_KEY_EXPIRED: Final = 68
_OUT_OF_SERVICE: Final = 71


def _own(number: int) -> str:
    return f"{OWN_TRAPS}.{number}"


#: What each notification is called, as the MIB module names it.
MANAGER_ALARM_NAMES: Final[Mapping[str, str]] = {
    _own(101): "callpoolDeviceSilentAlarm",
    _own(102): "callpoolUnitLockedAlarm",
    _own(103): "callpoolOrderEndsAlarm",
    _own(104): "callpoolRequestWaitsAlarm",
    _own(105): "callpoolManagerRestoredAlarm",
    _own(106): "callpoolManagerCertificateAlarm",
    _own(107): "callpoolManagerDiskAlarm",
    _own(108): "callpoolGrantJournalAlarm",
    _own(109): "callpoolForwardingAlarm",
    _own(110): "callpoolReceiverAlarm",
    _own(111): "callpoolAuthorityAlarm",
    _own(112): "callpoolHitlessRunAlarm",
}

#: In order: of conditions behind one alarm that are as grave, the first is told.
MANAGER_DEFINITIONS: Final[Mapping[str, Definition]] = {
    LEASE_ENDS: Definition(
        severity=Severity.CRITICAL,
        text="The device has not called and its lease ends at {}.",
        next_step="Restore its contact; at the lease's end it falls back to its local key.",
        oid=_own(101),
        event_type=EventType.COMMUNICATIONS,
        cause=_KEY_EXPIRED,
    ),
    DEVICE_SILENT: Definition(
        severity=Severity.MAJOR,
        text="The device has missed its poll: the last contact was at {}.",
        next_step="See whether the device runs and reaches the manager.",
        oid=_own(101),
        event_type=EventType.COMMUNICATIONS,
        cause=_COMMUNICATIONS_SUBSYSTEM,
    ),
    UNIT_LOCKED: Definition(
        severity=Severity.CRITICAL,
        text="The serial number is locked: a copied or rolled-back machine has called by it.",
        next_step="Find out which machine is the right one, then unlock the unit.",
        oid=_own(102),
        event_type=EventType.COMMUNICATIONS,
        cause=_OUT_OF_SERVICE,
    ),
    ORDER_ENDED: Definition(
        severity=Severity.CRITICAL,
        text="The order has ended at {}; what it counted is out of force.",
        next_step="Import an order that follows.",
        oid=_own(103),
        event_type=EventType.PROCESSING_ERROR,
        cause=_KEY_EXPIRED,
    ),
    ORDER_ENDS_SOON: Definition(
        severity=Severity.MAJOR,
        text="The order ends within a week, at {}.",
        next_step="Import an order that follows.",
        oid=_own(103),
        event_type=EventType.PROCESSING_ERROR,
        cause=_KEY_EXPIRED,
    ),
    ORDER_ENDS: Definition(
        severity=Severity.WARNING,
        text="The order ends at {}.",
        next_step="Buy an order that follows.",
        oid=_own(103),
        event_type=EventType.PROCESSING_ERROR,
        cause=_KEY_EXPIRED,
    ),
    REQUEST_WAITS: Definition(
        severity=Severity.WARNING,
        text="The device's request has waited since {}.",
        next_step="Buy more, or take from a device that can spare: callpool pool usage.",
        oid=_own(104),
        event_type=EventType.QUALITY_OF_SERVICE,
        cause=_NEARING_CAPACITY,
    ),
    RESTORED: Definition(
        severity=Severity.CRITICAL,
        text="The manager was restored from a backup and gives nothing until it has learned what "
        "its devices hold.",
        next_step="Let every device report, or decide: callpool manager accept-restore.",
        oid=_own(105),
        event_type=EventType.PROCESSING_ERROR,
        cause=_CORRUPT_DATA,
    ),
    CERTIFICATE_ENDED: Definition(
        severity=Severity.CRITICAL,
        text="The certificate has ended at {}.",
        next_step="Restart the manager: it makes a new TLS certificate.",
        oid=_own(106),
        event_type=EventType.PROCESSING_ERROR,
        cause=_KEY_EXPIRED,
    ),
    CERTIFICATE_ENDS: Definition(
        severity=Severity.WARNING,
        text="The certificate ends at {}.",
        next_step="Restart the manager: it makes a new TLS certificate.",
        oid=_own(106),
        event_type=EventType.PROCESSING_ERROR,
        cause=_KEY_EXPIRED,
    ),
    DISK_LOW: Definition(
        severity=Severity.MAJOR,
        text="The disk is nearly full: {}",
        next_step="Free space; a full disk stops every change.",
        oid=_own(107),
        event_type=EventType.EQUIPMENT,
        cause=_NEARING_CAPACITY,
    ),
    JOURNAL_UNUSABLE: Definition(
        severity=Severity.CRITICAL,
        text="The grant journal cannot be written, so no grant leaves: {}",
        next_step="Mend the disk of the grant journal.",
        oid=_own(108),
        event_type=EventType.EQUIPMENT,
        cause=_OUT_OF_SERVICE,
    ),
    TARGET_DOWN: Definition(
        severity=Severity.MAJOR,
        text="Alarms cannot be forwarded: {}",
        next_step="Restore the target; what it has not been told is told then.",
        oid=_own(109),
        event_type=EventType.COMMUNICATIONS,
        cause=_COMMUNICATIONS_SUBSYSTEM,
    ),
    RECEIVER_DOWN: Definition(
        severity=Severity.MAJOR,
        text="SNMP notifications of devices cannot be received: {}",
        next_step="Free the address, or set another: callpool manager snmp set.",
        oid=_own(110),
        event_type=EventType.COMMUNICATIONS,
        cause=_CONFIGURATION,
    ),
    AUTHORITY_MAJOR: Definition(
        severity=Severity.MAJOR,
        text="{}",
        next_step="See callpool smart alerts.",
        oid=_own(111),
        event_type=EventType.PROCESSING_ERROR,
        retold=True,
    ),
    AUTHORITY_MINOR: Definition(
        severity=Severity.MINOR,
        text="{}",
        next_step="See callpool smart alerts.",
        oid=_own(111),
        event_type=EventType.PROCESSING_ERROR,
        retold=True,
    ),
    HITLESS_STOPPED: Definition(
        severity=Severity.MAJOR,
        text="A hitless installation has stopped, the pair serves on: {}",
        next_step="Resume it, roll it back or close it: callpool pool hitless.",
        oid=_own(112),
        event_type=EventType.PROCESSING_ERROR,
    ),
}

#: Every alarm that callpool raises, on a device or at the manager.
ALL_DEFINITIONS: Final[Mapping[str, Definition]] = {**DEFINITIONS, **MANAGER_DEFINITIONS}
