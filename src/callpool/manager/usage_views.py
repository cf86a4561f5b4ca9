"""Answers about use: its course, who can spare, and who is short."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

import msgspec

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.errors import LicenseError
from callpool.licensing.usage import (
    DAY,
    HOUR,
    MINUTE,
    SHORT,
    SPARE,
    Holding,
    Period,
    advise,
    aligned,
    percentile,
    rolled,
    trend,
    words,
)
from callpool.manager.store.tx import Row, Tx
from callpool.manager.usage import minutes_of

#: Steps that a course can be asked for in, seconds.
STEPS: Final = {"minute": MINUTE, "hour": HOUR, "day": DAY}
#: Points in one answer at most.
MOST_POINTS: Final = 50_000
#: Devices in one answer of advice at most.
MOST_DEVICES: Final = 2_000


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked about; an empty name stands for all. Seconds since 1970, `end` excluded."""

    start: float
    end: float
    tenant: str = ""
    device: str = ""
    type: str = ""
    #: minute, hour or day.
    by: str = "hour"
    #: Only devices whose names come after this one.
    after: str = ""


_FROM: Final = (
    " FROM device d JOIN tenant t ON t.tenant_id = d.tenant_id"
    " JOIN unit u ON u.device_id = d.device_id AND u.state = 'active'"
)
_WHERE: Final = (
    " WHERE d.removed_at IS NULL AND (:tenant = '' OR t.name = :tenant)"
    " AND (:device = '' OR d.name = :device) AND d.name > :after AND MINE(d.tenant_id)"
)


def check_names(tx: Tx, query: Query) -> None:
    """Refuse a tenant or device that is not there: `unknown_tenant`, `unknown_device`."""
    if query.tenant and not tx.row(
        "SELECT 1 FROM tenant WHERE name = :name AND MINE(tenant_id)", name=query.tenant
    ):
        raise LicenseError("unknown_tenant", f"There is no tenant named {query.tenant[:64]!r}.")
    if query.device and not tx.row(
        "SELECT 1 FROM device WHERE name = :name AND removed_at IS NULL AND MINE(tenant_id)",
        name=query.device,
    ):
        raise LicenseError("unknown_device", f"There is no device named {query.device[:64]!r}.")


Found = tuple[str, str, str, list[Period]]


def _periods(tx: Tx, query: Query, last: str, most: int) -> Iterator[Found]:
    """Yield (tenant, device, type, periods) in order; the units of a pair are one device."""
    table = "usage_day" if query.by == "day" else "usage_hour"
    # An hour that has begun before is asked for too: minutes of it may lie within.
    start = aligned(query.start, HOUR if query.by == "minute" else STEPS[query.by])
    rows = tx.rows(
        f"SELECT t.name AS tenant, d.name AS device, p.*{_FROM}"
        f" JOIN {table} p ON p.serial = u.serial{_WHERE} AND (:last = '' OR d.name <= :last)"
        " AND p.at >= :start AND p.at < :end AND (:type = '' OR p.type = :type)"
        " ORDER BY d.name, p.type, p.at, u.role LIMIT :most",
        tenant=query.tenant, device=query.device, type=query.type, after=query.after,
        last=last, start=start, end=query.end, most=most + 1,
    )  # fmt: skip
    if len(rows) > most:
        raise LicenseError(
            "bad_request", "That is too much for one answer: ask for a tenant or a shorter time."
        )
    for (device, name), found in groupby(rows, key=lambda r: (r["device"], r["type"])):
        units: dict[int, Period] = {}
        tenant = ""
        for row in found:
            tenant = row["tenant"]
            parts = minutes_of(row["at"], row["detail"]) if query.by == "minute" else [_period(row)]
            for part in parts:
                if aligned(query.start, STEPS[query.by]) <= part.at < query.end:
                    before = units.get(part.at)
                    units[part.at] = before.beside(part) if before else part
        yield tenant, device, name, [units[at] for at in sorted(units)]


def _period(row: Row) -> Period:
    return Period(
        at=row["at"], minutes=row["minutes"], peak=row["peak"], total=row["total"],
        cap=row["cap"], admitted=row["admitted"], refused=row["refused"],
        repeated=row["repeated"], worst=row["worst"],
    )  # fmt: skip


def _point(p: Period) -> dict[str, Any]:
    point = asdict(p) | {"mean": round(p.mean, 2)}
    del point["total"]
    return point


def course(tx: Tx, query: Query) -> dict[str, Any]:
    """Return the course of use.

    Raises LicenseError `unknown_tenant`, `unknown_device`, `bad_request` (too many points).
    """
    check_names(tx, query)
    most = MOST_POINTS // 60 if query.by == "minute" else MOST_POINTS
    return {
        "from": query.start,
        "to": query.end,
        "by": query.by,
        "series": [
            {"tenant": tenant, "device": device, "type": name, "points": [_point(p) for p in found]}
            for tenant, device, name, found in _periods(tx, query, "", most)
        ],
    }


def advice(tx: Tx, query: Query, now: float) -> dict[str, Any]:
    """Return what the use from `query.start` to `query.end` says, per device and tenant.

    Raises LicenseError `unknown_tenant`, `unknown_device`.
    """
    check_names(tx, query)
    known, following = _devices(tx, query)
    names = [query.type] if query.type else list(POOL_TYPES)
    hours: dict[tuple[str, str], list[Period]] = {}
    if known:
        asked = msgspec.structs.replace(query, by="hour")
        rows = _periods(tx, asked, max(known), MOST_DEVICES * 60 * 24 * 2)
        hours = {(device, name): found for _, device, name, found in rows}
    days = round((query.end - query.start) / DAY, 2)
    found = [
        _judge(device, name, hours.get((device["name"], name), []), now=now, days=days)
        for device in known.values()
        for name in names
    ]
    return {
        "from": query.start,
        "to": query.end,
        "tenants": _tenants(found, hours, now),
        "devices": found,
        "can_spare": [_brief(f) for f in found if f["verdict"] == SPARE],
        "is_short": [_brief(f) for f in found if f["verdict"] == SHORT],
        "next": following,
    }


def _devices(tx: Tx, query: Query) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the devices asked about, and the name to go on after ('' at the end)."""
    out: dict[str, dict[str, Any]] = {}
    rows = tx.rows(
        f"SELECT d.device_id, d.name, t.name AS tenant, u.report{_FROM}{_WHERE}"
        " ORDER BY d.name, u.role LIMIT :most",
        tenant=query.tenant, device=query.device, after=query.after, most=2 * MOST_DEVICES + 2,
    )  # fmt: skip
    for row in rows:
        if row["name"] not in out and len(out) == MOST_DEVICES:
            return out, max(out)
        device = out.setdefault(
            row["name"],
            {"id": row["device_id"], "name": row["name"], "tenant": row["tenant"], "reports": []},
        )
        device["reports"].append(msgspec.json.decode(row["report"]) if row["report"] else {})
    targets = {
        (r["device_id"], r["type"]): r["target"] for r in tx.rows("SELECT * FROM allocation")
    }
    for device in out.values():
        device["allocation"] = {k: targets.get((device["id"], k), 0) for k in POOL_TYPES}
    return out, ""


def _judge(
    device: dict[str, Any], name: str, hours: list[Period], *, now: float, days: float
) -> dict[str, Any]:
    reports = device["reports"]
    maxima = [r["maximum"][name] for r in reports if name in r.get("maximum", {})]
    holding = Holding(
        allocated=device["allocation"][name],
        # Of a pair, what both units are sure to have.
        local=min((r.get("local", {}).get(name, 0) for r in reports), default=0),
        maximum=min(maxima) if maxima else None,
        cost=len(reports),
    )
    said = advise(hours, holding, now=now)
    day = ""
    if said.at_cap_since is not None:
        day = datetime.fromtimestamp(said.at_cap_since, UTC).strftime("%Y-%m-%d %H:00")
    return {
        "tenant": device["tenant"],
        "device": device["name"],
        "type": name,
        "now": max((r.get("in_use", {}).get(name, 0) for r in reports), default=0),
        **asdict(holding),
        **asdict(said),
        "answer": words(said, holding, days=days, day=day),
    }


def _brief(found: dict[str, Any]) -> dict[str, Any]:
    keys = ("tenant", "device", "type", "spare", "frees", "needs", "allocate", "costs", "answer")
    return {key: found[key] for key in keys}


def _tenants(
    found: list[dict[str, Any]], hours: dict[tuple[str, str], list[Period]], now: float
) -> list[dict[str, Any]]:
    """Return each tenant's sums. Its peak adds the peaks of its devices within the same hour.

    They need not have come at the same minute, so it is the most that it can have been.
    """
    out = []
    order = sorted(found, key=lambda f: (f["tenant"], POOL_TYPES.index(f["type"])))
    for (tenant, name), group in groupby(order, key=lambda f: (f["tenant"], f["type"])):
        mine = list(group)
        peaks: dict[int, int] = {}
        for f in mine:
            for hour in hours.get((f["device"], name), ()):
                peaks[hour.at] = peaks.get(hour.at, 0) + hour.peak
        days = rolled((Period(at=at, peak=n) for at, n in peaks.items()), DAY)
        out.append(
            {
                "tenant": tenant,
                "type": name,
                "devices": len(mine),
                "allocated": sum(f["allocated"] * f["cost"] for f in mine),
                "now": sum(f["now"] for f in mine),
                "peak": max(peaks.values(), default=0),
                "p95": percentile([n for n in peaks.values() if n], 0.95),
                "refused": sum(f["refused"] for f in mine),
                "repeated": sum(f["repeated"] for f in mine),
                "trend": trend([(d.at / DAY, float(d.peak)) for d in days if d.at + DAY <= now]),
                "frees": sum(f["frees"] for f in mine),
                "costs": sum(f["costs"] for f in mine),
            }
        )
    return out
