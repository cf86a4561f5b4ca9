"""License types, and `Capacity`: an immutable count per type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from callpool.licensing.errors import LicenseError

SBC_SESSIONS: Final = "sbc_sessions"
FAR_END_USERS: Final = "far_end_users"
CPS: Final = "cps"

#: The largest count that any document, command or grant may name.
MAX_COUNT: Final = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseType:
    """One kind of licensed capacity.

    The set is open: a new type is one entry in `LICENSE_TYPES` and, if the gate judges
    it, one rule there.
    """

    #: The stable name, as in documents, API and database.
    name: str
    #: The label that people see (the field's own).
    label: str
    #: The unit of a count.
    unit: str
    #: Whether the pool hands it out (the Fixed License Pool: sessions and users only).
    pooled: bool


LICENSE_TYPES: Final[Mapping[str, LicenseType]] = {
    t.name: t
    for t in (
        LicenseType(name=SBC_SESSIONS, label="SBC Sessions", unit="sessions", pooled=True),
        LicenseType(name=FAR_END_USERS, label="Far End Users", unit="users", pooled=True),
        LicenseType(name=CPS, label="Calls per Second", unit="calls/s", pooled=False),
    )
}

#: The types that a pool hands out, in the order they are shown.
POOL_TYPES: Final = tuple(t.name for t in LICENSE_TYPES.values() if t.pooled)


def check_type(name: str, *, pooled: bool = False) -> str:
    """Return `name` if it is a known license type (with `pooled`, one of the pool's).

    Raises LicenseError `unknown_license_type`.
    """
    known = POOL_TYPES if pooled else tuple(LICENSE_TYPES)
    if name not in known:
        raise LicenseError(
            "unknown_license_type",
            f"{name[:40]!r} is not a license type here; use one of {', '.join(known)}.",
        )
    return name


def check_count(value: object, what: str = "A count") -> int:
    """Return `value` if it is a whole number from 0 to MAX_COUNT.

    Raises LicenseError `bad_count` (a bool, a fraction, a negative or a huge number).
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise LicenseError(
            "bad_count", f"{what} is a whole number from 0 to {MAX_COUNT}, not {str(value)[:40]!r}."
        )
    return value


@dataclass(frozen=True, slots=True)
class Capacity:
    """An immutable count per license type; a type that is not named counts 0.

    `a + b`, `a - b` (never below 0), `min`, `max` and `<=` work per type.
    """

    _counts: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, counts: Mapping[str, int] | None = None, /, **more: int) -> Capacity:
        """Build a capacity from counts per type name.

        Raises LicenseError `unknown_license_type` or `bad_count`.
        """
        merged = {**(counts or {}), **more}
        checked = {check_type(k): check_count(v, f"{k}") for k, v in merged.items()}
        return cls(tuple((k, checked[k]) for k in LICENSE_TYPES if checked.get(k)))

    def get(self, name: str) -> int:
        """Return the count of one type (0 where it is not named)."""
        return dict(self._counts).get(name, 0)

    def to_dict(self) -> dict[str, int]:
        """Return the counts above 0, by type name."""
        return dict(self._counts)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield (type name, count) for every count above 0."""
        return iter(self._counts)

    def __bool__(self) -> bool:
        """Tell whether any count is above 0."""
        return bool(self._counts)

    @staticmethod
    def _above_zero(counts: Iterator[tuple[str, int]]) -> Capacity:
        return Capacity(tuple((k, v) for k, v in counts if v > 0))

    def __add__(self, other: Capacity) -> Capacity:
        """Add per type."""
        return self._above_zero((k, self.get(k) + other.get(k)) for k in LICENSE_TYPES)

    def __sub__(self, other: Capacity) -> Capacity:
        """Subtract per type, never below 0."""
        return self._above_zero((k, self.get(k) - other.get(k)) for k in LICENSE_TYPES)

    def min(self, other: Capacity) -> Capacity:
        """Return the smaller count of each type."""
        return self._above_zero((k, min(self.get(k), other.get(k))) for k in LICENSE_TYPES)

    def max(self, other: Capacity) -> Capacity:
        """Return the larger count of each type."""
        return self._above_zero((k, max(self.get(k), other.get(k))) for k in LICENSE_TYPES)

    def __le__(self, other: Capacity) -> bool:
        """Tell whether no type counts more here than in `other`."""
        return all(self.get(k) <= other.get(k) for k in LICENSE_TYPES)
