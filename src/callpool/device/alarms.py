"""What is wrong on a device, as plain codes with a sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

#: Seconds before the lease's end at which the warning begins.
LEASE_WARNING: Final = 86400.0

#: Seconds before a local key's end at which the warning begins.
KEY_WARNING: Final = 30 * 86400.0

CONTACT_LOST: Final = "contact_lost"
LEASE_WARNING_CODE: Final = "lease_warning"
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

#: code -> (severity, sentence); `{}` takes what the raiser adds.
ALARMS: Final[Mapping[str, tuple[str, str]]] = {
    CONTACT_LOST: ("major", "The last contact with the license server failed: {}"),
    LEASE_WARNING_CODE: (
        "critical",
        "The lease of the pool's licenses ends in {}; then only the local key counts.",
    ),
    OVER_ALLOCATED: (
        "major",
        "Local and pool licenses together exceed what the device supports at most: {}",
    ),
    RESTART_PENDING: (
        "minor",
        "New licenses have arrived; restart with save to apply them.",
    ),
    CLONE_LOCKED: (
        "critical",
        "The license server holds this serial number for a clone or a rolled-back machine; "
        "an operator must decide there.",
    ),
    CLOCK_SKEW: ("minor", "This device's clock and the license server's differ: {}"),
    CLOCK_BEHIND: (
        "major",
        "The clock was behind at the start: only the local key counts until the license "
        "server's signed time arrives.",
    ),
    GATE_DOWN: ("critical", "The SIP service is not confirmed to follow the license: {}"),
    CALLS_UNCERTAIN: (
        "warning",
        "{} calls are counted as in progress without being certain.",
    ),
    FLASH_FELL_BACK: (
        "warning",
        "The newest generation of the flash was damaged; the one before it was taken.",
    ),
    FLASH_FAILED: ("critical", "What arrived could not be written and is not applied: {}"),
    REPLY_REFUSED: ("major", "A reply was refused: {}"),
    NOT_ENROLLED: ("major", "The device is not enrolled with its license server: {}"),
    NOT_LISTED: (
        "major",
        "The license server does not list this device; add it to the pool there.",
    ),
    NOT_MANAGED: (
        "major",
        "The license server lists this device, but its pool does not manage it; manage it "
        "there, or remove it.",
    ),
    KEY_ENDS: ("warning", "The local license key ends in {}; install a new one."),
    KEY_ENDED: (
        "major",
        "The local license key {} has ended: its counts and features are out of force.",
    ),
    TWO_MODES: (
        "minor",
        "The pool has given licenses to a device in smart mode; they are not used. Take the "
        "device out of the pool, or disable smart licensing.",
    ),
    SMART_EVALUATION: ("warning", "The evaluation period ends in {}; register the device."),
    SMART_EVAL_EXPIRED: (
        "critical",
        "The evaluation period has ended and calls are refused; register the device.",
    ),
    SMART_RENEWAL_FAILED: ("major", "The license authorization could not be renewed: {}"),
    SMART_OUT_OF_COMPLIANCE: (
        "major",
        "Out of compliance: more calls per second are configured than purchased, or the "
        "authority refused too often{}.",
    ),
    SMART_AUTHORIZATION_EXPIRED: (
        "critical",
        "The license authorization has expired: the authority was not reached for 90 days{}.",
    ),
    SMART_REGISTRATION_FAILED: ("major", "The registration failed: {}"),
    SMART_CLOCK: (
        "critical",
        "The clock is outside the ID certificate's dates; in {} the registration ends.",
    ),
}


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One active alarm."""

    code: str
    severity: str
    text: str


def alarm(code: str, detail: str = "") -> Alarm:
    """Return the alarm `code`, its sentence filled with `detail`."""
    severity, text = ALARMS[code]
    return Alarm(code=code, severity=severity, text=text.format(detail))


def span(seconds: float) -> str:
    """Return a duration for people."""
    minutes = max(0, int(seconds // 60))
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
