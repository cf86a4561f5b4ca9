"""One change: a transaction, the time it happens at, and who asked for it.

Two clocks judge a lease (law 1): the wall, and a counter of elapsed time that moves with
CLOCK_BOOTTIME only and is kept in the database. While the manager's machine is off the counter
stands still, so it never runs ahead of any device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from callpool.licensing.instant import Instant
from callpool.manager.audit import DONE, Chain, tenant_of_unit
from callpool.manager.store.scope import WHOLE, Scope
from callpool.manager.store.tx import Tx

#: Who: the manager itself, by its clock.
CLOCK: Final = "clock"
#: The role of a device that calls, and of whoever works on the manager's own machine.
DEVICE: Final = "device"
HOST: Final = "host"
#: The source of what is done on the manager's own machine.
HERE: Final = "this machine"
#: Seconds of elapsed time between two records of it.
_PERSIST: Final = 30.0
#: Machines whose count is kept: those that ran a manager last.
_MACHINES: Final = 16


class Elapsed(msgspec.Struct, frozen=True, kw_only=True):
    """The counter of elapsed time, as it is kept."""

    #: Seconds counted up to `base`.
    counter: float
    #: The boot that `base` belongs to.
    boot_id: str
    #: The CLOCK_BOOTTIME reading at which `counter` was kept.
    base: float
    #: The same of managers on other machines: (counter, base) of each boot, the latest last.
    others: dict[str, tuple[float, float]] = {}

    def at(self, now: Instant) -> float:
        """Return the counter at `now`, in seconds.

        Each machine's own count since it joined is no more than what has really passed, so the
        highest of them is not either.
        """
        mine = (
            (self.counter, self.base)
            if now.boot_id == self.boot_id
            else self.others.get(now.boot_id)
        )
        if mine is None:
            return self.counter
        return max(self.counter, mine[0] + max(0.0, now.boottime - mine[1]))

    def due(self, now: Instant) -> bool:
        """Tell whether this machine's count is to be kept anew."""
        if now.boot_id == self.boot_id:
            return now.boottime - self.base >= _PERSIST
        mine = self.others.get(now.boot_id)
        return mine is None or now.boottime - mine[1] >= _PERSIST

    def kept(self, now: Instant) -> Elapsed:
        """Return what to keep at `now`."""
        others = {k: v for k, v in self.others.items() if k != now.boot_id}
        if self.boot_id != now.boot_id:
            others[self.boot_id] = (self.counter, self.base)
        newest = dict(list(others.items())[-_MACHINES:])
        return Elapsed(counter=self.at(now), boot_id=now.boot_id, base=now.boottime, others=newest)


def read_elapsed(tx: Tx, now: Instant) -> tuple[float, bool]:
    """Return the elapsed counter at `now`, in seconds, and whether it is due to be kept."""
    kept = tx.meta("elapsed")
    if not kept:
        return 0.0, True
    counter = msgspec.json.decode(kept, type=Elapsed)
    return counter.at(now), counter.due(now)


def keep_elapsed(tx: Tx, now: Instant) -> None:
    """Write the counter down, so that a crash loses little of it."""
    before = tx.meta("elapsed")
    kept = (
        msgspec.json.decode(before, type=Elapsed).kept(now)
        if before
        else Elapsed(counter=0.0, boot_id=now.boot_id, base=now.boottime)
    )
    tx.set_meta("elapsed", msgspec.json.encode(kept).decode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Acting:
    """In which role, and by what means, somebody asks; whose things he sees."""

    #: A role of `roles.ROLES`; empty for a device, the host and the clock.
    role: str = ""
    #: The means: `browser`, `bearer`, `password`, `token:NUMBER`; empty for none of them.
    via: str = ""
    scope: Scope = WHOLE


@dataclass(slots=True, kw_only=True)
class Change:
    """What every function that changes the pool is given."""

    tx: Tx
    #: The manager's wall time, seconds since 1970.
    now: float
    #: The counter of elapsed time, seconds.
    elapsed: float
    #: How long a lease lasts from each good contact, seconds.
    lease_seconds: float
    #: Who asked: an operator's name, a serial number, CLOCK.
    who: str
    #: Where from: an address, or the command that was run on this machine.
    source: str
    acting: Acting = Acting()
    #: Whether something became free that a device short of its target may have.
    freed: bool = False
    #: Whether some unit has something new to pull: open streams of hints are woken.
    hinted: bool = False
    #: The next hint's number, once read.
    _hint: int = field(default=0)
    _chain: Chain | None = field(default=None)

    @property
    def lines(self) -> int:
        """How many lines this change has written into the journal."""
        return self._chain.written if self._chain else 0

    def journal(self, cause: str, *, outcome: str = DONE, **detail: Any) -> None:
        """Record what is changed, with time, who, from where and why."""
        if self._chain is None:
            self._chain = Chain(self.tx)
        role = self._role()
        self._chain.append(
            at=self.now,
            who=self.who,
            role=role,
            via=self.acting.via if role == self.acting.role else "",
            source=self.source,
            cause=cause,
            detail=detail,
            outcome=outcome,
            asked_within=tenant_of_unit(self.tx, self.who) if role == DEVICE else None,
            whole=role != DEVICE and self.acting.scope.whole,
        )

    def _role(self) -> str:
        if self.who == CLOCK:
            return CLOCK
        if self.acting.role:
            return self.acting.role
        return HOST if self.source == HERE else DEVICE

    def hint(self, serial: str) -> None:
        """Tell a unit that there is something to pull, once this change is on disk."""
        self.tx.later(
            "UPDATE unit SET hint_seq = :seq WHERE serial = :serial",
            seq=self.next_hint(),
            serial=serial,
        )

    def hint_tenant(self, tenant_id: int) -> None:
        """Tell all units of a tenant so, once a change."""
        self.tx.later(
            "UPDATE unit SET hint_seq = :seq WHERE hint_seq <> :seq AND state = 'active'"
            " AND device_id IN (SELECT device_id FROM device WHERE tenant_id = :tenant)",
            seq=self.next_hint(),
            tenant=tenant_id,
        )

    def next_hint(self) -> int:
        """Return the number of this change's hints; open streams are woken once it is on disk."""
        if not self._hint:
            self._hint = int(self.tx.meta("hint_seq") or 0) + 1
            self.tx.set_meta("hint_seq", str(self._hint))
        self.hinted = True
        return self._hint
