"""Every alarm that a device can raise: one definition for pages, API, SNMP and syslog.

OIDs, event types and probable causes: acLicensePool* and acBoardTrapGlobals of the vendor's
traps where the field has one (numbers of X.733 as AcBoard lists them), our own arc otherwise.
The probable cause that the vendor calls 'New License pool' has no public number: other(0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Severity(IntEnum):
    """How grave an alarm is, as the traps number it."""

    CLEARED = 0
    INDETERMINATE = 1
    WARNING = 2
    MINOR = 3
    MAJOR = 4
    CRITICAL = 5


class EventType(IntEnum):
    """X.733 event types, as the traps number them."""

    OTHER = 0
    COMMUNICATIONS = 1
    QUALITY_OF_SERVICE = 2
    PROCESSING_ERROR = 3
    EQUIPMENT = 4
    ENVIRONMENTAL = 5

    @property
    def label(self) -> str:
        """Return the standard's name, such as communicationsAlarm."""
        first, *rest = self.name.lower().split("_")
        return (
            first + "".join(w.capitalize() for w in rest) + ("" if self is self.OTHER else "Alarm")
        )


#: Under these lie the vendor's notifications, and our own.
VENDOR_TRAPS: Final = "1.3.6.1.4.1.5003.9.10.1.21.2.0"
OWN_TRAPS: Final = "1.3.6.1.4.1.32473.1.0"

POOL_INFRASTRUCTURE: Final = f"{VENDOR_TRAPS}.106"
POOL_APPLICATION: Final = f"{VENDOR_TRAPS}.107"
POOL_OVER_ALLOCATION: Final = f"{VENDOR_TRAPS}.125"

#: The vendor's alarms of an HA pair.
HA_SYSTEM_FAULT: Final = f"{VENDOR_TRAPS}.33"
HA_CONFIG_MISMATCH: Final = f"{VENDOR_TRAPS}.34"
HA_SYSTEM_SWITCHOVER: Final = f"{VENDOR_TRAPS}.35"

#: What each alarm is called, as the MIB modules name its notification.
ALARM_NAMES: Final[Mapping[str, str]] = {
    POOL_INFRASTRUCTURE: "acLicensePoolInfraAlarm",
    POOL_APPLICATION: "acLicensePoolApplicationAlarm",
    POOL_OVER_ALLOCATION: "acLicensePoolOverAllocationAlarm",
    HA_SYSTEM_FAULT: "acHASystemFaultAlarm",
    HA_CONFIG_MISMATCH: "acHASystemConfigMismatchAlarm",
    HA_SYSTEM_SWITCHOVER: "acHASystemSwitchOverAlarm",
    f"{OWN_TRAPS}.1": "callpoolCloneLockedAlarm",
    f"{OWN_TRAPS}.2": "callpoolClockSkewAlarm",
    f"{OWN_TRAPS}.3": "callpoolClockBehindAlarm",
    f"{OWN_TRAPS}.4": "callpoolGateDownAlarm",
    f"{OWN_TRAPS}.5": "callpoolCallsUncertainAlarm",
    f"{OWN_TRAPS}.6": "callpoolFlashFellBackAlarm",
    f"{OWN_TRAPS}.7": "callpoolReplyRefusedAlarm",
    f"{OWN_TRAPS}.8": "callpoolEnrolmentFailedAlarm",
    f"{OWN_TRAPS}.9": "callpoolLocalKeyAlarm",
    f"{OWN_TRAPS}.10": "callpoolTwoModesAlarm",
    f"{OWN_TRAPS}.11": "callpoolSmartEvaluationAlarm",
    f"{OWN_TRAPS}.12": "callpoolSmartAuthorizationAlarm",
    f"{OWN_TRAPS}.13": "callpoolSmartComplianceAlarm",
    f"{OWN_TRAPS}.14": "callpoolSmartRegistrationAlarm",
    f"{OWN_TRAPS}.15": "callpoolSmartClockAlarm",
    f"{OWN_TRAPS}.16": "callpoolSessionsNearlyUsedAlarm",
    f"{OWN_TRAPS}.17": "callpoolUsersNearlyUsedAlarm",
    f"{OWN_TRAPS}.18": "callpoolSmartAboveMaximumAlarm",
    f"{OWN_TRAPS}.19": "callpoolPairDoubleActiveAlarm",
    f"{OWN_TRAPS}.20": "callpoolPairDriftAlarm",
}

# X.733 probable causes.
_OTHER = 0
_COMMUNICATIONS_SUBSYSTEM = 6
_CONFIGURATION = 7
_CORRUPT_DATA = 9
_NEARING_CAPACITY = 43
_THRESHOLD = 51
_KEY_EXPIRED = 68
_OUT_OF_SERVICE = 71

#: X.733 probable causes by their standard names.
CAUSES: Final[Mapping[int, str]] = {
    _OTHER: "other",
    _COMMUNICATIONS_SUBSYSTEM: "communicationsSubsystemFailure",
    _CONFIGURATION: "configurationOrCustomizationError",
    _CORRUPT_DATA: "corruptData",
    _NEARING_CAPACITY: "resourceAtOrNearingCapacity",
    _THRESHOLD: "thresholdCrossed",
    _KEY_EXPIRED: "keyExpired",
    _OUT_OF_SERVICE: "outOfService",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One condition that is alarmed."""

    severity: Severity
    #: The sentence for people; `{}` takes what the raiser adds.
    text: str
    #: What the operator can do.
    next_step: str
    #: The notification's OID. Conditions that share one are one alarm: the gravest is told.
    oid: str
    event_type: EventType
    #: X.733 probable cause, as AcBoard numbers it.
    cause: int = _OTHER
    #: The field's own short text; empty: the sentence.
    short: str = ""
    #: Whether a new detail is told anew, not only a new severity.
    retold: bool = False

    @property
    def name(self) -> str:
        """Return what the alarm is called."""
        return ALARM_NAMES[self.oid]


CONTACT_LOST: Final = "contact_lost"
LEASE_WARNING_CODE: Final = "lease_warning"
LEASE_ENDED: Final = "lease_ended"
OVER_ALLOCATED: Final = "over_allocated"
RESTART_PENDING: Final = "restart_pending"
CLONE_LOCKED: Final = "clone_locked"
CLOCK_SKEW: Final = "clock_skew"
CLOCK_BEHIND: Final = "clock_behind"
GATE_DOWN: Final = "gate_down"
CALLS_UNCERTAIN: Final = "calls_uncertain"
FLASH_FELL_BACK: Final = "flash_fell_back"
FLASH_FAILED: Final = "flash_write_failed"
REPLY_REFUSED: Final = "reply_refused"
NOT_ENROLLED: Final = "enrolment_failed"
NOT_LISTED: Final = "not_listed"
NOT_MANAGED: Final = "not_managed"
NO_LONGER_MANAGED: Final = "no_longer_managed"
KEY_UPGRADE: Final = "key_upgrade_under_way"
KEY_ENDS: Final = "local_key_ends"
KEY_ENDED: Final = "local_key_ended"
TWO_MODES: Final = "two_modes"
SMART_EVALUATION: Final = "smart_evaluation_ends"
SMART_EVAL_EXPIRED: Final = "smart_evaluation_expired"
SMART_RENEWAL_FAILED: Final = "smart_renewal_failed"
SMART_OUT_OF_COMPLIANCE: Final = "smart_out_of_compliance"
SMART_AUTHORIZATION_EXPIRED: Final = "smart_authorization_expired"
SMART_REGISTRATION_FAILED: Final = "smart_registration_failed"
SMART_CLOCK: Final = "smart_clock_out_of_range"
SMART_ABOVE_MAXIMUM: Final = "smart_count_above_maximum"
SESSIONS_NEARLY_USED: Final = "sessions_nearly_used"
USERS_NEARLY_USED: Final = "users_nearly_used"
HA_FAULT: Final = "ha_fault"
HA_WAITING: Final = "ha_waiting"
HA_MISMATCH: Final = "ha_mismatch"
HA_SWITCHOVER: Final = "ha_switchover"
HA_DOUBLE_ACTIVE: Final = "ha_double_active"
HA_DRIFT: Final = "ha_drift"

#: The alarms that a planned run of an HA pair brings with it.
HA_ALARMS: Final = (HA_FAULT, HA_WAITING, HA_MISMATCH, HA_SWITCHOVER, HA_DOUBLE_ACTIVE, HA_DRIFT)

#: In order: of conditions behind one alarm that are as grave, the first is told.
DEFINITIONS: Final[Mapping[str, Definition]] = {
    CONTACT_LOST: Definition(
        severity=Severity.MAJOR,
        text="The last contact with the license server failed: {}",
        short="Device was unable to access the License Server.",
        next_step="Check the network path and the license server; the lease runs on until its end.",
        oid=POOL_INFRASTRUCTURE,
        event_type=EventType.COMMUNICATIONS,
        cause=_KEY_EXPIRED,
    ),
    LEASE_WARNING_CODE: Definition(
        severity=Severity.CRITICAL,
        text="The lease of the pool's licenses ends in {}; then only the local key counts.",
        short="License-pool is about to expire.",
        next_step="Restore contact with the license server before the lease ends.",
        oid=POOL_INFRASTRUCTURE,
        event_type=EventType.COMMUNICATIONS,
        cause=_KEY_EXPIRED,
    ),
    LEASE_ENDED: Definition(
        severity=Severity.CRITICAL,
        text="The lease of the pool's licenses has ended: only the local key counts until the "
        "license server is reached.",
        next_step="Restore contact with the license server.",
        oid=POOL_INFRASTRUCTURE,
        event_type=EventType.COMMUNICATIONS,
        cause=_KEY_EXPIRED,
    ),
    NO_LONGER_MANAGED: Definition(
        severity=Severity.MAJOR,
        text="The license pool has managed this device and does so no more: what it gave ends "
        "with a restart with save, or with the lease.",
        short="Device is no longer managed by the SBC License Pool.",
        next_step="Manage the device at the license server again, or do a factory reset.",
        oid=POOL_INFRASTRUCTURE,
        event_type=EventType.COMMUNICATIONS,
        cause=_KEY_EXPIRED,
    ),
    NOT_LISTED: Definition(
        severity=Severity.MAJOR,
        text="The license server does not list this device; add it to the pool there.",
        short="License pool synchronization failed, Device is not listed in the License Server",
        next_step="Add the device to the pool at the license server.",
        oid=POOL_APPLICATION,
        event_type=EventType.COMMUNICATIONS,
    ),
    NOT_MANAGED: Definition(
        severity=Severity.MAJOR,
        text="The license server lists this device, but its pool does not manage it; manage it "
        "there, or remove it.",
        short="License pool synchronization failed, Device is not managed by License Server ",
        next_step="Manage the device at the license server, or remove it there.",
        oid=POOL_APPLICATION,
        event_type=EventType.COMMUNICATIONS,
    ),
    RESTART_PENDING: Definition(
        severity=Severity.MAJOR,
        text="New licenses have arrived; restart with save to apply them.",
        short="License Pool Alarm. New license pool allocations received",
        next_step="Restart the device with save; on an HA pair run the hitless installation.",
        oid=POOL_APPLICATION,
        event_type=EventType.COMMUNICATIONS,
    ),
    FLASH_FAILED: Definition(
        severity=Severity.CRITICAL,
        text="What arrived could not be written and is not applied: {}",
        short="Device License pool server configuration failed ",
        next_step="Free space on the device's disk, or mend it; the device tries again.",
        oid=POOL_APPLICATION,
        event_type=EventType.COMMUNICATIONS,
    ),
    KEY_UPGRADE: Definition(
        severity=Severity.MINOR,
        text="Pool licenses have arrived while the installation of local key {} is under way: "
        "the SIP service has not confirmed that key yet.",
        next_step="Wait for the SIP service to take the key; look at its log if it does not.",
        oid=POOL_APPLICATION,
        event_type=EventType.COMMUNICATIONS,
    ),
    OVER_ALLOCATED: Definition(
        severity=Severity.MAJOR,
        text="Local and pool licenses together exceed what the device supports at most: {}",
        next_step="Allocate less to this device at the license server.",
        oid=POOL_OVER_ALLOCATION,
        event_type=EventType.COMMUNICATIONS,
        retold=True,
    ),
    CLONE_LOCKED: Definition(
        severity=Severity.CRITICAL,
        text="The license server holds this serial number for a clone or a rolled-back machine; "
        "an operator must decide there.",
        next_step="At the license server: make sure that one machine has this serial, then unlock.",
        oid=f"{OWN_TRAPS}.1",
        event_type=EventType.COMMUNICATIONS,
    ),
    CLOCK_SKEW: Definition(
        severity=Severity.MINOR,
        text="This device's clock and the license server's differ: {}",
        next_step="Check time synchronisation on both.",
        oid=f"{OWN_TRAPS}.2",
        event_type=EventType.PROCESSING_ERROR,
        cause=_CONFIGURATION,
    ),
    CLOCK_BEHIND: Definition(
        severity=Severity.MAJOR,
        text="The clock was behind at the start: only the local key counts until the license "
        "server's signed time arrives.",
        next_step="Set the clock and restore contact with the license server.",
        oid=f"{OWN_TRAPS}.3",
        event_type=EventType.PROCESSING_ERROR,
        cause=_CONFIGURATION,
    ),
    GATE_DOWN: Definition(
        severity=Severity.CRITICAL,
        text="The SIP service is not confirmed to follow the license: {}",
        next_step="Look at the SIP service's log; the device asks it again by itself.",
        oid=f"{OWN_TRAPS}.4",
        event_type=EventType.PROCESSING_ERROR,
        cause=_OUT_OF_SERVICE,
    ),
    CALLS_UNCERTAIN: Definition(
        severity=Severity.WARNING,
        text="{} calls are counted as in progress without being certain.",
        next_step="Wait for them to end, or give them back: callpool device calls.",
        oid=f"{OWN_TRAPS}.5",
        event_type=EventType.QUALITY_OF_SERVICE,
    ),
    FLASH_FELL_BACK: Definition(
        severity=Severity.WARNING,
        text="The newest generation of the flash was damaged; the one before it was taken.",
        next_step="Check the device's disk.",
        oid=f"{OWN_TRAPS}.6",
        event_type=EventType.EQUIPMENT,
        cause=_CORRUPT_DATA,
    ),
    REPLY_REFUSED: Definition(
        severity=Severity.MAJOR,
        text="A reply was refused: {}",
        next_step="Make sure that the device talks to its own license server.",
        oid=f"{OWN_TRAPS}.7",
        event_type=EventType.COMMUNICATIONS,
        cause=_COMMUNICATIONS_SUBSYSTEM,
    ),
    NOT_ENROLLED: Definition(
        severity=Severity.MAJOR,
        text="The device is not enrolled with its license server: {}",
        next_step="Make a registration token at the license server and give it to the device.",
        oid=f"{OWN_TRAPS}.8",
        event_type=EventType.COMMUNICATIONS,
        cause=_CONFIGURATION,
    ),
    KEY_ENDS: Definition(
        severity=Severity.WARNING,
        text="The local license key ends in {}; install a new one.",
        next_step="Install a new local license key.",
        oid=f"{OWN_TRAPS}.9",
        event_type=EventType.PROCESSING_ERROR,
        cause=_KEY_EXPIRED,
    ),
    KEY_ENDED: Definition(
        severity=Severity.MAJOR,
        text="The local license key {} has ended: its counts and features are out of force.",
        next_step="Install a new local license key.",
        oid=f"{OWN_TRAPS}.9",
        event_type=EventType.PROCESSING_ERROR,
        cause=_KEY_EXPIRED,
    ),
    TWO_MODES: Definition(
        severity=Severity.MINOR,
        text="The pool has given licenses to a device in smart mode; they are not used. Take the "
        "device out of the pool, or disable smart licensing.",
        next_step="Take the device out of the pool, or disable smart licensing.",
        oid=f"{OWN_TRAPS}.10",
        event_type=EventType.PROCESSING_ERROR,
        cause=_CONFIGURATION,
    ),
    SMART_EVALUATION: Definition(
        severity=Severity.WARNING,
        text="The evaluation period ends in {}; register the device.",
        next_step="Register the device.",
        oid=f"{OWN_TRAPS}.11",
        event_type=EventType.PROCESSING_ERROR,
        cause=_KEY_EXPIRED,
    ),
    SMART_EVAL_EXPIRED: Definition(
        severity=Severity.CRITICAL,
        text="The evaluation period has ended and calls are refused; register the device.",
        next_step="Register the device.",
        oid=f"{OWN_TRAPS}.11",
        event_type=EventType.PROCESSING_ERROR,
        cause=_KEY_EXPIRED,
    ),
    SMART_RENEWAL_FAILED: Definition(
        severity=Severity.MAJOR,
        text="The license authorization could not be renewed: {}",
        next_step="Restore contact with the license authority.",
        oid=f"{OWN_TRAPS}.12",
        event_type=EventType.COMMUNICATIONS,
        cause=_COMMUNICATIONS_SUBSYSTEM,
    ),
    SMART_OUT_OF_COMPLIANCE: Definition(
        severity=Severity.MAJOR,
        text="Out of compliance: more calls per second are configured than purchased, or the "
        "authority refused too often{}.",
        next_step="Buy more, or configure a smaller count on a device of the account.",
        oid=f"{OWN_TRAPS}.13",
        event_type=EventType.PROCESSING_ERROR,
        cause=_NEARING_CAPACITY,
    ),
    SMART_AUTHORIZATION_EXPIRED: Definition(
        severity=Severity.CRITICAL,
        text="The license authorization has expired: the authority was not reached for 90 days{}.",
        next_step="Restore contact with the license authority.",
        oid=f"{OWN_TRAPS}.12",
        event_type=EventType.COMMUNICATIONS,
        cause=_KEY_EXPIRED,
    ),
    SMART_REGISTRATION_FAILED: Definition(
        severity=Severity.MAJOR,
        text="The registration failed: {}",
        next_step="Check the address of the license authority and the token; register again.",
        oid=f"{OWN_TRAPS}.14",
        event_type=EventType.COMMUNICATIONS,
        cause=_COMMUNICATIONS_SUBSYSTEM,
    ),
    SMART_CLOCK: Definition(
        severity=Severity.CRITICAL,
        text="The clock is outside the ID certificate's dates; in {} the registration ends.",
        next_step="Set the clock.",
        oid=f"{OWN_TRAPS}.15",
        event_type=EventType.PROCESSING_ERROR,
        cause=_CONFIGURATION,
    ),
    SMART_ABOVE_MAXIMUM: Definition(
        severity=Severity.MAJOR,
        text="More calls per second are configured than the device carries: {}",
        next_step="Configure a smaller count, or install a local license key with a larger "
        "maximum.",
        oid=f"{OWN_TRAPS}.18",
        event_type=EventType.PROCESSING_ERROR,
        cause=_CONFIGURATION,
    ),
    SESSIONS_NEARLY_USED: Definition(
        severity=Severity.WARNING,
        text="SBC Sessions are nearly used up: {}",
        next_step="Allocate more SBC Sessions to this device.",
        oid=f"{OWN_TRAPS}.16",
        event_type=EventType.QUALITY_OF_SERVICE,
        cause=_THRESHOLD,
    ),
    USERS_NEARLY_USED: Definition(
        severity=Severity.WARNING,
        text="Far End Users are nearly used up: {}",
        next_step="Allocate more Far End Users to this device.",
        oid=f"{OWN_TRAPS}.17",
        event_type=EventType.QUALITY_OF_SERVICE,
        cause=_THRESHOLD,
    ),
    HA_FAULT: Definition(
        severity=Severity.CRITICAL,
        text="The HA pair is not whole: {}",
        short="SYS_HA: no HA system.",
        next_step="Bring the other unit and the way to it back; until then nothing stands in for "
        "this one.",
        oid=HA_SYSTEM_FAULT,
        event_type=EventType.QUALITY_OF_SERVICE,
        cause=_OUT_OF_SERVICE,
    ),
    HA_WAITING: Definition(
        severity=Severity.MINOR,
        text="The HA pair waits for the other unit: {}",
        short="SYS_HA: waiting for the redundant unit.",
        next_step="None while the other unit restarts.",
        oid=HA_SYSTEM_FAULT,
        event_type=EventType.QUALITY_OF_SERVICE,
        cause=_OUT_OF_SERVICE,
    ),
    HA_MISMATCH: Definition(
        severity=Severity.MAJOR,
        text="The two units of the HA pair enforce different licenses: {}",
        next_step="Restart with save the unit that has the older licenses.",
        oid=HA_CONFIG_MISMATCH,
        event_type=EventType.PROCESSING_ERROR,
        cause=_CONFIGURATION,
    ),
    HA_SWITCHOVER: Definition(
        severity=Severity.CRITICAL,
        text="Switchover: this unit is now {}.",
        next_step="Find out why, unless it was asked for.",
        oid=HA_SYSTEM_SWITCHOVER,
        event_type=EventType.QUALITY_OF_SERVICE,
        cause=_OUT_OF_SERVICE,
    ),
    HA_DOUBLE_ACTIVE: Definition(
        severity=Severity.CRITICAL,
        text="Both units of the HA pair have the service address: this one and {}.",
        next_step="Mend the network between the units: VRRP settles it as soon as it passes again.",
        oid=f"{OWN_TRAPS}.19",
        event_type=EventType.COMMUNICATIONS,
        cause=_COMMUNICATIONS_SUBSYSTEM,
    ),
    HA_DRIFT: Definition(
        severity=Severity.WARNING,
        text="The calls or registrations of the two units differed: {}",
        next_step="Look for packet loss between the units if it comes again.",
        oid=f"{OWN_TRAPS}.20",
        event_type=EventType.PROCESSING_ERROR,
        cause=_CORRUPT_DATA,
    ),
}
