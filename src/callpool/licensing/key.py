"""Local license keys: signed by the vendor, bound to serial numbers, features included.

Seed `004`: a device must still carry a local License Key for other ordered features (such
as Test Calls) and for its own capacity; 'Local' is what it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import LicenseError
from callpool.licensing.order import check_version, counts, text, whole

#: The format version of a key without an end.
KEY_VERSION: Final = 1
#: The format version of a key that ends: a release that knows no ends must not read it.
ENDING_KEY_VERSION: Final = 2
#: The features that a local key can carry.
FEATURES: Final[Mapping[str, str]] = {"test_call": "Test Call"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalKey:
    """One local license key, for one device or both units of an HA pair."""

    #: The vendor's number for it.
    key_id: str
    #: Rises with every key the vendor issues for a serial number: an older key is refused.
    sequence: int
    #: The serial numbers it is bound to (one, or the two of an HA pair).
    serials: tuple[str, ...]
    #: The local counts.
    counts: Capacity
    #: The device's maximum supported capacity, per type.
    maximum: Capacity
    #: Features, names of FEATURES.
    features: frozenset[str]
    #: When the vendor signed it, seconds since 1970.
    issued_at: int
    #: It counts up to, and not including, this second since 1970; None for no end.
    ends: int | None = None

    def __post_init__(self) -> None:
        """Check serials, features and dates: LicenseError `bad_document`, `unknown_feature`."""
        if not 1 <= len(self.serials) <= 2 or len(set(self.serials)) != len(self.serials):
            raise LicenseError("bad_document", "A local key is bound to one or two serial numbers.")
        unknown = sorted(self.features - set(FEATURES))
        if unknown:
            raise LicenseError(
                "unknown_feature",
                f"{unknown[0][:40]!r} is not a feature here; use one of {', '.join(FEATURES)}.",
            )
        if self.ends is not None and self.ends <= self.issued_at:
            raise LicenseError("bad_document", "A local key ends after the day it is issued.")

    def in_date(self, time: float) -> bool:
        """Tell whether it counts at `time`, seconds since 1970."""
        return self.ends is None or time < self.ends

    def features_at(self, time: float) -> frozenset[str]:
        """Return the features that it carries at `time`, seconds since 1970."""
        return self.features if self.in_date(time) else frozenset()

    def to_payload(self) -> dict[str, Any]:
        """Return the document's body, ready to be signed."""
        dated = {} if self.ends is None else {"ends": self.ends}
        return {
            "version": ENDING_KEY_VERSION if dated else KEY_VERSION,
            "key_id": self.key_id,
            "sequence": self.sequence,
            "serials": list(self.serials),
            "counts": self.counts.to_dict(),
            "maximum": self.maximum.to_dict(),
            "features": sorted(self.features),
            "issued_at": self.issued_at,
            **dated,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> LocalKey:
        """Read a verified document's body; raises LicenseError as PurchaseOrder does."""
        dated = payload.get("version") == ENDING_KEY_VERSION
        check_version(payload, ENDING_KEY_VERSION if dated else KEY_VERSION, "local key")
        serials, features = payload.get("serials"), payload.get("features")
        if not isinstance(serials, list) or not isinstance(features, list):
            raise LicenseError("bad_document", "The key's serials and features are lists.")
        return cls(
            key_id=text(payload, "key_id", 64),
            sequence=whole(payload, "sequence"),
            serials=tuple(check_serial(s) for s in serials),
            counts=counts(payload, "counts"),
            maximum=counts(payload, "maximum"),
            features=frozenset(str(f) for f in features),
            issued_at=whole(payload, "issued_at"),
            ends=whole(payload, "ends") if dated else None,
        )


def check_serial(serial: object) -> str:
    """Return `serial` if it can be a serial number: 1 to 32 letters, digits, dashes.

    Raises LicenseError `bad_serial`.
    """
    if (
        not isinstance(serial, str)
        or not 1 <= len(serial) <= 32
        or not serial.replace("-", "").isalnum()
        or not serial.isascii()
    ):
        raise LicenseError(
            "bad_serial",
            f"A serial number is 1 to 32 letters, digits and dashes, not {str(serial)[:40]!r}.",
        )
    return serial


def check_bound(key: LocalKey, serial: str) -> LocalKey:
    """Return `key` if it is for `serial`; raises LicenseError `key_for_another_serial`."""
    if serial not in key.serials:
        raise LicenseError(
            "key_for_another_serial",
            f"This key is bound to {', '.join(key.serials)}; this device is {serial}.",
        )
    return key


def check_installable(
    key: LocalKey, serial: str, installed: LocalKey | None, *, time: float
) -> LocalKey:
    """Return `key` if the device with `serial` may install it at `time` over `installed`.

    `time` is trusted time, seconds since 1970. Raises LicenseError `key_for_another_serial`,
    `older_key` or `key_expired`.
    """
    check_bound(key, serial)
    if installed is not None and key.sequence < installed.sequence:
        raise LicenseError(
            "older_key",
            f"Key {key.key_id} is older than the installed key {installed.key_id}.",
        )
    if not key.in_date(time):
        raise LicenseError(
            "key_expired", f"Key {key.key_id} has ended; ask the vendor for a new one."
        )
    return key
