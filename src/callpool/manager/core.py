"""`Manager`: the database, the clock and the keys, and one way to change anything."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from sqlalchemy.exc import IntegrityError

from callpool.host.clock import Clock, clock_for
from callpool.host.files import write_durably
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.licensing.order import POOL_ORDER, SMART_ORDER, PurchaseOrder
from callpool.manager import authority, authority_ledger, hitless_runs, requests
from callpool.manager.audit_heads import Heads
from callpool.manager.change import CLOCK, DEVICE, HERE, Acting, Change, keep_elapsed, read_elapsed
from callpool.manager.grant_journal import Entry, GrantJournal
from callpool.manager.identity import Identity
from callpool.manager.inventory import DEFAULT_TENANT, add_tenant
from callpool.manager.operators import add_operator
from callpool.manager.passwords import hashed_password
from callpool.manager.pools import due, import_order, refill, sweep
from callpool.manager.restore import Grants, end_if_over
from callpool.manager.restored import restored
from callpool.manager.settings import Layout, Settings, load, save
from callpool.manager.store.database import Database
from callpool.manager.store.tx import Alone, Tx
from callpool.manager.usage import due as usage_due
from callpool.manager.usage import sweep as prune_usage
from callpool.manager.windows import due as window_due
from callpool.manager.windows import sweep as sweep_windows
from callpool.wire.envelope import ORDER, trust, verify
from callpool.wire.keys import PublicKey

T = TypeVar("T")

#: The first operator.
FIRST_OPERATOR: Final = "admin"
#: Letters of a product key: no two look alike.
_LETTERS: Final = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"


def new_product_key() -> str:
    """Return a new product key, such as `CP-7K2MN-...`: orders are bound to it."""
    parts = ("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(4))
    return "-".join(("CP", *parts))


class Manager:
    """One manager process on its directory; several may run on the same one."""

    def __init__(self, layout: Layout) -> None:
        """Open a manager's directory and bring its database up to date.

        Raises CallpoolError `no_manager`, `bad_settings`, `database_unusable`; OSError.
        """
        self.layout = layout
        self.settings = load(layout)
        self.clock: Clock = clock_for(self.settings.lab_clock)
        self.identity = Identity(layout)
        self.database = Database(layout.database_place())
        self.database.migrate()
        file = layout.grant_journal(self.settings)
        self.grants = Grants(self.database, GrantJournal(file))
        #: Why the grant journal could not be written last, empty while it can.
        self.journal_trouble = ""
        self.heads = Heads(file.with_name("audit.head"), self.identity)
        #: Called after a change that some unit has to pull; set by the hints' hub.
        self.on_hint: Callable[[], None] = lambda: None

    @classmethod
    def create(cls, layout: Layout, settings: Settings) -> Manager:
        """Make a new manager; raises CallpoolError `manager_exists`, OSError."""
        layout.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if layout.settings.exists():
            raise CallpoolError("manager_exists", f"{layout.directory} already holds a manager.")
        now = clock_for(settings.lab_clock).now().wall
        Identity.create(layout, hosts=settings.hosts, now=now)
        database = Database(layout.database_place())
        database.migrate()
        if database.read(lambda tx: tx.meta("product_key")):
            database.close()
            raise CallpoolError("manager_exists", f"{database.name} already holds a manager.")
        password = secrets.token_urlsafe(18)
        database.write(lambda tx: _first_rows(tx, now, settings, password))
        database.close()
        write_durably(layout.password, f"{password}\n".encode())
        # Written last: a directory with this file holds a whole manager.
        save(layout, settings)
        return cls(layout)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def change(
        self,
        who: str,
        source: str,
        work: Callable[[Change], T],
        last: Callable[[Change, T], None] = lambda change, result: None,
        *,
        acting: Acting = Acting(),  # noqa: B008  frozen
    ) -> T:
        """Run `work` as one change: what the clock brought is done first, all is on disk last.

        `last` sees the change once it is whole; what it raises undoes all of it.
        Raises what `work` raises; LicenseError `pool_exceeded` where the database itself
        refused (law 1); CallpoolError `grant_journal_unusable`: the change stands, its answer
        does not leave.
        """
        return self._changed(who, source, work, last, acting=acting)

    def contact(self, serial: str, source: str, work: Callable[[Change], T]) -> T:
        """Run a contact of unit `serial` as one change.

        Where the database lets it, it runs beside other contacts, and leaves what the clock
        brought to the next change: until then nothing that a lease's end frees is given away.
        Raises as `change` does.
        """
        return self._changed(serial, source, work, lambda change, result: None, beside=serial)

    def contacts(self, work: Callable[[Change], T]) -> T:
        """Run several contacts, whose units `work` locks itself, as one change; see `contact`."""
        return self._changed(DEVICE, "", work, lambda change, result: None, beside=None)

    def _changed(
        self,
        who: str,
        source: str,
        work: Callable[[Change], T],
        last: Callable[[Change, T], None],
        *,
        acting: Acting = Acting(),  # noqa: B008  frozen
        beside: str | None = "",
    ) -> T:
        made: Change | None = None

        def run(tx: Tx) -> tuple[T, tuple[int, Entry | None]]:
            nonlocal made
            now = self.clock.now()
            elapsed, keep = read_elapsed(tx, now)
            if keep and not tx.beside:
                keep_elapsed(tx, now)
            made = Change(
                tx=tx,
                now=now.wall,
                elapsed=elapsed,
                lease_seconds=self.settings.lease_seconds,
                who=who,
                source=source,
                acting=acting,
            )
            self.grants.begin(made)
            if tx.beside:
                return self._beside(made, work)
            if due(made):
                sweep(made)
            if authority_ledger.due(made):
                authority_ledger.sweep(made)
            if window_due(made):
                sweep_windows(made)
            if usage_due(made):
                prune_usage(made, self.settings)
            if hitless_runs.due(made, self.settings):
                hitless_runs.sweep(made, self.settings)
            end_if_over(made)
            result = work(made)
            end_if_over(made)
            if made.freed:
                refill(made)
            requests.advance(made, self.settings.waiting_poll_seconds)
            if made.freed:
                refill(made)
            last(made, result)
            return result, self.grants.end(made)

        try:
            if beside != "":
                result, written = self.database.contact(beside, run)
            else:
                result, written = self.database.write(run, acting.scope)
        except IntegrityError as error:
            raise LicenseError(
                "pool_exceeded", "The database refused the change: it would oversell the pool."
            ) from error
        try:
            self.grants.written(*written)
        except CallpoolError as error:
            self.journal_trouble = error.sentence
            raise
        self.journal_trouble = ""
        if made is not None and made.hinted:
            self.on_hint()
        return result

    def _beside(self, change: Change, work: Callable[[Change], T]) -> tuple[T, tuple[int, None]]:
        """Run `work` beside other contacts; raises `Alone` where it has more to change."""
        if restored(change.tx) is not None:
            raise Alone
        result = work(change)
        if change.freed or change.hinted:
            raise Alone
        number, entry = self.grants.end(change)
        assert entry is None  # a changed grant has raised `Alone`
        return result, (number, None)

    def sweep(self) -> bool:
        """Do what the clock brings, if anything is due; returns whether something was."""

        def look(tx: Tx) -> bool:
            now = self.clock.now()
            elapsed, keep = read_elapsed(tx, now)
            looked = Change(
                tx=tx,
                now=now.wall,
                elapsed=elapsed,
                lease_seconds=self.settings.lease_seconds,
                who=CLOCK,
                source="",
            )
            rooms = (due, authority_ledger.due, self.grants.due, window_due, usage_due)
            return (
                keep
                or any(is_due(looked) for is_due in rooms)
                or hitless_runs.due(looked, self.settings)
            )

        if not self.database.read(look):
            return False
        self.change(CLOCK, "", lambda change: None)
        return True

    def import_order(self, change: Change, envelope: bytes) -> PurchaseOrder:
        """Verify and import an order file for the pool.

        Raises as `verified_order`, LicenseError as `pools.import_order` does.
        """
        order = self.verified_order(envelope, POOL_ORDER)
        return import_order(change, order, envelope.decode().strip())

    def import_smart_order(
        self, change: Change, envelope: bytes, account: str, virtual_account: str
    ) -> tuple[PurchaseOrder, str, str]:
        """Verify and import an order file for smart licensing into a virtual account.

        Returns the order and the names of the account and the virtual account. Raises as
        `verified_order`, LicenseError as `authority.import_order` does.
        """
        order = self.verified_order(envelope, SMART_ORDER)
        text = envelope.decode().strip()
        row = authority.import_order(change, order, text, account, virtual_account)
        return order, row["account"], row["name"]

    def verified_order(self, envelope: bytes, role: str) -> PurchaseOrder:
        """Return the order for `role` in a vendor's signed file.

        Raises TrustError as `wire.envelope.verify` does, CallpoolError `no_vendor_key` where
        this manager trusts no vendor yet, LicenseError as `PurchaseOrder.from_payload` does.
        """
        if not self.settings.vendor_keys:
            raise CallpoolError(
                "no_vendor_key",
                "This manager trusts no vendor yet: run `callpool manager trust-vendor`.",
            )
        keys = trust(*(PublicKey.from_text(text) for text in self.settings.vendor_keys))
        body = verify(envelope, ORDER, keys)
        try:
            payload = msgspec.json.decode(body, type=dict)
        except msgspec.DecodeError as error:
            raise LicenseError("bad_document", "The order does not have its form.") from error
        return PurchaseOrder.from_payload(payload, role)

    def product_key(self) -> str:
        """Return the key that orders for this manager are bound to."""
        return self.database.read(lambda tx: tx.meta("product_key"))


def _first_rows(tx: Tx, now: float, settings: Settings, password: str) -> None:
    tx.set_meta("product_key", new_product_key())
    change = Change(
        tx=tx,
        now=now,
        elapsed=0.0,
        lease_seconds=settings.lease_seconds,
        who="init",
        source=HERE,
    )
    add_tenant(change, DEFAULT_TENANT, {})
    add_operator(change, FIRST_OPERATOR, hashed_password(password))
    change.journal("initialised")
