"""The vendor's desk: one signing key, and a ledger so that no number is used twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from callpool.host.files import locked, write_durably
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.licensing.key import LocalKey, check_serial
from callpool.licensing.order import POOL_ORDER, PurchaseOrder
from callpool.wire.envelope import LOCAL_KEY, ORDER, sign
from callpool.wire.keys import PublicKey, SigningKey

_KEY_FILE: Final = "signing-key.pem"
_PUBLIC_FILE: Final = "vendor.pub"
_LEDGER_FILE: Final = "ledger.json"


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What has been issued: the numbers rise and are written before a document leaves."""

    #: The last order number given.
    orders: int = 0
    #: The last local key number given.
    keys: int = 0


class Office:
    """The vendor's directory."""

    def __init__(self, directory: Path) -> None:
        """Open the vendor's directory; raises CallpoolError `no_vendor`."""
        self._directory = directory
        if not (directory / _KEY_FILE).is_file():
            raise CallpoolError(
                "no_vendor",
                f"There is no vendor in {directory}: run `callpool vendor init --dir {directory}`.",
            )
        self._key = SigningKey.load(directory / _KEY_FILE)

    @classmethod
    def create(cls, directory: Path) -> Office:
        """Make a vendor with a new signing key; raises CallpoolError `vendor_exists`, OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / _KEY_FILE).exists():
            raise CallpoolError("vendor_exists", f"{directory} already holds a vendor.")
        key = SigningKey.generate()
        write_durably(directory / _PUBLIC_FILE, (key.public.text + "\n").encode(), mode=0o644)
        write_durably(directory / _LEDGER_FILE, msgspec.json.encode(Ledger()))
        key.save(directory / _KEY_FILE)
        return cls(directory)

    @property
    def public_key(self) -> PublicKey:
        """Return the key that managers and devices verify by."""
        return self._key.public

    @property
    def public_key_file(self) -> Path:
        """Return the file that managers and devices are given."""
        return self._directory / _PUBLIC_FILE

    @contextmanager
    def _ledger(self) -> Iterator[Ledger]:
        with locked(self._directory / ".lock"):
            file = self._directory / _LEDGER_FILE
            yield msgspec.json.decode(file.read_bytes(), type=Ledger)

    def _write(self, ledger: Ledger) -> None:
        write_durably(self._directory / _LEDGER_FILE, msgspec.json.encode(ledger))

    def order(
        self,
        *,
        product_key: str,
        counts: Capacity,
        starts: int,
        ends: int,
        now: int,
        role: str = POOL_ORDER,
    ) -> tuple[PurchaseOrder, str]:
        """Sign a bulk order bound to one manager's product key and to one of its roles.

        Times are seconds since 1970. Returns the order and its envelope. Raises LicenseError
        as `PurchaseOrder` does.
        """
        with self._ledger() as ledger:
            number = ledger.orders + 1
            order = PurchaseOrder(
                order_id=f"PO-{number:06d}-{self._key.public.kid[:6]}",
                product_key=product_key,
                counts=counts,
                starts=starts,
                ends=ends,
                issued_at=now,
                role=role,
            )
            self._write(msgspec.structs.replace(ledger, orders=number))
        return order, sign(self._key, ORDER, order.to_payload())

    def key(
        self,
        *,
        serials: Sequence[str],
        counts: Capacity,
        maximum: Capacity,
        features: frozenset[str],
        now: int,
        ends: int | None = None,
    ) -> tuple[LocalKey, str]:
        """Sign a local key bound to one or two serial numbers; returns it and its envelope.

        It counts up to `ends`, seconds since 1970; None for no end.

        Raises LicenseError as `LocalKey` does, and `above_maximum` where the counts exceed the
        maximum.
        """
        if not counts <= maximum:
            raise LicenseError("above_maximum", "A local key counts no more than its maximum.")
        with self._ledger() as ledger:
            number = ledger.keys + 1
            key = LocalKey(
                key_id=f"LK-{number:06d}-{self._key.public.kid[:6]}",
                sequence=number,
                serials=tuple(check_serial(s) for s in serials),
                counts=counts,
                maximum=maximum,
                features=features,
                issued_at=now,
                ends=ends,
            )
            self._write(msgspec.structs.replace(ledger, keys=number))
        return key, sign(self._key, LOCAL_KEY, key.to_payload())
