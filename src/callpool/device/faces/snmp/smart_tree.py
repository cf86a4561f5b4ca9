"""Smart licensing as SNMP objects: what CISCO-SMART-LIC-MIB and CISCO-USP-MIB ask for.

Numbers and layout: facts 2.6 and 4 (P); our own module CALLPOOL-SMART-MIB names them. Times are
seconds since 1970, in UTC, as whole numbers; what there is none of (a certificate's end while not
registered) is not there, nor is what this device cannot know (what became of an admitted call).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pysnmp.proto.rfc1902 import Counter32, Integer32, TimeTicks, Unsigned32

from callpool.device.alarms import GATE_DOWN
from callpool.device.smart_status import SmartStatus
from callpool.device.smart_switches import Switches
from callpool.device.status import Status
from callpool.host.snmp.values import Oid, Value, date_and_time, text
from callpool.licensing.admission import CPS_LIMIT, USER_LIMIT
from callpool.licensing.call_rates import CallRates, Rate
from callpool.licensing.capacity import CPS, LICENSE_TYPES
from callpool.licensing.smart import Enforcement, State
from callpool.licensing.smart_events import Try
from callpool.licensing.smart_numbers import SLA_COMPLIANCE
from callpool.wire.messages import PROTOCOL
from callpool.wire.smart_messages import CPS_TAG

SLA: Final[Oid] = (1, 3, 6, 1, 4, 1, 9, 9, 831)
USP: Final[Oid] = (1, 3, 6, 1, 4, 1, 9, 9, 827)
SLA_OBJECTS: Final[Oid] = (*SLA, 0)
USP_SCALARS: Final[Oid] = (*USP, 1, 1)
USP_CALLS: Final[Oid] = (*USP_SCALARS, 10)
#: ciscoSlaSUDIInfo, the entitlement's row (our only one is number 1), cuspLicenseLimit and so on.
SUDI: Final[Oid] = (*SLA_OBJECTS, 2, 0)
ENTITLEMENT: Final[Oid] = (*SLA_OBJECTS, 5, 1, 1)
ROW: Final = 1
USP_LIMIT: Final[Oid] = (*USP_SCALARS, 4, 0)
USP_STATE: Final[Oid] = (*USP_SCALARS, 5, 0)
USP_CPS: Final[Oid] = (*USP_CALLS, 3, 0)
USP_SEVERITY: Final[Oid] = (*USP, 1, 3, 1, 0)
FAILURE_REASON: Final[Oid] = (*SLA_OBJECTS, 9, 1, 0)
FAILURE_MESSAGE: Final[Oid] = (*SLA_OBJECTS, 9, 2, 0)

#: The switches: OID -> name in `Switches`.
SWITCHES: Final[Mapping[Oid, str]] = {
    (*SLA_OBJECTS, 8, 1, 0): "sla_global",
    (*SLA_OBJECTS, 8, 2, 0): "sla_entitlement",
    (*USP, 1, 3, 6, 0): "usp_exceeded",
    (*USP, 1, 3, 7, 0): "usp_state",
}

#: ciscoSlaFailureReason.
NO_FAILURE: Final = 0
ALREADY_REGISTERED: Final = 1
DEREGISTER_FAILURE: Final = 3

#: An entitlement has no version of its own: it means what the protocol's version says.
ENTITLEMENT_VERSION: Final = f"{PROTOCOL}.0"
DESCRIPTION: Final = "New calls that may be admitted each second"

#: What is counted, in this order.
OFFERED, DROPPED, ROUTED, BEYOND = 0, 1, 2, 3

_BITS: Final = 2**32


def counts_of(status: Status) -> tuple[int, int, int, int]:
    """Return the calls offered, dropped, routed, and dropped for being beyond the license.

    All since the gate's directory was made.

    Refusals are counted by reason, so a REGISTER that is refused because all is refused is among
    the dropped; one above the licensed users is not.
    """
    dropped = sum(n for reason, n in status.refused.items() if reason != USER_LIMIT)
    beyond = status.refused.get(CPS_LIMIT, 0)
    return status.admitted + dropped, dropped, status.admitted, beyond


def sudi(status: Status) -> Value:
    """Return the device's identity, as the field writes it."""
    return text(f"PID:callpool,SN:{status.serial}")


def _truth(so: bool) -> Value:
    return Integer32(1 if so else 2)


def _time(at: float | None) -> Value | None:
    return None if at is None else Unsigned32(max(0, int(at)) % _BITS)


def _tried(last: Try | None, again: float | None) -> dict[int, Value | None]:
    """Return when the last try began, whether it was good, why not, and when the next is due."""
    found: dict[int, Value | None] = {4: _time(again)}
    if last is not None:
        found[1] = _time(last.at)
        if last.good is not None:
            found[2] = _truth(last.good)
            found[3] = text(last.sentence)
    return found


def _deregistration(now: SmartStatus) -> tuple[int, str]:
    last, register = now.tries.deregister, now.tries.register
    if last is not None and last.good is False:
        return DEREGISTER_FAILURE, last.sentence
    if register is not None and register.code == "already_registered":
        return ALREADY_REGISTERED, ""
    return NO_FAILURE, ""


def entitlement(now: SmartStatus) -> dict[Oid, Value]:
    """Return the one row of ciscoSlaEntitlementInfoTable."""
    known = LICENSE_TYPES[CPS].label if now.answered else ""
    columns = {
        2: Unsigned32(now.count),
        3: text(CPS_TAG),
        4: text(ENTITLEMENT_VERSION),
        5: Integer32(now.sla_enforcement_number),
        6: text(DESCRIPTION if now.answered else ""),
        7: text(known),
        8: Integer32(1 if now.export_allowed else 0),
    }
    return {(*ENTITLEMENT, column, ROW): value for column, value in columns.items()}


def sla_objects(status: Status, now: SmartStatus) -> dict[Oid, Value]:
    """Return CISCO-SMART-LIC-MIB, nodes 0.1 to 0.9 but the switches."""
    tries = now.tries
    reason, message = _deregistration(now)
    left = int(now.eval_seconds_left)
    found: dict[tuple[int, ...], Value | None] = {
        (1,): Unsigned32(0),
        (3,): text(status.software),
        (4,): _truth(now.state != State.UNCONFIGURED),
        (6, 1): Integer32(now.registration_number),
        (6, 2): text(now.virtual_account),
        (6, 3): _time(now.certificate_end),
        (6, 4): text(now.account),
        **{(6, 5, n): v for n, v in _tried(tries.register, now.next_register).items()},
        **{(6, 6, n): v for n, v in _tried(tries.renew_id, now.certificate_renewal).items()},
        (7, 1): _time(now.authorization_end),
        (7, 2): text(SLA_COMPLIANCE[Enforcement(now.enforcement_mode)]),
        (7, 3): _time(now.out_of_compliance_at),
        (7, 4, 1): _truth(now.evaluating),
        (7, 4, 2): _time(now.eval_ended_at),
        (7, 4, 3): Unsigned32(max(0, left)),
        **{(7, 5, n): v for n, v in _tried(tries.authorize, now.next_authorize).items()},
        (9, 1): Integer32(reason),
        (9, 2): text(message),
    }
    objects = {(*SLA_OBJECTS, *k, 0): v for k, v in found.items() if v is not None}
    return {**objects, SUDI: sudi(status), **entitlement(now)}


def switch_objects(switches: Switches) -> dict[Oid, Value]:
    """Return the four switches."""
    return {oid: _truth(getattr(switches, name)) for oid, name in SWITCHES.items()}


def usp_objects(
    status: Status, now: SmartStatus, *, uptime: float, since: float, base: tuple[int, ...],
    rates: CallRates,
) -> dict[Oid, Value]:  # fmt: skip
    """Return CISCO-USP-MIB but the switches.

    `uptime` is the core's, in seconds; the counters began at trusted time `since`, with `base`.
    """
    up = not any(alarm.code == GATE_DOWN for alarm in status.alarms)
    counted = [a - b for a, b in zip(counts_of(status), base, strict=True)]
    scalars = {
        1: date_and_time(since),
        2: Integer32(1 if up else 2),
        3: TimeTicks(int(uptime * 100) % _BITS),
        4: limit(now),
        5: Integer32(now.enforcement_number),
        6: Integer32(now.state_number),
    }
    calls: dict[int, Value] = {
        1: Counter32(counted[OFFERED] % _BITS),
        12: Unsigned32(counted[BEYOND] % _BITS),
    }
    for first, index in ((3, OFFERED), (6, DROPPED), (9, ROUTED)):
        calls.update(_three(first, rates.rate(index)))
    return {
        **{(*USP_SCALARS, k, 0): v for k, v in scalars.items()},
        **{(*USP_CALLS, k, 0): v for k, v in calls.items()},
    }


def limit(now: SmartStatus) -> Value:
    """Return cuspLicenseLimit: the calls a second in force."""
    return Unsigned32(min(now.limit, 10_000))


def per_second(rate: float) -> Value:
    """Return calls a second as a whole number."""
    return Unsigned32(round(rate))


def _three(first: int, rate: Rate) -> dict[int, Value]:
    return {first + n: per_second(v) for n, v in enumerate((rate.now, rate.mean, rate.most))}
