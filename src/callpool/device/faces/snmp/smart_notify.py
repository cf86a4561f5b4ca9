"""The notifications of smart licensing: which notice is which, and what each carries.

CISCO-SMART-LIC-MIB 1 to 22 and two of CISCO-USP-MIB, each with exactly the variables that its
module names (P, facts 2.6 and 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pysnmp.proto.rfc1902 import Integer32, Unsigned32

from callpool.device.faces.snmp.smart_tree import (
    DEREGISTER_FAILURE,
    ENTITLEMENT,
    ENTITLEMENT_VERSION,
    FAILURE_MESSAGE,
    FAILURE_REASON,
    ROW,
    SLA,
    SUDI,
    USP,
    USP_CPS,
    USP_LIMIT,
    USP_SEVERITY,
    USP_STATE,
)
from callpool.device.smart_switches import Switches
from callpool.host.snmp.notify import VarBinds, standard
from callpool.host.snmp.values import Oid, Value, text
from callpool.licensing.notice_log import Notice
from callpool.licensing.smart_notices import ERROR, INFORMATIONAL, WARNING
from callpool.licensing.smart_numbers import SLA_ENFORCE_MODE, USP_LICENSE_STATE
from callpool.wire.smart_messages import CPS_TAG

#: Notice -> number under CISCO-SMART-LIC-MIB's node 1. What is not here has none.
NUMBERS: Final[Mapping[str, int]] = {
    "Ready": 2,
    "Enabled": 3,
    "Disabled": 4,
    "RegisterFailed": 5,
    "RegisterSuccess": 6,
    "IdCertExpired": 7,
    "IdCertRenewSuccess": 8,
    "IdCertRenewFail": 9,
    "AuthRenewSuccess": 10,
    "AuthRenewFail": 11,
    "CommunicationFailure": 12,
    "CommunicationRestored": 13,
    "IdCertRenewNotStarted": 14,
    "IdCertOutOfRange": 16,
    "SystemClockChanged": 17,
    "EvalExpiryWarning": 18,
    "EvalExpired": 19,
    "IdCertExpiryWarning": 20,
    "DeRegisterSuccess": 21,
    "DeRegisterFailed": 22,
}
#: What an EnforcementMode notice becomes where the mode is another: the agent's, the entitlement's.
ENFORCEMENT_MODE: Final = 1
ENTITLEMENT_MODE: Final = 15

#: cuspLicenseExceededAlert and cuspLicenseStateAlert.
EXCEEDED: Final[Oid] = (*USP, 0, 5)
STATE_ALERT: Final[Oid] = (*USP, 0, 6)

#: cuspNotifSeverity.
SEVERITIES: Final[Mapping[str, int]] = {ERROR: 1, WARNING: 2, INFORMATIONAL: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """One notification to be sent."""

    oid: Oid
    #: What it carries beside sysUpTime and its own OID.
    binds: tuple[tuple[Oid, Value], ...]

    def varbinds(self, uptime: int) -> VarBinds:
        """Return the whole; `uptime` in hundredths of a second."""
        return [*standard(".".join(map(str, self.oid)), uptime), *self.binds]


def switch_of(oid: Oid) -> str:
    """Return the switch, as named in `Switches`, that a notification hangs on; empty for none."""
    if oid == EXCEEDED:
        return "usp_exceeded"
    if oid == STATE_ALERT:
        return "usp_state"
    if oid[:-1] == (*SLA, 1):
        return "sla_entitlement" if oid[-1] == ENTITLEMENT_MODE else "sla_global"
    return ""


def wanted(oid: Oid, switches: Switches, sequence: int | None = None) -> bool:
    """Tell whether a notification is to be sent; `sequence` is its notice's, where it has one."""
    name = switch_of(oid)
    if not name:
        return True
    late = sequence is None or sequence > switches.since.get(name, 0)
    return late and bool(getattr(switches, name))


def _column(number: int, value: Value) -> tuple[Oid, Value]:
    return (*ENTITLEMENT, number, ROW), value


def sendings(notice: Notice, sudi: Value) -> Iterator[Sending]:
    """Yield what is sent of one notice; `sudi` is the device's identity."""
    who = (SUDI, sudi)
    number = NUMBERS.get(notice.name)
    if number is not None:
        more: tuple[tuple[Oid, Value], ...] = ()
        if notice.name == "DeRegisterFailed":
            more = (
                (FAILURE_REASON, Integer32(DEREGISTER_FAILURE)),
                (FAILURE_MESSAGE, text(notice.sentence)),
            )
        yield Sending(oid=(*SLA, 1, number), binds=(who, *more))
    if notice.name != "EnforcementMode" or notice.was is notice.mode:
        return
    mode = _column(5, Integer32(SLA_ENFORCE_MODE[notice.mode]))
    yield Sending(oid=(*SLA, 1, ENFORCEMENT_MODE), binds=(who, mode))
    yield Sending(
        oid=(*SLA, 1, ENTITLEMENT_MODE),
        binds=(
            _column(2, Unsigned32(notice.count)),
            _column(3, text(CPS_TAG)),
            _column(4, text(ENTITLEMENT_VERSION)),
            mode,
            who,
        ),
    )
    yield Sending(
        oid=STATE_ALERT,
        binds=(
            (USP_SEVERITY, Integer32(SEVERITIES[notice.severity])),
            (USP_STATE, Integer32(USP_LICENSE_STATE[notice.mode])),
        ),
    )


def exceeding(cps: Value, limit: Value) -> Sending:
    """Return the alert that more calls a second than licensed are offered."""
    return Sending(
        oid=EXCEEDED,
        binds=((USP_SEVERITY, Integer32(SEVERITIES[ERROR])), (USP_CPS, cps), (USP_LIMIT, limit)),
    )
