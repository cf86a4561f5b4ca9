"""The use that devices report: taken once, kept by minute, hour and day.

An hour is one row of a unit and license type. It carries its minutes in one value and a bit for
each minute that was taken, so a report that comes twice is counted once; the day is another row.
A report every five minutes so changes two rows of each type that is in use. Once a day the clock
prunes all units in order of serial number, a few at a time, those that fell silent too.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec

from callpool.licensing.capacity import LICENSE_TYPES, MAX_COUNT
from callpool.licensing.instant import SKEW_REFUSED
from callpool.licensing.usage import DAY, HOUR, MINUTE, Period, aligned, rolled
from callpool.manager.change import Change
from callpool.manager.settings import Settings
from callpool.manager.store.tx import Row, Tx
from callpool.wire.messages import UsageCount, UsageMinute

#: Units that are pruned at a time, and seconds between two times: 172,800 units a day.
_PRUNED: Final = 20
_PAUSE: Final = 10
#: The last serial number that was pruned in this round, and when the next units are to be.
_CURSOR: Final = "usage_pruned"
_NEXT: Final = "usage_prune_at"
#: Seconds that a tenant's hourly peaks are kept: the pages tell those of today.
PEAKS_KEPT: Final = 2 * DAY

#: A report: the minutes by license type and begin of the hour, by their number in it.
Hours = dict[tuple[str, int], dict[int, UsageCount]]
#: The minutes of an hour: number in it, peak, tenths of the mean, cap, true refusals, repeats,
#: admitted.
Detail = list[tuple[int, int, int, int, int, int, int]]

_COLUMNS: Final = "minutes, peak, total, cap, admitted, refused, repeated, worst"
_VALUES: Final = ":minutes, :peak, :total, :cap, :admitted, :refused, :repeated, :worst"
_NAMES: Final = tuple(_COLUMNS.split(", "))
_OF_ROWS: Final = ", ".join(f"r.{name}" for name in _NAMES)
_KINDS: Final = ", ".join(f"{name} {'real' if name == 'total' else 'integer'}" for name in _NAMES)
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
    hours = by_hour(minutes, change.now, settings)
    if not hours:
        return
    known = {
        (r["type"], r["at"]): r
        for r in change.tx.rows(
            "SELECT type, at, taken, detail, peak FROM usage_hour"
            " WHERE serial = :serial AND at IN NUMBERS(:hours)",
            serial=serial,
            hours=msgspec.json.encode(sorted({at for _, at in hours})).decode(),
        )
    }
    for (name, at), counts in hours.items():
        _take_hour(change.tx, serial, name, at, counts, known.get((name, at)))


def by_hour(minutes: Iterable[UsageMinute], now: float, settings: Settings) -> Hours:
    """Return a report by license type and hour, without what cannot be."""
    hours: Hours = {}
    oldest = now - settings.usage_hour_days * DAY
    for minute in minutes:
        if minute.at % MINUTE or not oldest <= minute.at <= now + SKEW_REFUSED:
            continue
        for name, count in minute.types.items():
            if name in LICENSE_TYPES and _possible(count):
                found = hours.setdefault((name, aligned(minute.at, HOUR)), {})
                found.setdefault((minute.at % HOUR) // MINUTE, count)
    return hours


def _possible(count: UsageCount) -> bool:
    return all(0 <= n <= MAX_COUNT for n in msgspec.structs.astuple(count))


def _take_hour(
    tx: Tx, serial: str, name: str, at: int, counts: dict[int, UsageCount], row: Row | None
) -> None:
    """Take the minutes of one hour beside its `row`."""
    found = _merged(at, counts, row)
    if found is None:
        return
    taken, detail, hour = found
    tx.run(
        f"INSERT INTO usage_hour AS old (serial, at, type, taken, detail, {_COLUMNS})"  # noqa: S608
        f" VALUES (:serial, :hour, :type, :taken, :detail, {_VALUES})"
        " ON CONFLICT (serial, at, type) DO UPDATE SET taken = excluded.taken,"
        f" detail = excluded.detail, {_ADDED}",
        serial=serial, hour=at, type=name, taken=taken, detail=detail,
        **_values(hour),
    )  # fmt: skip
    was = row["peak"] if row else 0
    if hour.peak > was:
        _raise_peak(tx, serial, name, at, was, hour.peak)
    day = aligned(at, DAY)
    tx.run(
        f"INSERT INTO usage_day AS old (serial, at, type, {_COLUMNS})"  # noqa: S608
        f" VALUES (:serial, :day, :type, {_VALUES})"
        f" ON CONFLICT (serial, at, type) DO UPDATE SET {_ADDED}",
        serial=serial, day=day, type=name, **_values(hour),
    )  # fmt: skip


def _merged(
    at: int, counts: dict[int, UsageCount], row: Row | None
) -> tuple[int, bytes, Period] | None:
    """Return bits and minutes of an hour with what is new, and its sum; None for nothing."""
    taken = row["taken"] if row else 0
    new = {number: count for number, count in counts.items() if not taken >> number & 1}
    if not new:
        return None
    detail = (_unpacked(row["detail"]) if row else {}) | new
    for number in new:
        taken |= 1 << number
    return taken, _packed(detail), _sum(at, new.values())


def take_many(change: Change, reports: dict[str, tuple[int, Hours]]) -> None:
    """Keep the reports of single units (not of a pair), {serial: (tenant, report)}, at once."""
    tx = change.tx
    asked = [
        {"serial": serial, "at": at, "type": name}
        for serial, (_, hours) in reports.items()
        for name, at in hours
    ]
    if not asked:
        return
    known = {
        (r["serial"], r["type"], r["at"]): r
        for r in tx.rows(
            "SELECT h.serial, h.type, h.at, h.taken, h.detail, h.peak"
            " FROM ROWS(:rows; serial text, at integer, type text) JOIN usage_hour h"
            " ON h.serial = r.serial AND h.at = r.at AND h.type = r.type",
            rows=_json(asked),
        )
    }
    taken: list[dict[str, Any]] = []
    days: dict[tuple[str, int, str], list[Period]] = {}
    peaks: dict[tuple[str, int, int], int] = {}
    for serial, (tenant, hours) in reports.items():
        for (name, at), counts in hours.items():
            row = known.get((serial, name, at))
            found = _merged(at, counts, row)
            if found is None:
                continue
            bits, detail, hour = found
            taken.append(
                {"serial": serial, "hour": at, "type": name, "taken": bits, "detail": detail.hex()}
                | _values(hour)
            )
            days.setdefault((serial, aligned(at, DAY), name), []).append(hour)
            more = hour.peak - (row["peak"] if row else 0)
            if more > 0:
                key = (name, at, tenant)
                peaks[key] = peaks.get(key, 0) + more
    _write_many(change, taken, days, peaks)


def _write_many(
    change: Change,
    taken: list[dict[str, Any]],
    days: dict[tuple[str, int, str], list[Period]],
    peaks: dict[tuple[str, int, int], int],
) -> None:
    tx = change.tx
    if taken:
        tx.later(
            f"INSERT INTO usage_hour AS old (serial, at, type, taken, detail, {_COLUMNS})"  # noqa: S608
            f" SELECT r.serial, r.hour, r.type, r.taken, decode(r.detail, 'hex'), {_OF_ROWS}"
            f" FROM ROWS(:rows; serial text, hour integer, type text, taken integer, detail text,"
            f" {_KINDS}) WHERE TRUE"
            " ON CONFLICT (serial, at, type) DO UPDATE SET taken = excluded.taken,"
            f" detail = excluded.detail, {_ADDED}",
            rows=_json(taken),
        )
        tx.later(
            f"INSERT INTO usage_day AS old (serial, at, type, {_COLUMNS})"  # noqa: S608
            f" SELECT r.serial, r.day, r.type, {_OF_ROWS}"
            f" FROM ROWS(:rows; serial text, day integer, type text, {_KINDS}) WHERE TRUE"
            f" ON CONFLICT (serial, at, type) DO UPDATE SET {_ADDED}",
            rows=_json(
                [
                    {"serial": serial, "day": day, "type": name}
                    | _values(hours[0] if len(hours) == 1 else rolled(hours, DAY)[0])
                    for (serial, day, name), hours in days.items()
                ]
            ),
        )
    if peaks:
        # In order: two managers that do this at once wait for each other one way only.
        tx.later(
            "INSERT INTO tenant_peak AS old (type, at, tenant_id, peak)"
            " SELECT r.type, r.at, r.tenant, r.more FROM ROWS(:rows; type text, at integer,"
            " tenant integer, more integer) WHERE TRUE ORDER BY r.type, r.at, r.tenant"
            " ON CONFLICT (type, at, tenant_id) DO UPDATE SET peak = old.peak + excluded.peak",
            rows=_json(
                [
                    {"type": name, "at": at, "tenant": tenant, "more": more}
                    for (name, at, tenant), more in peaks.items()
                ]
            ),
        )
        for name in {name for name, _, _ in peaks}:
            tx.later(
                "DELETE FROM tenant_peak WHERE type = :type AND at < :old",
                type=name,
                old=change.now - PEAKS_KEPT,
            )


def _json(rows: list[dict[str, Any]]) -> str:
    return msgspec.json.encode(rows).decode()


def _raise_peak(tx: Tx, serial: str, name: str, at: int, was: int, peak: int) -> None:
    """Keep what a tenant's devices can have had in use at once: their peaks of one hour, added up.

    Of a pair the higher counts, since calls are on one unit at a time (docs/usage.md).
    """
    owner = tx.row(
        "SELECT d.tenant_id, coalesce((SELECT max(h.peak) FROM unit o JOIN usage_hour h"
        "  ON h.serial = o.serial AND h.at = :at AND h.type = :type WHERE"
        "  o.device_id = u.device_id AND o.serial <> u.serial AND o.state = 'active'), 0) AS other"
        " FROM unit u JOIN device d ON d.device_id = u.device_id WHERE u.serial = :serial",
        serial=serial, at=at, type=name,
    )  # fmt: skip
    if owner is None or peak <= owner["other"]:
        return
    tx.run(
        "INSERT INTO tenant_peak AS old (type, at, tenant_id, peak)"
        " VALUES (:type, :at, :tenant, :more)"
        " ON CONFLICT (type, at, tenant_id) DO UPDATE SET peak = old.peak + excluded.peak",
        type=name, at=at, tenant=owner["tenant_id"], more=peak - max(was, owner["other"]),
    )  # fmt: skip
    tx.run(
        "DELETE FROM tenant_peak WHERE type = :type AND tenant_id = :tenant AND at < :old",
        type=name, tenant=owner["tenant_id"], old=at - PEAKS_KEPT,
    )  # fmt: skip


def _values(period: Period) -> dict[str, float]:
    return {name: getattr(period, name) for name in _NAMES}


def _sum(hour: int, counts: Collection[UsageCount]) -> Period:
    """Return what `rolled` makes of an hour's minutes, in one go."""
    return Period(
        at=hour,
        minutes=len(counts),
        peak=max(c.peak for c in counts),
        total=sum(c.mean for c in counts),
        cap=min(c.cap for c in counts),
        admitted=sum(c.admitted for c in counts),
        refused=sum(c.refused for c in counts),
        repeated=sum(c.repeated for c in counts),
        worst=max(c.refused for c in counts),
    )


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


def due(change: Change) -> bool:
    """Tell whether units are to be pruned, or the clock was set back by more than a day."""
    at = float(change.tx.meta(_NEXT) or 0)
    return at <= change.now or at > change.now + DAY


def sweep(change: Change, settings: Settings) -> None:
    """Drop what is older than it is to be kept, of the units that are next in order."""
    tx, now = change.tx, change.now
    serials = [
        r["serial"]
        for r in tx.rows(
            "SELECT serial FROM unit WHERE serial > :last ORDER BY serial LIMIT :most",
            last=tx.meta(_CURSOR), most=_PRUNED,
        )
    ]  # fmt: skip
    more = len(serials) == _PRUNED
    tx.set_meta(_CURSOR, serials[-1] if more else "")
    tx.set_meta(_NEXT, str(now + _PAUSE if more else aligned(now, DAY) + DAY))
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
