"""A manager without a network, and devices by the real device rules, on one stepped clock."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import psycopg

from callpool.licensing.capacity import Capacity
from callpool.licensing.instant import Instant
from callpool.licensing.lease import DeviceLicense
from callpool.licensing.order import PurchaseOrder
from callpool.manager import inventory, moves, pools, steady
from callpool.manager.change import Change
from callpool.manager.contacts import Answer, contact
from callpool.manager.core import Manager
from callpool.manager.enrolments import enrol
from callpool.manager.settings import Layout, Settings, load
from callpool.manager.store.derived import settle
from callpool.wire.envelope import read, unverified
from callpool.wire.keys import SigningKey
from callpool.wire.messages import (
    FACTORY_RESET,
    ContactReply,
    ContactRequest,
    EnrolReply,
    EnrolRequest,
    PairReport,
)

T = TypeVar("T")

START = 1_800_000_000.0
DAY = 86_400.0
LEASE = 7 * DAY


@dataclass
class SteppedClock:
    wall: float = START
    boottime: float = 1000.0
    boot_id: str = "boot-1"

    def now(self) -> Instant:
        return Instant(wall=self.wall, boottime=self.boottime, boot_id=self.boot_id)

    def real_seconds(self, seconds: float) -> float:
        return seconds

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.boottime += seconds


@dataclass
class ModelDevice:
    """One unit: `DeviceLicense` decides, as on a real device; replies may be late or lost."""

    serial: str
    tenant: str
    kid: str
    license: DeviceLicense
    value: str
    #: Trusted time = signed + elapsed since.
    signed: float = START
    signed_at: float = 0.0
    asked: ContactRequest | None = None
    asked_at: float = 0.0
    answered: ContactReply | None = None
    in_use: dict[str, int] = field(default_factory=dict)
    #: The manager's last order to restart that it carried out.
    restart_done: int = 0
    locked: bool = False
    #: How it sees its HA pair.
    pair: PairReport | None = None
    #: A factory reset drops the identity: without one it cannot call until it enrols anew.
    enrolled: bool = True

    def time(self, clock: SteppedClock) -> float:
        return self.signed + (clock.boottime - self.signed_at)


#: A PostgreSQL cluster's URL without a database: models are made there. Empty for SQLite.
CLUSTER = os.environ.get("CALLPOOL_TEST_CLUSTER", "")

_template: Path | None = None


def _made() -> Path:
    """Return a manager's directory, made once: argon2 and keys cost time."""
    global _template
    if _template is None:
        directory = Path(tempfile.mkdtemp(prefix="callpool-model-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        _template = directory / "manager"
        if CLUSTER:
            _template.mkdir(mode=0o700)
            (_template / "database.url").write_text(_new_database())
        Manager.create(Layout(_template), Settings(listen="127.0.0.1:0")).close()
    return _template


def _new_database(template: str = "template0") -> str:
    """Return the URL of a new database of the cluster, a copy of `template`."""
    name = f"model_{secrets.token_hex(6)}"
    with psycopg.connect(f"{CLUSTER}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"{CLUSTER}/{name}".replace("postgresql://", "postgresql+psycopg://")


#: What a contact may change.
_TABLES: Final = (
    "unit", "holding", "grant_journal", "journal", "meta", "tally", "tenant_peak",
    "usage_hour", "usage_day", "device_now", "device_count", "device_heard",
)  # fmt: skip


class _Undo(Exception):
    """The change was looked at and is not wanted."""


class Model:
    """A manager and its devices."""

    def __init__(self, **settings: Any) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="callpool-model-"))
        layout = Layout(self.directory / "manager")
        shutil.copytree(_made(), layout.directory)
        if CLUSTER:
            template = layout.database_url.read_text().rpartition("/")[2]
            layout.database_url.write_text(_new_database(template))
        assert load(layout).lease_seconds == LEASE
        self.manager = Manager(layout)
        self.clock = SteppedClock()
        self.manager.clock = self.clock
        self.product_key = self.manager.product_key()
        #: Whether each steady contact is held against the long way, and how many were steady.
        self.compares, self.steady = False, 0
        self.devices: dict[str, ModelDevice] = {}
        self.orders: list[PurchaseOrder] = []
        self.shares: dict[str, dict[str, int | None]] = {}
        #: The largest share that an operator has set, per tenant and type.
        self.most_shares: defaultdict[tuple[str, str], int] = defaultdict(int)

    def close(self) -> None:
        self.manager.close()
        shutil.rmtree(self.directory)

    # -- backups and crashes

    def backup(self) -> Path:
        """Copy the database; returns the copy."""
        copy = self.directory / f"backup-{secrets.token_hex(4)}.db"
        if CLUSTER:
            moves.backup(self.manager.layout, copy, self.clock.wall, lambda said: None)
            return copy
        with (
            contextlib.closing(sqlite3.connect(self.manager.database.file)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        return copy

    def reopen(self, copy: Path | None = None, *, journal: bool = True) -> None:
        """End the manager and start it anew, from an old `copy` of its database if given.

        Without `journal` the grant journal is lost as well.
        """
        layout = self.manager.layout
        self.manager.close()
        if copy is not None:
            if CLUSTER:
                moves.restore(layout, copy, lambda said: None)
            else:
                for tail in ("", "-wal", "-shm"):
                    layout.database.with_name(layout.database.name + tail).unlink(missing_ok=True)
                shutil.copy(copy, layout.database)
            if not journal:
                layout.grants.unlink(missing_ok=True)
        self.manager = Manager(layout)
        self.manager.clock = self.clock
        if copy is not None:
            self._know_again()

    def _know_again(self) -> None:
        """Take the books as the backup has them: what came later is unknown to the manager.

        What is purchased stays purchased (its orders can be imported again), and a tenant may
        have the larger of both shares until its devices have followed.
        """
        self.manager.sweep()
        for row in self.manager.database.read(
            lambda tx: tx.rows(
                "SELECT t.name, s.type, s.share FROM tenant t JOIN tenant_share s"
                " ON s.tenant_id = t.tenant_id"
            )
        ):
            shares = self.shares.get(row["name"], {})
            was = shares.get(row["type"])
            if was is not None and row["share"] is not None:
                # The manager may learn, but never beyond what an operator has set.
                assert row["share"] <= max(was, self.most_shares[row["name"], row["type"]])
            share = row["share"]
            shares[row["type"]] = None if was is None or share is None else max(was, share)

    def change(self, work: Callable[[Change], T]) -> T:
        return self.manager.change("tester", "here", work)

    def tenant(self, name: str, **shares: int) -> None:
        self.change(lambda c: inventory.add_tenant(c, name, shares))
        self.shares[name] = dict(shares)

    def order(self, *, starts: float, ends: float, **counts: int) -> None:
        order = PurchaseOrder(
            order_id=f"PO-{len(self.orders) + 1}",
            product_key=self.product_key,
            counts=Capacity.of(counts),
            starts=int(starts),
            ends=int(ends),
            issued_at=int(START),
        )
        self.change(lambda c: pools.import_order(c, order, "envelope"))
        self.orders.append(order)

    def add(self, name: str, *serials: str, tenant: str = "default", apply: str = "live") -> None:
        self.change(lambda c: inventory.add_device(c, name, list(serials), tenant, apply))
        for serial in serials:
            self.enrol(serial, tenant)

    def enrol(self, serial: str, tenant: str) -> None:
        """Let an operator unlock the unit, and the unit enrol with a new key by that token.

        What it holds it keeps: the manager is the same.
        """
        key = SigningKey.generate().public

        def work(change: Change) -> str:
            _, token = inventory.unlock(change, serial)
            request = EnrolRequest(
                url="",
                nonce=secrets.token_hex(6),
                token=token,
                serial=serial,
                public_key=key.text,
                request="",
            )
            return enrol(change, request, key, self.manager.identity)

        reply = read(unverified(self.change(work)), EnrolReply)
        was = self.devices.get(serial)
        self.devices[serial] = ModelDevice(
            serial=serial,
            tenant=tenant,
            kid=key.kid,
            license=was.license if was else DeviceLicense(serial=serial),
            value=reply.contact,
            signed=reply.time,
            signed_at=self.clock.boottime,
            in_use=was.in_use if was else {},
            restart_done=was.restart_done if was else 0,
        )

    def reset(self, device: ModelDevice, *, told: bool) -> None:
        """Reset to factory defaults; `told`: the manager hears the last contact."""
        device.license = DeviceLicense(
            serial=device.serial, seen_version=device.license.seen_version
        )
        device.asked = device.answered = None
        if told and device.enrolled:
            self.ask(device, reason=FACTORY_RESET)
        device.in_use, device.asked, device.answered = {}, None, None
        device.enrolled = False

    def allocate(self, name: str, **counts: int) -> None:
        self.change(lambda c: pools.allocate(c, inventory.device_by_name(c, name), counts))

    def tick(self, device: ModelDevice) -> None:
        """Let the device's own timers run."""
        if device.license.ended(device.time(self.clock)):
            device.license = device.license.discarded()

    def ask(
        self, device: ModelDevice, *, notices: bool = True, reason: str = "poll", **more: Any
    ) -> Answer:
        """Send a contact, `more` in it; the answer waits until `deliver` or `lose`."""
        assert device.enrolled
        if notices:
            self.tick(device)
        held = device.license
        request = ContactRequest(
            url="",
            nonce=secrets.token_hex(6),
            serial=device.serial,
            contact=device.value,
            time=self.clock.wall,
            reason=reason,
            remote_version=held.remote.version if held.remote else 0,
            applied_version=held.applied.version if held.applied else 0,
            remote_in_use=device.in_use,
            restart_done=device.restart_done,
            actual=held.actual_at(device.time(self.clock)).to_dict(),
            pair=device.pair,
            **more,
        )
        return self.send(device, request)

    def call(self, device: ModelDevice) -> Answer:
        """Ask; a device whose reply was lost repeats its request, and gets the same reply."""
        if device.asked is not None and device.answered is None:
            return self.send(device, device.asked)
        self.deliver(device)
        return self.ask(device)

    def send(self, device: ModelDevice, request: ContactRequest) -> Answer:
        # Written down before it is sent: whatever becomes of it, it is sent again.
        if device.asked is not request:
            device.asked_at = self.clock.boottime
        device.asked, device.answered = request, None
        given = self._taken(device, request)
        if given.refusal is None:
            device.answered = read(unverified(given.reply), ContactReply)
            return given
        device.asked = None  # read and refused: it is not repeated
        if given.refusal.code in ("stale_contact", "unit_locked"):
            device.locked = True
        return given

    def _taken(self, device: ModelDevice, request: ContactRequest) -> Answer:
        """Let the manager take a contact as it does: with others where it is steady."""
        identity, settings = self.manager.identity, self.manager.settings
        asked = [steady.Asked(request, device.kid)]
        if self.compares:
            self._compare(device, asked)
        (reply,) = self.manager.contacts(lambda c: steady.take(c, asked, identity, settings))
        if reply:
            self.steady += 1
            return Answer(reply=reply)
        return self.manager.contact(
            device.serial, "", lambda c: contact(c, request, device.kid, identity, settings)
        )

    def _compare(self, device: ModelDevice, asked: list[steady.Asked]) -> None:
        """Hold what is done for a steady contact against what all the rules make of it."""
        identity, settings = self.manager.identity, self.manager.settings
        seen: list[tuple[str, dict[str, Any]]] = []

        def look(change: Change, reply: str) -> None:
            settle(change.tx)
            assert not change.tx.touched("unit")  # nothing for the grant journal
            rows = {
                table: [dict(r) for r in change.tx.rows(f"SELECT * FROM {table}")]  # noqa: S608
                for table in _TABLES
            }
            for row in rows["unit"]:
                if row["serial"] == device.serial:  # partly drawn by lot
                    row |= dict.fromkeys(("contact_current", "last_reply"))
            for found in rows.values():  # PostgreSQL has no order of its own
                found.sort(key=repr)
            seen.append((reply, rows))
            raise _Undo

        def one(change: Change) -> None:
            (reply,) = steady.take(change, asked, identity, settings)
            if reply:
                look(change, reply)

        def other(change: Change) -> None:
            look(change, contact(change, asked[0].request, device.kid, identity, settings).reply)

        with contextlib.suppress(_Undo):
            self.manager.contacts(one)
        if not seen:
            return
        with contextlib.suppress(_Undo):
            self.manager.contacts(other)
        replies = [read(unverified(reply), ContactReply) for reply, _ in seen]
        one_way, long_way = (msgspec.structs.replace(reply, contact="") for reply in replies)
        assert one_way == long_way
        for table in _TABLES:
            assert seen[0][1][table] == seen[1][1][table], table

    def deliver(self, device: ModelDevice) -> ContactReply | None:
        """Let the answer that waits arrive."""
        reply = device.answered
        if reply is None:
            return None
        device.answered = device.asked = None
        device.value = reply.contact
        # Counted from when it was asked: a reply that comes late buys no time.
        device.signed, device.signed_at = reply.time, device.asked_at
        if reply.grant is not None:
            device.license = device.license.receive(
                reply.grant.grant(device.serial), reply.lease_end, device.time(self.clock)
            )
        else:
            device.license = device.license.discarded()
        return reply

    def lose(self, device: ModelDevice) -> None:
        """Lose the answer that waits; the device will repeat its request, same nonce."""
        device.answered = None

    def poll(self, serial: str) -> ContactReply | None:
        device = self.devices[serial]
        self.ask(device)
        return self.deliver(device)

    def may_use(self, device: ModelDevice, name: str) -> int:
        """Return the most that the device can carry now, whether it restarts or not."""
        now = device.time(self.clock)
        held = device.license
        if now >= held.lease_end:
            return 0
        grants = [g.at(now).get(name) for g in (held.applied, held.remote) if g is not None]
        return max(grants, default=0)

    def check(self) -> None:
        """Law 1: what all devices may use is purchased and in date; in each tenant too."""
        now = self.clock.wall
        for name in ("sbc_sessions", "far_end_users"):
            bought = sum(o.counts.get(name) for o in self.orders if o.starts <= now < o.ends)
            used = {d.serial: self.may_use(d, name) for d in self.devices.values()}
            assert sum(used.values()) <= bought, (name, used, bought)
            for tenant, shares in self.shares.items():
                share = shares.get(name)
                if share is not None:
                    theirs = [d.serial for d in self.devices.values() if d.tenant == tenant]
                    assert sum(used[s] for s in theirs) <= share, (name, tenant, used, share)

    def check_tables(self) -> None:
        """Law 1 in the database, summed anew."""
        for r in self.manager.database.read(
            lambda tx: [
                *tx.rows(
                    "SELECT l.count AS most, l.held, (SELECT coalesce(sum(h.held), 0) FROM holding"
                    " h WHERE h.order_id = l.order_id AND h.type = l.type) AS total"
                    " FROM order_line l"
                ),
                *tx.rows(
                    "SELECT s.share AS most, s.held, (SELECT coalesce(sum(h.held), 0) FROM holding"
                    " h WHERE h.tenant_id = s.tenant_id AND h.type = s.type AND h.since = 0)"
                    " AS total FROM tenant_share s"
                ),
            ]
        ):
            assert r["total"] == r["held"]
            assert r["most"] is None or r["held"] <= r["most"]

    def tenants_as_known(self) -> None:
        """Take each device's tenant as the manager has it."""
        for r in self.manager.database.read(
            lambda tx: tx.rows(
                "SELECT u.serial, t.name FROM unit u JOIN device d ON d.device_id = u.device_id"
                " JOIN tenant t ON t.tenant_id = d.tenant_id"
            )
        ):
            self.devices[r["serial"]].tenant = r["name"]

    def held(self, serial: str, name: str = "sbc_sessions") -> int:
        return int(
            self.manager.database.read(
                lambda tx: tx.value(
                    "SELECT coalesce(sum(held), 0) FROM holding WHERE serial = :s AND type = :t"
                    " AND since = 0",
                    s=serial,
                    t=name,
                )
            )
        )
