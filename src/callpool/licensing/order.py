"""Purchase orders: what was bought in bulk, bound to one manager's product key.

Seed `004`: the pool is purchased as one bulk license; no operator can type a count into
being. An order's dates are whole seconds since 1970; it is in date from `starts` up to, and
not including, `ends`. Its role, which the vendor signs, says who may import it: the pool, or
the smart licensing authority. So a purchased unit is never in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from callpool.licensing.capacity import POOL_TYPES, Capacity, check_count, check_type
from callpool.licensing.errors import LicenseError

#: The format version that this release writes and reads.
ORDER_VERSION: Final = 1
#: An order's role: the pool hands its units out.
POOL_ORDER: Final = "pool"
#: An order's role: the authority counts its units as entitlements of a virtual account.
SMART_ORDER: Final = "smart"
#: What each role is called in sentences, and the command that imports its orders.
_ROLES: Final = {
    POOL_ORDER: ("a license pool", "callpool pool order"),
    SMART_ORDER: ("smart licensing", "callpool smart order"),
}


def whole(payload: Mapping[str, Any], name: str) -> int:
    """Return a whole number of seconds from a document; raises LicenseError `bad_document`."""
    value = payload.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise LicenseError("bad_document", f"The document's {name} is not a whole number.")
    return value


def text(payload: Mapping[str, Any], name: str, most: int = 200) -> str:
    """Return a short printable text from a document; raises LicenseError `bad_document`."""
    value = payload.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise LicenseError("bad_document", f"The document's {name} is missing or not plain text.")
    return value


def counts(payload: Mapping[str, Any], name: str) -> Capacity:
    """Return counts per license type from a document; raises LicenseError."""
    value = payload.get(name)
    if not isinstance(value, dict):
        raise LicenseError("bad_document", f"The document's {name} is not a table of counts.")
    return Capacity.of(value)


def check_version(payload: Mapping[str, Any], version: int, what: str) -> None:
    """Refuse a document of another format version: LicenseError `unknown_version`."""
    if payload.get("version") != version:
        raise LicenseError(
            "unknown_version",
            f"This {what} has format version {payload.get('version')!r}; "
            f"this release reads version {version}.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseOrder:
    """One bulk purchase."""

    #: The vendor's number for it, unique for ever.
    order_id: str
    #: The product key of the one manager that may import it.
    product_key: str
    #: What was bought, per license type (an entitlement's tag is its license type).
    counts: Capacity
    #: In date from this second since 1970.
    starts: int
    #: Out of date from this second since 1970.
    ends: int
    #: When the vendor signed it, seconds since 1970.
    issued_at: int
    #: POOL_ORDER or SMART_ORDER.
    role: str = POOL_ORDER

    def __post_init__(self) -> None:
        """Check dates and types: LicenseError `bad_document` or `unknown_license_type`."""
        if self.ends <= self.starts:
            raise LicenseError("bad_document", "An order must end after it starts.")
        if not self.counts:
            raise LicenseError("bad_document", "An order buys at least one license.")
        if self.role not in _ROLES:
            raise LicenseError("bad_document", f"An order's role is one of {', '.join(_ROLES)}.")
        for name, count in self.counts:
            check_count(count, check_type(name, pooled=self.role == POOL_ORDER))
            if self.role == SMART_ORDER and name in POOL_TYPES:
                raise LicenseError(
                    "unknown_license_type",
                    f"{name} is handed out by the pool; it is no smart entitlement.",
                )

    def to_payload(self) -> dict[str, Any]:
        """Return the document's body, ready to be signed."""
        return {
            "version": ORDER_VERSION,
            "role": self.role,
            "order_id": self.order_id,
            "product_key": self.product_key,
            "counts": self.counts.to_dict(),
            "starts": self.starts,
            "ends": self.ends,
            "issued_at": self.issued_at,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any], role: str = POOL_ORDER) -> PurchaseOrder:
        """Read a verified document's body, an order for `role`.

        Raises LicenseError `bad_document`, `unknown_version`, `bad_count`,
        `unknown_license_type`.
        """
        check_version(payload, ORDER_VERSION, "order")
        found = payload.get("role")
        if found != role:
            other = _ROLES.get(found) if isinstance(found, str) else None
            raise LicenseError(
                "bad_document",
                f"This is not an order for {_ROLES[role][0]}"
                + (f"; import it with `{other[1]}`." if other else "."),
            )
        return cls(
            order_id=text(payload, "order_id", 64),
            product_key=text(payload, "product_key", 64),
            counts=counts(payload, "counts"),
            starts=whole(payload, "starts"),
            ends=whole(payload, "ends"),
            issued_at=whole(payload, "issued_at"),
            role=role,
        )


def check_for(order: PurchaseOrder, product_key: str, now: float) -> PurchaseOrder:
    """Return `order` if it may be imported by the manager with `product_key` at `now`.

    Raises LicenseError `order_for_another_manager` or `order_out_of_date`.
    """
    if order.product_key != product_key:
        raise LicenseError(
            "order_for_another_manager",
            f"Order {order.order_id} is bound to another product key; "
            f"this manager's product key is {product_key}.",
        )
    if order.ends <= now:
        raise LicenseError("order_out_of_date", f"Order {order.order_id} has already ended.")
    return order


__all__ = [
    "POOL_ORDER",
    "SMART_ORDER",
    "PurchaseOrder",
    "check_for",
    "check_version",
    "counts",
    "text",
    "whole",
]
