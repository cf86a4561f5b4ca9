"""Reads what a device sends or lists: notifications and rows of the active table.

A notification is known by `PREFIX.2.0.N`; the prefix can be changed on the vendor's devices, so
any prefix of an enterprise is taken beside those that are named. Values are plain: int, bytes,
or an OID as a tuple. Nothing here raises for what was sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import msgspec

from callpool.licensing.alarm_feed import NO_NUMBER, Heard, is_managers
from callpool.licensing.alarm_table import OWN_TRAPS, VENDOR_TRAPS, EventType, Severity
from callpool.licensing.alarm_words import LAST_UNIQUE, SOURCE
from callpool.licensing.manager_alarm_table import ALL_DEFINITIONS

Oid = tuple[int, ...]
Plain = int | bytes | Oid | None
Binds = Sequence[tuple[Oid, Plain]]

TRAP_OID: Final[Oid] = (1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0)
COLD_START: Final[Oid] = (1, 3, 6, 1, 6, 3, 1, 1, 5, 1)
#: The prefix of the vendor's notifications unless it was changed on the device.
PREFIX: Final[Oid] = (1, 3, 6, 1, 4, 1, 5003, 9, 10, 1, 21)
#: AcAlarm's active table.
ACTIVE: Final[Oid] = (1, 3, 6, 1, 4, 1, 5003, 11, 1, 1, 1, 1)

_ENTERPRISES: Final[Oid] = (1, 3, 6, 1, 4, 1)
_OWN: Final[Oid] = tuple(int(n) for n in OWN_TRAPS.split("."))
_MOST_NUMBER: Final = 32_767


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """One notification, as far as it concerns us."""

    #: coldStart: the sender has begun anew.
    cold_start: bool = False
    #: The unit that it names; empty where it names none.
    serial: str = ""
    #: The event of an alarm; None for coldStart.
    heard: Heard | None = None


def oid_of(text: str) -> Oid:
    """Read a dotted OID; raises ValueError."""
    return tuple(int(part) for part in text.strip(".").split("."))


def canonical(oid: Oid, prefixes: Iterable[Oid]) -> str:
    """Return the OID of an alarm by the vendor's own prefix or in our arc; empty for no alarm."""
    if oid[:-1] == _OWN:
        name = f"{OWN_TRAPS}.{oid[-1]}"
        return "" if is_managers(name) else name
    named = any(oid[:-1] == (*prefix, 2, 0) for prefix in prefixes)
    enterprise = oid[:6] == _ENTERPRISES and len(oid) > 9 and oid[-3:-1] == (2, 0)
    if (named or enterprise) and 0 < oid[-1] <= _MOST_NUMBER:
        return f"{VENDOR_TRAPS}.{oid[-1]}"
    return ""


def read(binds: Binds, prefixes: Sequence[Oid], now: float) -> Notification | None:
    """Return what a notification says, None for one that is not about an alarm of ours.

    `now` (seconds since 1970) stands in for a time that the sender does not tell.
    """
    oid = next((value for name, value in binds if name == TRAP_OID), None)
    if not isinstance(oid, tuple) or not oid:
        return None
    if oid == COLD_START:
        return Notification(cold_start=True)
    known = canonical(oid, prefixes)
    if not known:
        return None
    values: dict[int, Plain] = {}
    for arc in {*prefixes, PREFIX, oid[:-3]}:
        for name, value in binds:
            if name[: len(arc) + 1] == (*arc, 1) and len(name) in (len(arc) + 2, len(arc) + 3):
                values.setdefault(name[len(arc) + 1], value)
    heard = _heard(
        known,
        {
            "source": values.get(3), "severity": values.get(4), "short": values.get(2),
            "type": values.get(6), "cause": values.get(7), "at": values.get(11),
        },
        (values.get(8), values.get(9), values.get(10)),
        unique=values.get(5),
        now=now,
    )  # fmt: skip
    return None if heard is None else Notification(serial=_text(values.get(16)), heard=heard)


def read_table(found: Mapping[Oid, Plain], prefixes: Sequence[Oid], now: float) -> list[Heard]:
    """Return the rows of an active table that are alarms of ours."""
    rows: dict[int, dict[int, Plain]] = {}
    for oid, value in found.items():
        rest = oid[len(ACTIVE) :]
        if len(rest) == 2:
            rows.setdefault(rest[1], {})[rest[0]] = value
    listed = []
    for row in rows.values():
        oid_value = row.get(3)
        known = canonical(oid_value, prefixes) if isinstance(oid_value, tuple) else ""
        if not known:
            continue
        heard = _heard(
            known,
            {
                "source": row.get(7), "severity": row.get(8), "short": row.get(6),
                "type": row.get(9), "cause": row.get(10), "at": row.get(4),
            },
            (row.get(11), row.get(12), row.get(13)),
            unique=row.get(1),
            now=now,
        )  # fmt: skip
        if heard is not None and heard.severity is not Severity.CLEARED:
            listed.append(heard)
    return listed


def _heard(
    oid: str,
    values: Mapping[str, Plain],
    info: tuple[Plain, Plain, Plain],
    *,
    unique: Plain,
    now: float,
) -> Heard | None:
    severity, kind, cause = values["severity"], values["type"], values["cause"]
    if not isinstance(severity, int) or not 0 <= severity <= Severity.CRITICAL:
        return None
    more = tuple(_text(i) for i in info)
    codes = tuple(more[0].split(",")) if more[0] else ()
    # callpool's own: AdditionalInfo1 holds the conditions, 2 the sentence.
    own = bool(codes) and codes[0] in ALL_DEFINITIONS and ALL_DEFINITIONS[codes[0]].oid == oid
    short = _text(values["short"])
    return Heard(
        oid=oid,
        about=_text(values["source"]) or SOURCE,
        severity=Severity(severity),
        short=short,
        text=more[1] if own and more[1] else short,
        event_type=EventType(kind)
        if isinstance(kind, int) and 0 <= kind <= EventType.ENVIRONMENTAL
        else EventType.OTHER,
        cause=cause if isinstance(cause, int) and 0 <= cause <= _MOST_NUMBER else 0,
        info=(more[0], more[1], more[2]),
        codes=codes if own else (),
        at=_time(values["at"], now),
        unique=unique % (LAST_UNIQUE + 1) if isinstance(unique, int) and unique >= 0 else NO_NUMBER,
    )


def _text(value: Plain) -> str:
    if not isinstance(value, bytes):
        return ""
    plain = value.decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in plain).strip()


def _time(value: Plain, now: float) -> float:
    """Return DateAndTime (RFC 2579) in seconds since 1970; without a zone it is taken for UTC."""
    if not isinstance(value, bytes) or len(value) not in (8, 11):
        return now
    zone: timezone = UTC
    try:
        if len(value) == 11:
            offset = timedelta(hours=value[9], minutes=value[10])
            zone = timezone(-offset if value[8:9] == b"-" else offset)
        year = int.from_bytes(value[:2], "big")
        month, day, hour, minute, second, tenth = value[2:8]
        whole = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
        return whole.timestamp() + tenth / 10
    except (ValueError, OverflowError):
        return now
