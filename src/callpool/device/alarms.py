"""What is wrong on a device, as plain codes with a sentence each."""

from __future__ import annotations

from typing import Final

import msgspec

from callpool.licensing.alarm_table import CALLS_UNCERTAIN as CALLS_UNCERTAIN
from callpool.licensing.alarm_table import CLOCK_BEHIND as CLOCK_BEHIND
from callpool.licensing.alarm_table import CLOCK_SKEW as CLOCK_SKEW
from callpool.licensing.alarm_table import CLONE_LOCKED as CLONE_LOCKED
from callpool.licensing.alarm_table import CONTACT_LOST as CONTACT_LOST
from callpool.licensing.alarm_table import DEFINITIONS as DEFINITIONS
from callpool.licensing.alarm_table import FLASH_FAILED as FLASH_FAILED
from callpool.licensing.alarm_table import FLASH_FELL_BACK as FLASH_FELL_BACK
from callpool.licensing.alarm_table import GATE_DOWN as GATE_DOWN
from callpool.licensing.alarm_table import HA_DOUBLE_ACTIVE as HA_DOUBLE_ACTIVE
from callpool.licensing.alarm_table import HA_DRIFT as HA_DRIFT
from callpool.licensing.alarm_table import HA_FAULT as HA_FAULT
from callpool.licensing.alarm_table import HA_MISMATCH as HA_MISMATCH
from callpool.licensing.alarm_table import HA_SWITCHOVER as HA_SWITCHOVER
from callpool.licensing.alarm_table import HA_WAITING as HA_WAITING
from callpool.licensing.alarm_table import KEY_ENDED as KEY_ENDED
from callpool.licensing.alarm_table import KEY_ENDS as KEY_ENDS
from callpool.licensing.alarm_table import KEY_UPGRADE as KEY_UPGRADE
from callpool.licensing.alarm_table import LEASE_ENDED as LEASE_ENDED
from callpool.licensing.alarm_table import LEASE_WARNING_CODE as LEASE_WARNING_CODE
from callpool.licensing.alarm_table import NO_LONGER_MANAGED as NO_LONGER_MANAGED
from callpool.licensing.alarm_table import NOT_ENROLLED as NOT_ENROLLED
from callpool.licensing.alarm_table import NOT_LISTED as NOT_LISTED
from callpool.licensing.alarm_table import NOT_MANAGED as NOT_MANAGED
from callpool.licensing.alarm_table import OVER_ALLOCATED as OVER_ALLOCATED
from callpool.licensing.alarm_table import REPLY_REFUSED as REPLY_REFUSED
from callpool.licensing.alarm_table import RESTART_PENDING as RESTART_PENDING
from callpool.licensing.alarm_table import SESSIONS_NEARLY_USED as SESSIONS_NEARLY_USED
from callpool.licensing.alarm_table import SMART_ABOVE_MAXIMUM as SMART_ABOVE_MAXIMUM
from callpool.licensing.alarm_table import (
    SMART_AUTHORIZATION_EXPIRED as SMART_AUTHORIZATION_EXPIRED,
)
from callpool.licensing.alarm_table import SMART_CLOCK as SMART_CLOCK
from callpool.licensing.alarm_table import SMART_EVAL_EXPIRED as SMART_EVAL_EXPIRED
from callpool.licensing.alarm_table import SMART_EVALUATION as SMART_EVALUATION
from callpool.licensing.alarm_table import SMART_OUT_OF_COMPLIANCE as SMART_OUT_OF_COMPLIANCE
from callpool.licensing.alarm_table import SMART_REGISTRATION_FAILED as SMART_REGISTRATION_FAILED
from callpool.licensing.alarm_table import SMART_RENEWAL_FAILED as SMART_RENEWAL_FAILED
from callpool.licensing.alarm_table import TWO_MODES as TWO_MODES
from callpool.licensing.alarm_table import USERS_NEARLY_USED as USERS_NEARLY_USED

#: Seconds before the lease's end at which the warning begins.
LEASE_WARNING: Final = 86400.0

#: Seconds before a local key's end at which the warning begins.
KEY_WARNING: Final = 30 * 86400.0


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One active alarm."""

    code: str
    severity: str
    text: str


def alarm(code: str, detail: str = "") -> Alarm:
    """Return the alarm `code`, its sentence filled with `detail`."""
    found = DEFINITIONS[code]
    return Alarm(code=code, severity=found.severity.name.lower(), text=found.text.format(detail))


def span(seconds: float) -> str:
    """Return a duration for people."""
    minutes = max(0, int(seconds // 60))
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
