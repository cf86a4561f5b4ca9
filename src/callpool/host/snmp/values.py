"""What SNMP carries: OIDs, values, and objects in lexicographic order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pysnmp.proto.rfc1902 import OctetString

Oid = tuple[int, ...]
#: An SNMP value, or what works it out when it is asked for.
Value = Any

#: Our own arc: RFC 5612 keeps its number for documentation.
OWN: Final[Oid] = (1, 3, 6, 1, 4, 1, 32473, 1)
#: The arc of the pool's vendor.
VENDOR: Final[Oid] = (1, 3, 6, 1, 4, 1, 5003)


class View:
    """Objects in lexicographic order, as they were at one moment."""

    def __init__(self, values: Mapping[Oid, Value]) -> None:
        """Hold `values` by OID."""
        self._values = dict(values)
        self._order = sorted(self._values)
        self._parents = {oid[:-1] for oid in self._order}

    def get(self, oid: Oid) -> Value | None:
        """Return the value at `oid`, None where there is none."""
        found = self._values.get(oid)
        return found() if isinstance(found, Live) else found

    def next_after(self, oid: Oid) -> Oid | None:
        """Return the first OID after `oid`, None at the end."""
        at = bisect_right(self._order, oid)
        return self._order[at] if at < len(self._order) else None

    def is_object(self, oid: Oid) -> bool:
        """Tell whether an object has instances beside `oid`."""
        return oid[:-1] in self._parents


class Live:
    """A value that is worked out when it is asked for."""

    def __init__(self, work: Callable[[], Value]) -> None:
        """Ask `work` for it."""
        self._work = work

    def __call__(self) -> Value:
        """Return the value of now."""
        return self._work()


def text(value: str, most: int = 255) -> Value:
    """Return an OCTET STRING in UTF-8 of at most `most` octets, cut between characters."""
    return OctetString(value.encode()[:most].decode(errors="ignore").encode())


def date_and_time(at: float) -> Value:
    """Return DateAndTime (RFC 2579) of seconds since 1970, in UTC."""
    t = datetime.fromtimestamp(at, UTC)
    clock = (t.month, t.day, t.hour, t.minute, t.second, t.microsecond // 100_000)
    return OctetString(t.year.to_bytes(2, "big") + bytes(clock) + b"+\0\0")
