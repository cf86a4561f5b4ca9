"""The pool's arithmetic: orders, allocations, holdings, and the law that binds them.

Law 1, conservation. Every unit that a device may use comes out of one line of one order, and
is *held* there until the device can no longer use it:
- `granted` is what the latest grant gives out of the line, `held` the most that any grant
  still in force may give, so granted <= held;
- the sum of `held` over all units never exceeds what the line counts (the database refuses
  it), so a share grows only out of what nobody can use;
- a share that shrinks stays held until the device has confirmed the smaller grant, at the
  larger of what was asked and the calls in progress, or until its lease has ended.

Times are the manager's wall time, seconds since 1970. Counts are of one license type.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from callpool.licensing.capacity import LICENSE_TYPES, Capacity
from callpool.licensing.errors import LicenseError
from callpool.licensing.lease import Grant, Slice

#: Seconds after a lease's end, by both of the manager's clocks, before its units are free.
LEASE_MARGIN: Final = 60.0

#: (order, since): where a count comes out of and from when; since 0 is in force already.
Key: TypeAlias = tuple[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one order still has of one license type, beside what this unit holds."""

    #: The order.
    order_id: str
    #: In date from this time.
    starts: float
    #: Out of date from this time on.
    ends: float
    #: Counts that no unit holds.
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one unit holds out of one order, of one license type, from one time on."""

    #: The order.
    order_id: str
    #: What the latest grant gives.
    granted: int
    #: The most that any grant still in force may give.
    held: int
    #: In force from this time; 0 where it is in force already.
    since: float = 0.0

    @property
    def key(self) -> Key:
        """Return what names this holding among its unit's of the same type."""
        return (self.order_id, self.since)


def reachable(own: Sequence[int], free: int) -> int:
    """Return the most that each unit of a device can have, all the same.

    `own` is what each unit holds already, `free` what can be added to all of them together:
    an HA pair pays for both.
    """
    levels = sorted(own)
    best = 0
    for taking in range(1, len(levels) + 1):
        # The `taking` units that hold least are raised to one level; the others have more.
        level = (free + sum(levels[:taking])) // taking
        if level >= levels[taking - 1]:
            best = max(best, min([level, *levels[taking : taking + 1]]))
    return best


def cover(
    target: int, mine: Sequence[Holding], lines: Sequence[Line], now: float
) -> dict[str, int]:
    """Spread `target` over order lines; return what is to be granted per order.

    What the unit already holds is used first, all of it before anything that is free, so a
    share grows by no more than it must; then the order that ends last. Only lines in date at
    `now` count. The sum is below `target` where the pool has no more.
    """
    held = {h.order_id: h.held for h in mine if h.since == 0.0}
    in_date = [line for line in lines if line.starts <= now < line.ends]
    in_date.sort(key=lambda line: (-line.ends, line.order_id))
    granted: dict[str, int] = {}
    for has in (lambda line: held.get(line.order_id, 0), lambda line: line.free):
        for line in in_date:
            can = min(target - sum(granted.values()), has(line))
            if can > 0:
                granted[line.order_id] = granted.get(line.order_id, 0) + can
    return granted


def renewals(
    granted: Mapping[str, int], mine: Sequence[Holding], lines: Sequence[Line], horizon: float
) -> dict[Key, int]:
    """Find what follows when a granted order ends before `horizon`, without a gap.

    Returns how many come into force per (order, since); they are held from now on. `lines`
    says what is free beyond `granted` and beyond what the unit holds (`mine`), which is used
    first: a renewal that was given once stays where it is.
    """
    by_id = {line.order_id: line for line in lines}
    free = {line.order_id: line.free for line in lines}
    held = {h.key: h.held for h in mine if h.since > 0.0}
    out: dict[Key, int] = {}
    ending = [(by_id[order_id].ends, order_id, count) for order_id, count in granted.items()]
    heapq.heapify(ending)
    while ending:
        end, _, missing = heapq.heappop(ending)
        if end >= horizon:
            break
        follow = [line for line in lines if line.starts <= end < line.ends]
        follow.sort(key=lambda line: (-line.ends, line.order_id))
        for line in sorted(follow, key=lambda line: (line.order_id, end) not in held):
            key = (line.order_id, end)
            own = min(missing, held.get(key, 0))
            more = min(missing - own, free[line.order_id])
            if own + more > 0:
                held[key] = held.get(key, 0) - own
                free[line.order_id] -= more
                out[key] = out.get(key, 0) + own + more
                missing -= own + more
                heapq.heappush(ending, (line.ends, line.order_id, own + more))
    return out


def settle(
    mine: Sequence[Holding], needed: Iterable[Mapping[Key, int]], in_use: int
) -> list[Holding]:
    """Lower what is held to what some grant in force may still use.

    `needed` has, per grant that the device may be running or may yet receive, its counts per
    (order, since); `in_use` is how many pool units carry calls or registrations now. The sum
    in force stays at least at `in_use` as far as it was before (law 2: calls are never cut, so
    their units are not free).
    """
    most = {h.key: h.granted for h in mine}
    for grant in needed:
        for key, count in grant.items():
            most[key] = max(most.get(key, 0), count)
    kept = {h.key: min(h.held, most[h.key]) for h in mine}
    short = in_use - sum(kept[h.key] for h in mine if h.since == 0.0)
    out = []
    for h in mine:
        extra = max(0, min(short, h.held - kept[h.key])) if h.since == 0.0 else 0
        short -= extra
        out.append(replace(h, held=kept[h.key] + extra))
    return out


def check_fits(name: str, *, asked: int, available: int, whose: str, cost: int = 1) -> None:
    """Refuse an allocation that cannot be had.

    `asked` and `available` are counts for the device, `cost` the units of a pair (2) or of a
    single device (1). Raises LicenseError `pool_exceeded` or `tenant_exceeded`.
    """
    if asked <= available:
        return
    label = LICENSE_TYPES[name].label
    double = f" (an HA pair costs {cost} licenses for each)" if cost > 1 else ""
    raise LicenseError(
        f"{whose}_exceeded",
        f"{asked} {label} cannot be allocated: the {whose} can give this device "
        f"at most {available}{double}.",
    )


def by_line(grant: Grant, now: float) -> dict[str, dict[Key, int]]:
    """Return what a grant may still give as {license type: {(order, since): count}}.

    A slice that is in force at `now` has since 0; one that is over is left out.
    """
    out: dict[str, dict[Key, int]] = {}
    for part in grant.slices:
        if part.until <= now:
            continue
        key = (part.order_id, part.since if part.since > now else 0.0)
        for name, count in part.counts:
            line = out.setdefault(name, {})
            line[key] = line.get(key, 0) + count
    return out


def slices(
    granted: Mapping[str, Mapping[Key, int]], ends: Mapping[str, float]
) -> tuple[Slice, ...]:
    """Build a grant's slices from {license type: {(order, since): count}} and order ends."""
    by_key: dict[Key, dict[str, int]] = {}
    for name, counts in granted.items():
        for key, count in counts.items():
            by_key.setdefault(key, {})[name] = count
    return tuple(
        Slice(order_id=key[0], since=key[1], until=ends[key[0]], counts=Capacity.of(by_key[key]))
        for key in sorted(by_key)
        if any(by_key[key].values())
    )
