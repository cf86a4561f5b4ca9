"""Which alarms are active now: read from the state, except the faults that the core notes."""

from __future__ import annotations

from typing import Final

from callpool.device import alarms as al
from callpool.device.alarms import Alarm, alarm, span
from callpool.device.core import Core
from callpool.device.smart_alarms import smart_alarms
from callpool.licensing.capacity import LICENSE_TYPES, Capacity
from callpool.licensing.instant import SKEW_REPORTED, Instant
from callpool.licensing.smart_events import Moment
from callpool.wire.messages import NOT_LISTED, NOT_MANAGED

#: What the manager's word on a unit is told as.
_STANDING: Final = {NOT_LISTED: al.NOT_LISTED, NOT_MANAGED: al.NOT_MANAGED}


def active_alarms(core: Core, now: Instant) -> tuple[Alarm, ...]:
    """Return what is wrong at `now`."""
    found = [alarm(code, detail) for code, detail in core.faults.items()]
    found += _pool_alarms(core, now)
    found += _key_alarms(core, now)
    if core.mark.behind:
        found.append(alarm(al.CLOCK_BEHIND))
    skew = now.wall - core.time(now)
    if abs(skew) > SKEW_REPORTED and al.CLOCK_SKEW not in core.faults:
        found.append(alarm(al.CLOCK_SKEW, f"{skew:+.0f} s."))
    smart = core.opened.record.smart.agent
    found += smart_alarms(smart, Moment.of(core.mark, now), core.smart_maximum)
    if smart.enabled and core.fixed:
        found.append(alarm(al.TWO_MODES))
    if core.pair is not None:
        found += [alarm(code, detail) for code, detail in core.pair.alarms()]
    usage = core.gate.usage()
    if usage.uncertain:
        found.append(alarm(al.CALLS_UNCERTAIN, str(usage.uncertain)))
    return tuple(found)


def _pool_alarms(core: Core, now: Instant) -> list[Alarm]:
    held, time = core.opened.license, core.time(now)
    found = []
    left = held.lease_end - time
    if (held.remote or held.applied) and left < al.LEASE_WARNING:
        found.append(alarm(al.LEASE_WARNING_CODE, span(left)))
    # Judged twice: what is in force, and what has been received for the next restart.
    unused, too_much = held.over_applied(time), held.over_allocated(time)
    if unused:
        found.append(alarm(al.OVER_ALLOCATED, f"{_named(unused)} are not used."))
    elif too_much:
        found.append(alarm(al.OVER_ALLOCATED, f"{_named(too_much)} will not be applied."))
    if held.pending and not core.opened.record.smart.agent.enabled:
        found.append(alarm(al.RESTART_PENDING))
    standing = _STANDING.get(core.opened.record.pool.status)
    if standing is not None and core.opened.ring is not None:
        found.append(alarm(standing))
        if core.opened.record.pool.was_managed:
            found.append(alarm(al.NO_LONGER_MANAGED))
    if core.key_upgrade:
        found.append(alarm(al.KEY_UPGRADE, core.key_upgrade))
    return found


def _key_alarms(core: Core, now: Instant) -> list[Alarm]:
    key, time = core.opened.local_key, core.time(now)
    if key is None or key.ends is None:
        return []
    left = key.ends - time
    if left <= 0.0:
        return [alarm(al.KEY_ENDED, key.key_id)]
    return [alarm(al.KEY_ENDS, span(left))] if left < al.KEY_WARNING else []


def _named(counts: Capacity) -> str:
    return ", ".join(f"{n} {LICENSE_TYPES[k].label}" for k, n in counts)
