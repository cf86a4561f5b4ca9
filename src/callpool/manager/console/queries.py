"""What pages ask the database: each question reads what it shows, never the whole pool.

Times are seconds since 1970 by the manager's clock. Every statement says whose rows it may see
(`MINE`), as the API's do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from callpool.licensing.capacity import LICENSE_TYPES, POOL_TYPES
from callpool.licensing.usage import DAY, aligned
from callpool.manager.own_alarms import LEASE_SHARE, silent_after
from callpool.manager.settings import Settings
from callpool.manager.store.tx import Row, Tx

#: How far ahead the overview looks, seconds.
SOON: Final = 60 * DAY
#: Problems that the overview lists; the pool page has them all.
LISTED: Final = 12

#: What the clock makes of a device, beside what stands in the database.
_SILENT: Final = "n.device_id IN (SELECT device_id FROM device_heard WHERE last_contact <= :silent)"
#: When the first lease ends of those that grant something: `n.lease_end` tells its hour alone.
_ENDS: Final = (
    "(SELECT min(u.lease_end) FROM unit u WHERE u.device_id = n.device_id AND u.state = 'active'"
    " AND EXISTS (SELECT 1 FROM holding h WHERE h.serial = u.serial AND h.since = 0"
    " AND h.granted > 0))"
)
_BY_CLOCK: Final = (
    f"CASE WHEN n.lease_end <= :now AND {_ENDS} <= :now THEN '095:lease_ended'"
    f" WHEN n.lease_end <= :ending AND {_ENDS} <= :ending THEN '090:lease_ends'"
    f" WHEN {_SILENT} THEN '070:silent' ELSE '' END"
)
WORST: Final = f"max(n.worst, {_BY_CLOCK})"
#: What needs somebody: an echo of what goes its way by itself (below 020) does not.
ATTENTION: Final = (
    f"(n.worst >= '020' OR (n.lease_end <= :ending AND {_ENDS} <= :ending) OR {_SILENT})"
)
#: Beside `device_now n`: when a device was heard last.
HEARD: Final = " JOIN device_heard k ON k.device_id = n.device_id"


def clock(now: float, settings: Settings) -> dict[str, float]:
    """Return what WORST and ATTENTION compare with, as the manager's own alarms do."""
    within = min(DAY, settings.lease_seconds * LEASE_SHARE)
    return {"now": now, "silent": now - silent_after(settings), "ending": now + within}


def attention(tx: Tx, at: Mapping[str, float], limit: int = LISTED) -> list[Row]:
    """Return the devices that need somebody, the gravest first."""
    return tx.rows(
        "SELECT f.*, t.name AS tenant,"  # noqa: S608  made of constants above
        " EXISTS (SELECT 1 FROM request r WHERE r.device_id = f.device_id) AS waits"
        f" FROM (SELECT n.device_id, n.name, n.tenant_id, {WORST} AS worst, k.last_contact,"
        f" n.lease_end, n.serials, n.alarms FROM device_now n{HEARD} WHERE {ATTENTION}"
        " AND MINE(n.tenant_id) ORDER BY worst DESC, n.name LIMIT :limit) f"
        " JOIN tenant t ON t.tenant_id = f.tenant_id ORDER BY f.worst DESC, f.name",
        **at,
        limit=limit,
    )


def attention_count(tx: Tx, at: Mapping[str, float]) -> int:
    """Return how many devices need somebody."""
    return int(
        tx.value(
            f"SELECT count(*) FROM device_now n WHERE {ATTENTION} AND MINE(n.tenant_id)",  # noqa: S608
            ending=at["ending"],
            silent=at["silent"],
        )
    )


def device_count(tx: Tx) -> int:
    """Return how many devices are listed."""
    return int(tx.value("SELECT count(*) FROM device_now n WHERE TRUE AND MINE(n.tenant_id)"))


def strangers(tx: Tx) -> list[Row]:
    """Return serial numbers that are not listed any more and have called since."""
    return tx.rows(
        "SELECT u.serial, u.last_contact, d.name, t.name AS tenant FROM unit u"
        " JOIN device d ON d.device_id = u.device_id JOIN tenant t ON t.tenant_id = d.tenant_id"
        " WHERE u.state = 'removed' AND u.last_contact > d.removed_at AND MINE(d.tenant_id)"
        " ORDER BY u.last_contact DESC LIMIT 20"
    )


def totals(tx: Tx, now: float) -> list[dict[str, Any]]:
    """Return per license type of the pool: purchased, held, reclaiming, free, in use, peak.

    In use is what devices reported last; `peak` adds their peaks within one hour of today (UTC),
    so it is the most that it can have been. A tenant's operator sees his tenants' shares;
    `purchased` and `free` are None where the pool alone bounds one of them.
    """
    out = []
    for name in POOL_TYPES:
        held = _supply(tx, now, name) if tx.scope.whole else _shares(tx, name)
        use = _use(tx, now, name)
        reclaiming = tx.value(
            "SELECT coalesce(sum(held - granted), 0) FROM holding"
            " WHERE type = :type AND held > granted AND since = 0 AND MINE(tenant_id)",
            type=name,
        )
        out.append(
            {
                "type": name,
                "label": LICENSE_TYPES[name].label,
                "unit": LICENSE_TYPES[name].unit,
                **held,
                "reclaiming": int(reclaiming),
                **use,
            }
        )
    return out


def _supply(tx: Tx, now: float, name: str) -> dict[str, Any]:
    row = tx.row(
        "SELECT coalesce(sum(l.count), 0) AS purchased, coalesce(sum(l.held), 0) AS held"
        " FROM order_line l JOIN purchase_order o ON o.order_id = l.order_id"
        " WHERE l.type = :type AND o.starts <= :now AND o.ends > :now",
        type=name,
        now=now,
    )
    assert row is not None  # an aggregate has one row
    return {**row, "free": row["purchased"] - row["held"]}


def _shares(tx: Tx, name: str) -> dict[str, Any]:
    row = tx.row(
        "SELECT CASE WHEN count(share) = count(*) THEN coalesce(sum(share), 0) END AS purchased,"
        " coalesce(sum(held), 0) AS held FROM tenant_share WHERE type = :type AND MINE(tenant_id)",
        type=name,
    )
    assert row is not None  # an aggregate has one row
    bought = row["purchased"]
    return {**row, "free": None if bought is None else bought - row["held"]}


def _use(tx: Tx, now: float, name: str) -> dict[str, int]:
    row = tx.row(
        "SELECT coalesce(sum(in_use), 0) AS in_use, coalesce(sum(pool_in_use), 0) AS pool_in_use"
        " FROM device_count WHERE type = :type AND MINE(tenant_id)",
        type=name,
    )
    assert row is not None  # an aggregate has one row
    peak = tx.value(
        "SELECT max(peak) FROM (SELECT sum(peak) AS peak FROM tenant_peak WHERE type = :type"
        " AND at >= :day AND MINE(tenant_id) GROUP BY at) hours",
        type=name,
        day=aligned(now, DAY),
    )
    in_use, of_pool = int(row["in_use"]), int(row["pool_in_use"])
    return {"in_use": in_use, "pool_in_use": of_pool, "peak": max(int(peak or 0), in_use)}


def alarm_counts(tx: Tx) -> list[dict[str, Any]]:
    """Return what devices report: code, how many devices, and the first of them by name."""
    found: dict[str, dict[str, Any]] = {}
    for r in tx.rows(
        "SELECT n.alarms, count(*) AS devices, min(n.name) AS first FROM device_now n"
        " WHERE n.alarms > '' AND MINE(n.tenant_id) GROUP BY n.alarms"
    ):
        for code in r["alarms"].split():
            of = found.setdefault(code, {"code": code, "devices": 0, "first": r["first"]})
            of["devices"] += r["devices"]
            of["first"] = min(of["first"], r["first"])
    return sorted(found.values(), key=lambda of: (-of["devices"], of["code"]))


def worst_alarms(tx: Tx, limit: int = 8) -> list[Row]:
    """Return alarms that are active and not expected, the gravest first."""
    return tx.rows(
        "SELECT a.*, d.name AS device FROM alarm a LEFT JOIN device d"
        " ON d.device_id = a.device_id WHERE a.expected = ''"
        " ORDER BY a.acknowledged_at IS NOT NULL, a.severity DESC, a.alarm_id DESC LIMIT :limit",
        limit=limit,
    )


def soon(tx: Tx, now: float, *, supply: bool, smart: bool) -> list[dict[str, Any]]:
    """Return what ends or begins within SOON, the nearest first: what, when, where to look."""
    found: list[dict[str, Any]] = []
    until = now + SOON
    for r in tx.rows(
        f"SELECT s.name, s.at FROM (SELECT n.name, {_ENDS} AS at FROM device_now n"  # noqa: S608
        " WHERE n.lease_end > :now - 3600 AND n.lease_end < :until AND MINE(n.tenant_id)) AS s"
        " WHERE s.at > :now AND s.at < :until ORDER BY s.at LIMIT 5",
        now=now,
        until=now + 2 * DAY,
    ):
        text = f"The lease of {r['name']} ends unless it calls"
        found.append({"at": r["at"], "text": text, "link": f"/devices/{r['name']}#lease"})
    if supply:
        found += _orders_soon(tx, now, until)
    if smart:
        found += _smart_soon(tx, now, until)
    return sorted(found, key=lambda f: f["at"])[:20]


def _orders_soon(tx: Tx, now: float, until: float) -> list[dict[str, Any]]:
    rows = tx.rows(
        "SELECT o.order_id, o.starts, o.ends, json_group_object(l.type, l.count) AS counts"
        " FROM purchase_order o JOIN order_line l ON l.order_id = o.order_id"
        " WHERE (o.ends > :now AND o.ends < :until) OR (o.starts > :now AND o.starts < :until)"
        " GROUP BY o.order_id ORDER BY o.ends LIMIT 20",
        now=now,
        until=until,
    )
    out = []
    for r in rows:
        begins = r["starts"] > now
        said = ", ".join(
            f"{n} {LICENSE_TYPES[k].label}" for k, n in msgspec.json.decode(r["counts"]).items()
        )
        out.append(
            {
                "at": r["starts"] if begins else r["ends"],
                "text": f"Order {r['order_id']} {'begins' if begins else 'ends'}: {said}",
                "link": "/pool/orders",
            }
        )
    return out


def _smart_soon(tx: Tx, now: float, until: float) -> list[dict[str, Any]]:
    out = [
        {
            "at": r["ends"],
            "text": f"Order {r['order_id']} of {r['account']}/{r['virtual_account']} ends: "
            f"{r['count']} {r['tag']}",
            "link": "/smart",
        }
        for r in tx.rows(
            "SELECT * FROM entitlement JOIN smart_order USING (order_id)"
            " JOIN virtual_account_name USING (va_id)"
            " WHERE count > 0 AND ends > :now AND ends < :until ORDER BY ends LIMIT 20",
            now=now,
            until=until,
        )
    ]
    for column, what in (
        ("i.certificate_until", "The ID certificate of {} ends unless it renews"),
        ("a.expires_at", "The authorization of {} expires unless it renews"),
    ):
        out += [
            {
                "at": r["at"],
                "text": what.format(f"{r['instance_id']} ({r['serial']})"),
                "link": f"/smart/instances#{r['instance_id']}",
            }
            for r in tx.rows(
                f"SELECT i.instance_id, i.serial, {column} AS at FROM product_instance i"  # noqa: S608  one of two constants
                " LEFT JOIN smart_authorization a ON a.instance_id = i.instance_id"
                f" WHERE i.state = 'registered' AND {column} > :now AND {column} < :until"
                " ORDER BY at LIMIT 5",
                now=now,
                until=until,
            )
        ]
    return out
