"""What an SNMPv3 message says of its sender before it is verified (RFC 3414, 2.4).

Only the few fields that decide whether it is worth verifying; all of them are covered by the
message's authentication, which the library checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_SEQUENCE, _INTEGER, _OCTETS = 0x30, 0x02, 0x04
_V3: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """The security parameters of a message."""

    #: The engine whose clock and keys count: the sender's for a trap, the receiver's otherwise.
    engine: bytes
    boots: int
    #: Seconds since that engine's start.
    time: int
    user: str


def is_v3(message: bytes) -> bool:
    """Tell whether a message claims to be SNMPv3."""
    try:
        _, body, _ = _part(message, 0, _SEQUENCE)
        _, version, _ = _part(body, 0, _INTEGER)
    except ValueError:
        return False
    return int.from_bytes(version, "big") == _V3


def sender(message: bytes) -> Sender:
    """Return what an SNMPv3 message says of its sender; raises ValueError."""
    _, body, _ = _part(message, 0, _SEQUENCE)
    at = 0
    for tag in (_INTEGER, _SEQUENCE):
        at, _, _ = _part(body, at, tag)
    _, wrapped, _ = _part(body, at, _OCTETS)
    _, fields, _ = _part(wrapped, 0, _SEQUENCE)
    at, engine, _ = _part(fields, 0, _OCTETS)
    at, boots, _ = _part(fields, at, _INTEGER)
    at, time, _ = _part(fields, at, _INTEGER)
    _, user, _ = _part(fields, at, _OCTETS)
    return Sender(
        engine=engine,
        boots=int.from_bytes(boots, "big"),
        time=int.from_bytes(time, "big"),
        user=user.decode(),
    )


def _part(data: bytes, at: int, tag: int) -> tuple[int, bytes, int]:
    """Return (where the next part begins, this part's content, its tag); raises ValueError."""
    if len(data) < at + 2 or data[at] != tag:
        raise ValueError("not the part that was expected")
    length, start = data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4 or len(data) < start + size:
            raise ValueError("no definite length")
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if len(data) < start + length:
        raise ValueError("cut short")
    return start + length, data[start : start + length], data[at]
