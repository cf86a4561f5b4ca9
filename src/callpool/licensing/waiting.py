"""Requests that wait for licenses: what is taken from whom, and when.

Seed `004`, the tenant of 500: a device that requires more than is free waits until calls on the
others have ended, and then has what they do not use. A request is whole or not at all; what is
taken is only what is unused, from the devices that have most unused, so that what stays unused is
as even as can be; what has been decided is not undone by calls that begin meanwhile.

Counts are of one license type. A *unit* count is what the pool pays: twice that of the device
for an HA pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """A device of the same tenant that may have more than it uses."""

    #: What names it.
    name: str
    #: What it does not use of its share, for the device.
    unused: int
    #: The units that each license of it gives back: 2 for an HA pair.
    cost: int = 1
    #: Whether it gives back without a restart.
    live: bool = True


def take(missing: int, donors: Iterable[Donor]) -> dict[str, int]:
    """Return how much each donor gives, for the device, so that `missing` units come together.

    Those with most unused give first, down to one level. Gives all there is where that is less
    than `missing`; of an HA pair one unit more than is missing may come.
    """
    having = sorted((d for d in donors if d.unused > 0), key=lambda d: (-d.unused, d.name))
    if missing <= 0 or not having:
        return {}
    # The highest level at which what lies above it is enough.
    low, high = 0, having[0].unused
    while low < high:
        level = (low + high + 1) // 2
        if sum(d.cost * max(0, d.unused - level) for d in having) >= missing:
            low = level
        else:
            high = level - 1
    taken = {d.name: max(0, d.unused - low) for d in having}
    spare = sum(d.cost * taken[d.name] for d in having) - missing
    # One level up would be too little: some at this level need not go all the way down.
    for donor in reversed(having):
        if taken[donor.name] and donor.cost <= spare:
            taken[donor.name] -= 1
            spare -= donor.cost
    return {name: count for name, count in taken.items() if count}


def plan(missing: int, donors: Sequence[Donor], *, later: int = 0) -> dict[str, int] | None:
    """Return what each donor gives now so that `missing` units come, or None: wait.

    What `live` donors have unused is taken once it is enough. Where it is not, but would be with
    what devices that apply by restart give back, those give their part first: it comes only with
    their restart, and until then nothing is taken from the others. `later` is what they are
    giving back already.
    """
    live = [d for d in donors if d.live]
    ready = sum(d.cost * d.unused for d in live)
    if ready >= missing:
        return take(missing, live)
    short = missing - ready - later
    slow = [d for d in donors if not d.live]
    if sum(d.cost * d.unused for d in slow) >= short:
        return take(short, slow)
    return None


def lacking(
    wanted: Mapping[str, int], own: Mapping[str, Sequence[int]], free: Mapping[str, int]
) -> dict[str, int]:
    """Return how many units are missing per type before a request can be had whole.

    `own` has what each unit of the device holds, `free` the units that it could be given.
    """
    missing = {
        name: sum(max(0, count - held) for held in own[name]) - max(0, free[name])
        for name, count in wanted.items()
    }
    return {name: count for name, count in missing.items() if count > 0}
