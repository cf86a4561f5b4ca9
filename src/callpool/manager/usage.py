"""The use that devices report: taken once, kept by minute, hour and day.

An hour is one row of a unit and license type. It carries its minutes in one value and a bit for
each minute that was taken, so a report that comes twice is counted once; the day is another row.
A report every five minutes so changes two rows of each type that is in use. Once a day each
unit's report also prunes the next two units in order of serial number: no sweep is needed, and
units that fell silent are pruned too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

import msgspec

from callpool.licensing.capacity import LICENSE_TYPES, MAX_COUNT
from callpool.licensing.instant import SKEW_REFUSED
from callpool.licensing.usage import DAY, HOUR, MINUTE, Period, aligned, rolled
from callpool.manager.change import Change
from callpool.manager.settings import Settings
from callpool.manager.store.database import Tx
from callpool.wire.messages import UsageCount, UsageMinute

#: Units that one day's first report of any unit prunes.
_PRUNED: Final = 2
_CURSOR: Final = "usage_pruned"

#: The minutes of an hour: number in it, peak, tenths of the mean, cap, true refusals, repeats,
#: admitted.
Detail = list[tuple[int, int, int, int, int, int, int]]

_COLUMNS: Final = "minutes, peak, total, cap, admitted, refused, repeated, worst"
_VALUES: Final = ":minutes, :peak, :total, :cap, :admitted, :refused, :repeated, :worst"
_ADDED: Final = (
    "minutes = old.minutes + excluded.minutes, peak = max(old.peak, excluded.peak),"
    " total = old.total + excluded.total, cap = min(old.cap, excluded.cap),"
    " admitted = old.admitted + excluded.admitted, refused = old.refused + excluded.refused,"
    " repeated = old.repeated + excluded.repeated, worst = max(old.worst, excluded.worst)"
)


def take_usage(
    change: Change, serial: str, minutes: Iterable[UsageMinute], settings: Settings
) -> None:
    """Keep a unit's report. A minute that is known, or cannot be, is passed over.

    It never raises for what a device says: a report of use must not cost it its lease.
    """
    hours: dict[tuple[str, int], dict[int, UsageCount]] = {}
    oldest = change.now - settings.usage_hour_days * DAY
    for minute in minutes:
        if minute.at % MINUTE or not oldest <= minute.at <= change.now + SKEW_REFUSED:
            continue
        for name, count in minute.types.items():
            if name in LICENSE_TYPES and _possible(count):
                found = hours.setdefault((name, aligned(minute.at, HOUR)), {})
                found.setdefault((minute.at % HOUR) // MINUTE, count)
    new_day = False
    for (name, at), counts in hours.items():
        new_day |= _take_hour(change.tx, serial, name, at, counts)
    if new_day:
        _prune(change, settings)


def _possible(count: UsageCount) -> bool:
    return all(0 <= n <= MAX_COUNT for n in msgspec.structs.astuple(count))


def _take_hour(tx: Tx, serial: str, name: str, at: int, counts: dict[int, UsageCount]) -> bool:
    """Take the minutes of one hour; return whether they begin a new day of this unit."""
    row = tx.row(
        "SELECT taken, detail FROM usage_hour WHERE serial = :serial AND at = :at AND type = :type",
        serial=serial, at=at, type=name,
    )  # fmt: skip
    taken = row["taken"] if row else 0
    new = {number: count for number, count in counts.items() if not taken >> number & 1}
    if not new:
        return False
    detail = (_unpacked(row["detail"]) if row else {}) | new
    for number in new:
        taken |= 1 << number
    hour = rolled((_minute(at, number, count) for number, count in new.items()), HOUR)[0]
    tx.run(
        f"INSERT INTO usage_hour AS old (serial, at, type, taken, detail, {_COLUMNS})"  # noqa: S608
        f" VALUES (:serial, :hour, :type, :taken, :detail, {_VALUES})"
        " ON CONFLICT (serial, at, type) DO UPDATE SET taken = excluded.taken,"
        f" detail = excluded.detail, {_ADDED}",
        serial=serial, hour=at, type=name, taken=taken, detail=_packed(detail),
        **_values(hour),
    )  # fmt: skip
    day = aligned(at, DAY)
    fresh = row is None and not tx.row(
        "SELECT 1 FROM usage_day WHERE serial = :serial AND at = :at", serial=serial, at=day
    )
    tx.run(
        f"INSERT INTO usage_day AS old (serial, at, type, {_COLUMNS})"  # noqa: S608
        f" VALUES (:serial, :day, :type, {_VALUES})"
        f" ON CONFLICT (serial, at, type) DO UPDATE SET {_ADDED}",
        serial=serial, day=day, type=name, **_values(hour),
    )  # fmt: skip
    return fresh


def _values(period: Period) -> dict[str, float]:
    return {name.strip(): getattr(period, name.strip()) for name in _COLUMNS.split(",")}


def _minute(hour: int, number: int, c: UsageCount) -> Period:
    return Period(
        at=hour + number * MINUTE, peak=c.peak, total=c.mean, cap=c.cap, admitted=c.admitted,
        refused=c.refused, repeated=c.repeated, worst=c.refused,
    )  # fmt: skip


def _packed(counts: dict[int, UsageCount]) -> bytes:
    # Small enough for SQLite to keep it in the row: an overflow page would take 4 KiB an hour.
    detail = [
        (number, c.peak, round(c.mean * 10), c.cap, c.refused, c.repeated, c.admitted)
        for number, c in sorted(counts.items())
    ]
    return zlib.compress(msgspec.msgpack.encode(detail), 1)


def _unpacked(value: bytes | None) -> dict[int, UsageCount]:
    if not value:
        return {}
    return {
        number: UsageCount(peak, mean / 10, *others)
        for number, peak, mean, *others in msgspec.msgpack.decode(
            zlib.decompress(value), type=Detail
        )
    }


def minutes_of(hour: int, value: bytes | None) -> list[Period]:
    """Return the minutes that an hour still carries, in order."""
    return [_minute(hour, number, count) for number, count in _unpacked(value).items()]


def _prune(change: Change, settings: Settings) -> None:
    """Drop what is older than it is to be kept, of the units that are next in order."""
    tx, now = change.tx, change.now
    serials = [
        r["serial"]
        for r in tx.rows(
            "SELECT serial FROM unit WHERE serial > :last ORDER BY serial LIMIT :most",
            last=tx.meta(_CURSOR), most=_PRUNED,
        )
    ]  # fmt: skip
    for serial in serials:
        tx.run(
            "UPDATE usage_hour SET detail = NULL WHERE serial = :serial AND at < :limit"
            " AND detail IS NOT NULL",
            serial=serial, limit=now - settings.usage_minute_days * DAY,
        )  # fmt: skip
        for table, days in (
            ("usage_hour", settings.usage_hour_days),
            ("usage_day", settings.usage_day_days),
        ):
            tx.run(
                f"DELETE FROM {table} WHERE serial = :serial AND at < :limit",  # noqa: S608
                serial=serial, limit=now - days * DAY,
            )  # fmt: skip
    tx.set_meta(_CURSOR, serials[-1] if len(serials) == _PRUNED else "")
