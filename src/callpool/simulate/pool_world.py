"""A manager and its devices in one process, on virtual time: the product's own transactions.

What is real: the manager (`Manager.change` with its sweep, `pools`, `inventory`, `contacts`,
enrolment, keys, the tables and their constraints) on a database of its own that is deleted
afterwards, and on each device `DeviceLicense`, which decides there too. What is modelled: the
network, which delivers at once or not at all; the device's loop (it contacts when hinted, when
what it holds has changed, when calls of a lowered share end, and to poll); restarts, which take
no time. Polls that cannot change anything are left out; a lease still counts from the poll that
the device would have made.
"""

from __future__ import annotations

import math
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from callpool.device.contact import removed, version
from callpool.device.record import lease_end
from callpool.device.trust import certificate_request
from callpool.licensing.capacity import POOL_TYPES, Capacity
from callpool.licensing.instant import Instant
from callpool.licensing.lease import DeviceLicense
from callpool.licensing.order import PurchaseOrder
from callpool.licensing.pool import LEASE_MARGIN
from callpool.manager import inventory, pools, queue
from callpool.manager.change import Change
from callpool.manager.contacts import contact
from callpool.manager.core import Manager
from callpool.manager.enrolments import enrol
from callpool.manager.requests import allocate_or_wait
from callpool.manager.settings import Layout, Settings
from callpool.manager.store.tx import Tx
from callpool.wire.envelope import read, unverified
from callpool.wire.keys import SigningKey
from callpool.wire.messages import ContactReply, ContactRequest, EnrolReply, EnrolRequest

T = TypeVar("T")

#: The wall time at the start, seconds since 1970; any other would do.
START: Final = 1_800_000_000.0
#: How long what is purchased at the start lasts: a hundred years, in seconds.
WITHOUT_END: Final = 100 * 365 * 86_400.0
#: The manager's counter of elapsed time is a sum of floats: look this many seconds later.
_HAIR: Final = 1e-5
#: Seconds between polls, below which a device's last report is as good as of now.
_OFTEN: Final = 60.0
#: Files in memory, where the machine has them: a simulation has no need to survive.
_MEMORY: Final = "/dev/shm"  # noqa: S108  the directory below it is private and of a random name


class VirtualClock:
    """The one clock of a simulation."""

    def __init__(self) -> None:
        """Stand at the start."""
        #: Seconds since the start.
        self.elapsed = 0.0

    def now(self) -> Instant:
        """Return wall and elapsed time."""
        return Instant(wall=START + self.elapsed, boottime=self.elapsed, boot_id="simulated")

    def real_seconds(self, seconds: float) -> float:
        """Return `seconds`."""
        return seconds


@dataclass(slots=True, kw_only=True)
class Unit:
    """One device: its license, its calls, its way to the manager."""

    name: str
    tenant: str
    license: DeviceLicense
    #: Whether device and manager reach each other.
    in_contact: bool = True
    #: Whether it has an identity; a factory reset drops it.
    enrolled: bool = False
    kid: str = ""
    #: The contact value that the next request carries.
    value: str = ""
    in_use: dict[str, int] = field(default_factory=dict)
    #: Of the last good contact: when (seconds since the start), what it reported, what followed.
    last: float = 0.0
    told: tuple[int, int] | None = None
    reported: Capacity = field(default_factory=Capacity)
    poll: float = math.inf
    #: The manager's journal as it stood after the last contact: has anything happened since?
    epoch: int = -1
    #: Whether something that it reports has changed since the last contact.
    changed: bool = False
    #: When the script cuts it off, in order: the polls before that are made.
    losses: list[float] = field(default_factory=list)

    @property
    def reaches(self) -> bool:
        """Tell whether the device can contact the manager."""
        return self.in_contact and self.enrolled

    @property
    def versions(self) -> tuple[int, int]:
        """Return the versions of what is received and of what is applied, 0 for none."""
        return version(self.license.remote), version(self.license.applied)

    def used(self, time: float) -> Capacity:
        """Return how many pool units carry calls or registrations at `time`."""
        return self.license.remote_in_use(Capacity.of(self.in_use), time)

    def wants_contact(self, time: float) -> bool:
        """Tell whether the device has something to say at once (as `Agent.tick` decides)."""
        if self.told != self.versions:
            return True
        allowed = self.license.remote_in_use(self.license.actual_at(time), time)
        used = self.used(time)
        return not self.reported <= allowed and used != self.reported and used <= self.reported

    def may_use(self, name: str, time: float) -> int:
        """Return the most of a type, beyond the local key, that it can carry at `time`.

        Whichever grant it holds: one that waits for a restart may be applied at any moment.
        """
        if time >= self.license.lease_end:
            return 0
        held = (self.license.applied, self.license.remote)
        return max((grant.at(time).get(name) for grant in held if grant is not None), default=0)


class World:
    """The manager, its devices, the clock; and law 1, checked from outside."""

    def __init__(self, directory: Path) -> None:
        """Make a manager in `directory`; raises OSError."""
        self.clock = VirtualClock()
        manager = Manager.create(Layout(directory / "manager"), Settings(listen="127.0.0.1:0"))
        manager.clock = self.clock
        self.manager = manager
        self.units: dict[str, Unit] = {}
        #: What is purchased and who may have how much, kept apart from the manager.
        self.orders: list[PurchaseOrder] = []
        self.shares: dict[str, dict[str, int]] = {}
        self.checked = self.violations = 0
        #: The last entry of the manager's journal, where it has been read since the last change.
        self._entry: int | None = None

    @property
    def time(self) -> float:
        """Return the time, seconds since 1970."""
        return START + self.clock.elapsed

    def change(self, work: Callable[[Change], T], who: str = "operator") -> T:
        """Run one of the manager's changes; raises what it raises."""
        self._entry = None
        return self.manager.change(who, "simulation", work)

    # -- what operators do

    def order(self, counts: dict[str, int], *, ends: float) -> None:
        """Import a purchase in date from now on; raises LicenseError."""
        order = PurchaseOrder(
            order_id=f"SIM-{len(self.orders) + 1}",
            product_key=self.manager.product_key(),
            counts=Capacity.of(counts),
            starts=math.floor(self.time),
            ends=math.floor(ends),
            issued_at=math.floor(self.time),
        )
        self.change(lambda c: pools.import_order(c, order, "simulated"))
        self.orders.append(order)

    def tenant(self, name: str, shares: dict[str, int]) -> None:
        """Add a tenant; raises LicenseError."""
        if name != inventory.DEFAULT_TENANT:
            self.change(lambda c: inventory.add_tenant(c, name, {}))
        self.share(name, shares)

    def share(self, name: str, shares: dict[str, int]) -> None:
        """Set a tenant's shares; raises LicenseError."""
        self.change(lambda c: inventory.set_shares(c, name, shares))
        self.shares.setdefault(name, {}).update(shares)

    def allocate(self, name: str, counts: dict[str, int], *, wait: bool) -> None:
        """Set a device's share; with `wait` queue what cannot be had. Raises LicenseError."""
        allocate = allocate_or_wait if wait else pools.allocate
        self.change(lambda c: allocate(c, inventory.device_by_name(c, name), counts))

    def waiting(self) -> set[str]:
        """Return the names of the devices whose requests wait."""
        return self.manager.database.read(lambda tx: {r.device for r in queue.requests(tx)})

    def add(
        self, name: str, tenant: str, *, local: dict[str, int], maximum: dict[str, int], apply: str
    ) -> Unit:
        """Add a device, enrol it and make its first contact; raises LicenseError."""
        serial = f"SIM{len(self.units) + 1}"
        self.change(lambda c: inventory.add_device(c, name, [serial], tenant, apply))
        made = DeviceLicense(serial=serial, local=Capacity.of(local), maximum=maximum)
        unit = self.units[name] = Unit(name=name, tenant=tenant, license=made)
        self.enrol(unit)
        self.contact(unit, "start")
        return unit

    # -- what devices do

    def enrol(self, unit: Unit) -> None:
        """Give a device an identity, as an operator does who carries a token to it.

        Raises LicenseError `unknown_serial` where it is not in the inventory.
        """
        serial, key = unit.license.serial, SigningKey.generate()
        _, secret = self.change(lambda c: inventory.unlock(c, serial))
        asked = EnrolRequest(
            url="",
            nonce=secrets.token_urlsafe(12),
            token=secret,
            serial=serial,
            public_key=key.public.text,
            request=certificate_request(key, serial),
        )
        envelope = self.change(
            lambda c: enrol(c, asked, key.public, self.manager.identity), who=serial
        )
        unit.kid, unit.enrolled = key.public.kid, True
        unit.value = read(unverified(envelope), EnrolReply).contact
        unit.told = None

    def contact(self, unit: Unit, reason: str) -> None:
        """Make one contact: the manager's transaction, then what the reply changes."""
        time, held = self.time, unit.license
        remote, applied = unit.versions
        request = ContactRequest(
            url="",
            nonce=secrets.token_urlsafe(12),
            serial=held.serial,
            contact=unit.value,
            time=time,
            reason=reason,
            remote_version=remote,
            applied_version=applied,
            remote_in_use=unit.used(time).to_dict(),
            in_use=unit.in_use,
            local=held.local.to_dict(),
            maximum=dict(held.maximum),
            actual=held.actual_at(time).to_dict(),
        )
        manager = self.manager
        answer = self.change(
            lambda c: contact(c, request, unit.kid, manager.identity, manager.settings),
            who=held.serial,
        )
        if answer.refusal is not None:  # pragma: no cover - nothing here copies a device
            raise answer.refusal
        reply = read(unverified(answer.reply), ContactReply)
        unit.value, unit.poll, unit.last = reply.contact, reply.poll_seconds, self.clock.elapsed
        unit.told, unit.reported = (remote, applied), Capacity.of(request.remote_in_use)
        unit.changed, unit.epoch = False, self._epoch()
        if reply.grant is None:
            held = removed(held, time)
        else:
            held = held.receive(reply.grant.grant(held.serial), lease_end(reply), time)
        unit.license = held.discarded() if held.ended(time) else held

    def reset(self, unit: Unit) -> None:
        """Bring a device to factory defaults: its serial number and local key stay.

        Its last signed contact says so where it can; unheard, the manager waits for the lease.
        """
        unit.license = unit.license.discarded()
        if unit.reaches:
            self.contact(unit, "factory_reset")
        old = unit.license
        unit.license = DeviceLicense(serial=old.serial, local=old.local, maximum=old.maximum)
        unit.enrolled, unit.kid, unit.value, unit.told = False, "", "", None

    def settle(self) -> None:
        """Let everybody say what is to be said at this instant."""
        while True:
            hinted = self.manager.database.read(_hinted)
            callers = [
                (unit, "hint" if unit.license.serial in hinted else "confirm")
                for unit in self.units.values()
                if unit.reaches and (unit.license.serial in hinted or unit.wants_contact(self.time))
            ]
            if not callers:
                return
            for unit, reason in callers:
                self.contact(unit, reason)

    # -- time

    def next_due(self) -> float:
        """Return when something is due next by itself, seconds since the start."""
        found = [self.manager_due(), *(self.device_due(unit) for unit in self.units.values())]
        return max(self.clock.elapsed, min(found))

    def manager_due(self) -> float:
        """Return when the manager's clock brings something: orders, leases that are over."""
        now = self.clock.elapsed
        edges = [edge - START for order in self.orders for edge in (order.starts, order.ends)]
        leases = self.manager.database.read(_leases)
        if leases is not None:
            edges.append(leases - START + LEASE_MARGIN + _HAIR)
        return min((edge for edge in edges if edge > now), default=math.inf)

    def device_due(self, unit: Unit) -> float:
        """Return when something is due on a device: its poll, a step of its license."""
        held, now = unit.license, self.clock.elapsed
        due = [math.inf]
        grants = [grant for grant in (held.remote, held.applied) if grant is not None]
        if grants:
            due.append(held.lease_end - START)
            due += [
                edge - START
                for grant in grants
                for part in grant.slices
                for edge in (part.since, part.until)
                if now < edge - START < held.lease_end - START
            ]
        if unit.reaches:
            due.append(self.poll_due(unit))
        return min(due)

    def poll_due(self, unit: Unit) -> float:
        """Return the next poll that may change something.

        That is one after a change at the manager or on the device; one that a renewal of an
        order needs; and the last ones before the lease ends or the script cuts the device off.
        """
        now = self.clock.elapsed
        if unit.changed or unit.epoch != self._epoch():
            return self._poll_before(unit, now, later=True)
        lease = self.manager.settings.lease_seconds
        due = [math.inf]
        if unit.license.remote is not None:
            due.append(self._poll_before(unit, unit.license.lease_end - START - unit.poll))
        for loss in unit.losses:
            if loss > now:
                due.append(self._poll_before(unit, loss))
                break
        for order in self.orders:
            if order.ends - START - lease >= now:
                due.append(self._poll_before(unit, order.ends - START - lease, later=True))
        return min(d for d in due if d > now)

    def _poll_before(self, unit: Unit, moment: float, *, later: bool = False) -> float:
        """Return the last poll not after `moment` (with `later` the first one after it)."""
        number = math.floor((moment - unit.last) / unit.poll)
        return unit.last + unit.poll * (max(0, number) + later)

    def pass_to(self, moment: float) -> set[str]:
        """Move the clock to `moment` (seconds since the start) and do what is due there.

        Returns the names of the devices whose lease ended.
        """
        self.clock.elapsed = max(self.clock.elapsed, moment)
        ended = set()
        for unit in self.units.values():
            if unit.license.ended(self.time):
                unit.license = unit.license.discarded()
                ended.add(unit.name)
        if self.manager.sweep():
            self._entry = None
        now = self.clock.elapsed
        reaching = [unit for unit in self.units.values() if unit.reaches and unit.last < now]
        due = [unit for unit in reaching if now >= self._poll_now(unit)]
        if due:
            # Those that poll every few seconds have just done so: polls were only left out.
            for unit in reaching:
                if unit.poll < _OFTEN and unit not in due:
                    self.contact(unit, "poll")
        for unit in due:
            self.contact(unit, "poll")
        self.settle()
        return ended

    def _poll_now(self, unit: Unit) -> float:
        """Return the device's poll that falls on this instant, infinity if none does."""
        now = self.clock.elapsed
        polls = (now - unit.last) / unit.poll
        return now if abs(polls - round(polls)) * unit.poll < _HAIR else math.inf

    def _epoch(self) -> int:
        if self._entry is None:
            last = "SELECT max(entry) FROM journal"
            self._entry = int(self.manager.database.read(lambda tx: tx.value(last)))
        return self._entry

    # -- law 1

    def check(self) -> list[str]:
        """Check law 1 now; returns a sentence for each violation."""
        now, wrong = self.time, []
        for name in POOL_TYPES:
            bought = sum(o.counts.get(name) for o in self.orders if o.starts <= now < o.ends)
            used = {unit.name: unit.may_use(name, now) for unit in self.units.values()}
            if sum(used.values()) > bought:
                wrong.append(f"{sum(used.values())} {name} may be used, {bought} are purchased.")
            for tenant, shares in self.shares.items():
                theirs = sum(used[u.name] for u in self.units.values() if u.tenant == tenant)
                if theirs > shares.get(name, theirs):
                    wrong.append(f"{theirs} {name} may be used in {tenant}: {shares[name]}.")
        wrong += self.manager.database.read(_oversold)
        self.checked += 1
        self.violations += len(wrong)
        return wrong


def _hinted(tx: Tx) -> set[str]:
    return {r["serial"] for r in tx.rows("SELECT serial FROM unit WHERE hint_seq > hint_seen")}


def _leases(tx: Tx) -> float | None:
    """Return when the first lease that still stands at the manager ends."""
    found = tx.value("SELECT min(lease_end) FROM unit WHERE leased")
    return None if found is None else float(found)


def _oversold(tx: Tx) -> list[str]:
    """Return what the database holds beyond an order or a share, summed anew."""
    lines = tx.rows(
        "SELECT l.order_id AS name, l.type, l.count AS most, l.held,"
        " (SELECT coalesce(sum(h.held), 0) FROM holding h WHERE h.order_id = l.order_id"
        "   AND h.type = l.type) AS total FROM order_line l"
    )
    shares = tx.rows(
        "SELECT t.name, s.type, s.share AS most, s.held,"
        " (SELECT coalesce(sum(h.held), 0) FROM holding h WHERE h.tenant_id = s.tenant_id"
        "   AND h.type = s.type AND h.since = 0) AS total"
        " FROM tenant_share s JOIN tenant t ON t.tenant_id = s.tenant_id"
    )
    return [
        f"The database holds {r['total']} {r['type']} of {r['name']} (kept as {r['held']}), "
        f"which has {r['most']}."
        for r in (*lines, *shares)
        if r["total"] != r["held"] or (r["most"] is not None and r["total"] > r["most"])
    ]


@contextmanager
def make_world() -> Iterator[World]:
    """Make a world in a private directory that is deleted afterwards; raises OSError."""
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="callpool-simulate-", dir=memory) as directory:
        made = World(Path(directory))
        try:
            yield made
        finally:
            made.manager.close()


__all__ = ["START", "WITHOUT_END", "Unit", "World", "make_world"]
