"""The device's side of a pool: Remote, Local, Actual, pending restart, lease end.

Rules (seed `004`; design decisions where it is silent):
- *Remote* is what the pool granted, *Local* what the local key counts; *Actual* is
  min(Local + applied Remote, device maximum).
- With `apply = restart` only a restart with save promotes Remote to applied; with `live` it
  is applied as it arrives.
- When the lease ends, Remote is discarded and the device restarts on its local key.
- A grant is a set of slices, each out of one order and no longer than it (law 1).

All times here are trusted time, seconds since 1970 (`HighWaterMark.time`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from callpool.licensing.admission import MAX_STEPS, AdmissionPolicy, Step, limited
from callpool.licensing.capacity import CPS, FAR_END_USERS, SBC_SESSIONS, Capacity
from callpool.licensing.errors import TrustError

#: Only a restart with save applies what the pool sent (the seed; the default).
APPLY_RESTART: Final = "restart"
#: What the pool sends is applied as it arrives.
APPLY_LIVE: Final = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Counts out of one order, from `since` up to `until`."""

    #: The order that the counts come out of.
    order_id: str
    #: In force from this time.
    since: float
    #: Not in force from this time on.
    until: float
    #: The counts.
    counts: Capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the manager gives one unit: signed, versioned, for one lease."""

    #: The serial number it is for.
    serial: str
    #: Rises with every change of content.
    version: int
    #: The pool's counts, out of orders.
    slices: tuple[Slice, ...]
    #: APPLY_RESTART or APPLY_LIVE.
    apply: str = APPLY_RESTART

    def at(self, time: float) -> Capacity:
        """Return the counts in force at `time`."""
        return _sum(s.counts for s in self.slices if s.since <= time < s.until)

    def peak(self, time: float) -> Capacity:
        """Return the most of each type in force at `time` or later."""
        highest = self.at(time)
        for start in (s.since for s in self.slices if s.since > time):
            highest = highest.max(self.at(start))
        return highest


def _sum(parts: Iterable[Capacity]) -> Capacity:
    total = Capacity()
    for part in parts:
        total = total + part
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLicense:
    """All that decides what one device may carry; every change returns a new value."""

    #: The device's serial number.
    serial: str
    #: Counts of the local key, until it ends (`local_at`).
    local: Capacity = field(default_factory=Capacity)
    #: When the local key ends; None where it does not.
    local_end: float | None = None
    #: The device's maximum supported capacity; a type it does not name is not clipped.
    maximum: Mapping[str, int] = field(default_factory=dict)
    #: The latest grant received ('Remote'), None before the first and after a discard.
    remote: Grant | None = None
    #: The grant that is applied, None where only the local key counts.
    applied: Grant | None = None
    #: When the lease ends unless the manager is reached again.
    lease_end: float = 0.0
    #: The highest version ever accepted: survives a discard, so no older grant returns.
    seen_version: int = 0

    @property
    def pending(self) -> bool:
        """Tell whether a received change waits for a restart with save."""
        return self.remote != self.applied

    def receive(self, grant: Grant, lease_end: float, time: float) -> DeviceLicense:
        """Take, at `time`, a verified grant and the end of its lease.

        A grant that leaves the counts as they are now (a longer lease, an order that follows
        another) is applied at once: there is nothing to restart for.
        Raises TrustError `grant_for_another_serial` or `older_grant`; nothing changes then.
        """
        if grant.serial != self.serial:
            raise TrustError(
                "grant_for_another_serial",
                f"A grant for {grant.serial} reached {self.serial} and was refused.",
            )
        if grant.version < self.seen_version:
            raise TrustError(
                "older_grant",
                f"Grant {grant.version} is older than {self.seen_version} and was refused.",
            )
        taken = replace(self, remote=grant, lease_end=lease_end, seen_version=grant.version)
        in_force = self.applied.at(time) if self.applied else Capacity()
        if grant.apply == APPLY_LIVE or grant.at(time) == in_force:
            return replace(taken, applied=grant)
        return taken

    def restarted(self, *, save: bool) -> DeviceLicense:
        """Restart the SIP service: with `save`, Remote becomes applied."""
        return replace(self, applied=self.remote) if save else self

    def ended(self, time: float) -> bool:
        """Tell whether a lease was held and is over at `time`."""
        return (self.remote or self.applied) is not None and time >= self.lease_end

    def discarded(self) -> DeviceLicense:
        """Drop Remote and what was applied of it: only the local key counts."""
        return replace(self, remote=None, applied=None)

    def clip(self, capacity: Capacity) -> Capacity:
        """Return `capacity`, no type above the device's maximum."""
        over = {k: n - self.maximum[k] for k, n in capacity if k in self.maximum}
        return capacity - Capacity.of({k: n for k, n in over.items() if n > 0})

    def local_at(self, time: float) -> Capacity:
        """Return the 'Local' column: what the local key counts at `time`."""
        ended = self.local_end is not None and time >= self.local_end
        return Capacity() if ended else self.local

    def remote_at(self, time: float) -> Capacity:
        """Return the 'Remote' column: what the pool's latest grant gives at `time`."""
        return self.remote.at(time) if self.remote and time < self.lease_end else Capacity()

    def actual_at(self, time: float) -> Capacity:
        """Return the 'Actual' column: what the device may carry at `time`."""
        return self.clip(self.local_at(time) + self._applied_at(time))

    def _applied_at(self, time: float) -> Capacity:
        return self.applied.at(time) if self.applied and time < self.lease_end else Capacity()

    def over_allocated(self, time: float) -> Capacity:
        """Return by how much Local + Remote exceed the device's maximum at `time`.

        That is what a restart with save would leave unused (judged at receipt).
        """
        wanted = self.local_at(time) + self.remote_at(time)
        return wanted - self.clip(wanted)

    def over_applied(self, time: float) -> Capacity:
        """Return by how much Local + applied exceed the maximum at `time`: it is not used."""
        wanted = self.local_at(time) + self._applied_at(time)
        return wanted - self.clip(wanted)

    def remote_in_use(self, in_use: Capacity, time: float) -> Capacity:
        """Return how much of what is in use stands on pool units at `time`: the local key first."""
        return in_use - self.local_at(time)

    def policy(self, time: float, *, wall_offset: float, trusted: bool = True) -> AdmissionPolicy:
        """Return what the gate does from `time` on.

        `wall_offset` is wall time minus trusted time, in seconds: a policy's ends are wall
        time. Without `trusted` time (a boot whose clock is behind the mark) only the local
        key counts. From the lease's end on it is the local key, and from that key's end on
        nothing.
        """
        alone = replace(self, applied=None)
        held = self.applied if trusted and time < self.lease_end else None
        counted = self if held else alone
        edges = set[float]()
        if held is not None:
            edges.add(self.lease_end)
            for part in held.slices:
                edges |= {e for e in (part.since, part.until) if time < e < self.lease_end}
        if self.local_end is not None and time < self.local_end:
            edges.add(self.local_end)
        ends = sorted(edges)
        # Beyond the last edge only the local key is left, if it does not end itself.
        last = alone.actual_at(ends[-1] if ends else time)
        if len(ends) >= MAX_STEPS:
            # Too many steps for the gate: walk as far as they go, then fall to what is left at
            # the very end; the core sends the rest long before.
            ends = ends[: MAX_STEPS - 1]
        begins = [time, *ends]
        steps = [
            self._step(counted.actual_at(begin), end + wall_offset)
            for begin, end in zip(begins, ends, strict=False)
        ]
        return AdmissionPolicy(steps=(*steps, self._step(last, None)))

    def _step(self, actual: Capacity, until: float | None) -> Step:
        caps = limited(
            sessions=actual.get(SBC_SESSIONS),
            users=actual.get(FAR_END_USERS),
            # A limit of calls a second is not lifted by the end of the key that sets it.
            cps=self.clip(self.local).get(CPS) or None,
        )
        return Step(until=until, caps=caps)
