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
from callpool.manager.store.database import Tx

#: Who: the manager itself, by its clock.
CLOCK: Final = "clock"
#: Seconds of elapsed time between two records of it.
_PERSIST: Final = 30.0


class Elapsed(msgspec.Struct, frozen=True, kw_only=True):
    """The counter of elapsed time, as it is kept."""

    #: Seconds counted up to `base`.
    counter: float
    #: The boot that `base` belongs to.
    boot_id: str
    #: The CLOCK_BOOTTIME reading at which `counter` was kept.
    base: float

    def at(self, now: Instant) -> float:
        """Return the counter at `now`, in seconds."""
        if now.boot_id != self.boot_id:
            return self.counter
        return self.counter + max(0.0, now.boottime - self.base)


def read_elapsed(tx: Tx, now: Instant) -> tuple[float, bool]:
    """Return the elapsed counter at `now`, in seconds, and whether it is due to be kept."""
    kept = tx.meta("elapsed")
    if not kept:
        return 0.0, True
    counter = msgspec.json.decode(kept, type=Elapsed)
    value = counter.at(now)
    return value, counter.boot_id != now.boot_id or value - counter.counter >= _PERSIST


def keep_elapsed(tx: Tx, now: Instant, value: float) -> None:
    """Write the counter down, so that a crash loses little of it."""
    kept = Elapsed(counter=value, boot_id=now.boot_id, base=now.boottime)
    tx.set_meta("elapsed", msgspec.json.encode(kept).decode())


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
    #: Whether something became free that a device short of its target may have.
    freed: bool = False
    #: Whether some unit has something new to pull: open streams of hints are woken.
    hinted: bool = False
    #: The next hint's number, once read.
    _hint: int = field(default=0)

    def journal(self, cause: str, **detail: Any) -> None:
        """Record what is changed, with time, who, from where and why."""
        self.tx.run(
            "INSERT INTO journal (at, who, source, cause, detail)"
            " VALUES (:at, :who, :source, :cause, :detail)",
            at=self.now,
            who=self.who,
            source=self.source,
            cause=cause,
            detail=msgspec.json.encode(detail).decode(),
        )

    def hint(self, serial: str) -> None:
        """Tell a unit that there is something to pull, once this change is on disk."""
        self.tx.run(
            "UPDATE unit SET hint_seq = :seq WHERE serial = :serial",
            seq=self.next_hint(),
            serial=serial,
        )

    def hint_tenant(self, tenant_id: int) -> None:
        """Tell all units of a tenant so, once a change."""
        self.tx.run(
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
