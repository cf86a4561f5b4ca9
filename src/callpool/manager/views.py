"""What operators see: the pool, its orders, its journal, as plain values for JSON."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from callpool.licensing.capacity import LICENSE_TYPES, POOL_TYPES
from callpool.manager import queue, restored
from callpool.manager.audit import ACCESS_CAUSES
from callpool.manager.ledger import ACTIVE
from callpool.manager.standing import is_reset, waits_for
from callpool.manager.store.database import Row, Tx
from callpool.manager.windows import shown as restart_windows

#: Seconds after which a unit that has not called cannot be reached: it polls every 12 hours.
SILENT: Final = 13 * 3_600.0
#: What of a device's report is shown as it came.
_REPORTED = (
    "actual",
    "in_use",
    "peak",
    "local",
    "maximum",
    "refused",
    "alarms",
    "software",
    "mode",
)


def pool(tx: Tx, now: float) -> dict[str, Any]:
    """Return the pool at `now` (manager's time): types, tenants, devices, units.

    A tenant's operator sees what is his tenants': of `types` their shares.
    """
    held = _holdings(tx)
    targets: dict[int, dict[str, int]] = {}
    for r in tx.rows("SELECT device_id, type, target FROM allocation"):
        targets.setdefault(r["device_id"], {})[r["type"]] = r["target"]
    devices: dict[int, dict[str, Any]] = {}
    leaving = []
    rows = tx.rows(
        "SELECT u.*, d.name, d.apply, d.mode, d.removed_at, t.name AS tenant FROM unit u"
        " JOIN device d ON d.device_id = u.device_id JOIN tenant t ON t.tenant_id = d.tenant_id"
        " WHERE TRUE AND MINE(d.tenant_id) ORDER BY d.name, u.role"
    )
    for r in rows:
        unit = _unit(r, held.get(r["serial"], {}), now)
        if r["state"] != ACTIVE or r["removed_at"] is not None:
            if held.get(r["serial"]):
                leaving.append(unit | {"device": r["name"]})
            continue
        device = devices.setdefault(
            r["device_id"],
            {
                "name": r["name"],
                "tenant": r["tenant"],
                "apply": r["apply"],
                "mode": r["mode"],
                "allocation": {k: targets.get(r["device_id"], {}).get(k, 0) for k in POOL_TYPES},
                "units": [],
            },
        )
        device["units"].append(unit)
    windows = restart_windows(tx, now)
    for device_id, device in devices.items():
        units = device["units"]
        device["restart_window"] = windows.get(device_id)
        device["cost"] = len(units)
        device["pending"] = any(u["pending"] for u in units)
        device["short"] = {
            k: n - min(u["granted"][k] for u in units)
            for k, n in device["allocation"].items()
            if any(u["granted"][k] < n for u in units)
        }
    return {
        "time": now,
        "product_key": tx.meta("product_key") if tx.scope.whole else "",
        "restored": restored.shown(tx),
        "types": _types(tx, now) if tx.scope.whole else _own_types(tx),
        "tenants": tenants(tx),
        "devices": list(devices.values()),
        "leaving": leaving,
        "requests": requests(tx),
    }


def _holdings(tx: Tx) -> dict[str, dict[str, tuple[int, int]]]:
    out: dict[str, dict[str, tuple[int, int]]] = {}
    for r in tx.rows(
        "SELECT serial, type, sum(granted) AS granted, sum(held) AS held FROM holding"
        " WHERE since = 0 GROUP BY serial, type"
    ):
        out.setdefault(r["serial"], {})[r["type"]] = (r["granted"], r["held"])
    return out


def _types(tx: Tx, now: float) -> dict[str, Any]:
    found = {
        r["type"]: r
        for r in tx.rows(
            "SELECT l.type, sum(l.count) AS purchased, sum(l.held) AS held,"
            " (SELECT coalesce(sum(h.held - h.granted), 0) FROM holding h"
            "   WHERE h.type = l.type AND h.since = 0) AS reclaiming"
            " FROM order_line l JOIN purchase_order o ON o.order_id = l.order_id"
            " WHERE o.starts <= :now AND o.ends > :now GROUP BY l.type",
            now=now,
        )
    }
    out = {}
    for name in POOL_TYPES:
        row: Row = found.get(name, {"purchased": 0, "held": 0, "reclaiming": 0})
        out[name] = {
            "label": LICENSE_TYPES[name].label,
            "purchased": row["purchased"],
            "held": row["held"],
            "free": row["purchased"] - row["held"],
            "reclaiming": row["reclaiming"],
        }
    return out


def _own_types(tx: Tx) -> dict[str, Any]:
    """Return per type what a tenant's operator has: None where the pool alone bounds a tenant."""
    own = tenants(tx)
    out = {}
    for name in POOL_TYPES:
        shares = [t["shares"][name] for t in own]
        bounded = all(s["share"] is not None for s in shares)
        out[name] = {
            "label": LICENSE_TYPES[name].label,
            "purchased": sum(s["share"] for s in shares) if bounded else None,
            "held": sum(s["held"] for s in shares),
            "free": sum(s["free"] for s in shares) if bounded else None,
            "reclaiming": sum(s["reclaiming"] for s in shares),
        }
    return out


def _unit(r: Row, held: dict[str, tuple[int, int]], now: float) -> dict[str, Any]:
    report = msgspec.json.decode(r["report"]) if r["report"] else {}
    status = "new"
    if r["locked"]:
        status = "locked"
    elif r["released"]:
        status = "released"
    elif is_reset(r):
        status = "reset"
    elif r["public_key"]:
        status = "enrolled"
    remote = dict.fromkeys(POOL_TYPES, 0)
    for part in msgspec.json.decode(r["grant_content"]):
        if part["since"] <= now < part["until"]:
            for name, count in part["counts"].items():
                remote[name] = remote.get(name, 0) + count
    return {
        "serial": r["serial"],
        "role": r["role"],
        "status": status,
        "locked": r["locked"],
        "remote": remote,
        "granted": {k: held.get(k, (0, 0))[0] for k in POOL_TYPES},
        "held": {k: held.get(k, (0, 0))[1] for k in POOL_TYPES},
        "reclaiming": {k: more - n for k, (n, more) in held.items() if more > n},
        "reclaim_waits_for": _reclaim_waits_for(r, now)
        if any(more > n for n, more in held.values())
        else None,
        "grant_version": r["grant_version"],
        "remote_version": report.get("remote_version", 0),
        "applied_version": report.get("applied_version", 0),
        "pending": report.get("applied_version", 0) != r["grant_version"]
        and (r["grant_version"] > 0),
        "restart_waiting": r["restart_number"] > report.get("restart_done", 0),
        "leased": bool(r["leased"]),
        "lease_end": r["lease_end"],
        "last_contact": r["last_contact"],
        "skew": report["time"] - r["last_contact"] if report and r["last_contact"] else None,
        **{name: report.get(name) for name in _REPORTED},
    }


def _reclaim_waits_for(r: Row, now: float) -> str:
    """Return what a unit's share waits for: as `waits_for`, or `lease` where it cannot be reached.

    That is a unit that is locked or released, or has missed its poll: what it holds is free
    once its lease has ended.
    """
    found = waits_for(r)
    silent = r["last_contact"] is None or now - r["last_contact"] > SILENT
    gone = r["locked"] or r["released"] or silent
    return "lease" if gone and r["leased"] else found


def requests(tx: Tx) -> list[dict[str, Any]]:
    """Return the requests that wait, the one that waits longest first."""
    return [
        {
            "device": r.device,
            "tenant": r.tenant,
            "wanted": r.wanted,
            "asked_at": r.asked_at,
            "who": r.who,
            "state": r.state,
            "why": r.why,
        }
        for r in queue.requests(tx, mine=True)
    ]


def tenants(tx: Tx) -> list[dict[str, Any]]:
    """Return the tenants with their shares (None: bounded by the pool alone).

    `free` is what a share has left, beside what is still being taken back (`reclaiming`).
    """
    out: dict[str, dict[str, Any]] = {}
    for r in tx.rows(
        "SELECT t.name, s.type, s.share, s.held,"
        " (SELECT coalesce(sum(h.held - h.granted), 0) FROM holding h WHERE h.since = 0"
        "   AND h.tenant_id = s.tenant_id AND h.type = s.type) AS reclaiming"
        " FROM tenant t JOIN tenant_share s ON s.tenant_id = t.tenant_id"
        " WHERE TRUE AND MINE(t.tenant_id) ORDER BY t.name, s.type"
    ):
        tenant = out.setdefault(r["name"], {"name": r["name"], "shares": {}})
        tenant["shares"][r["type"]] = {
            "share": r["share"],
            "held": r["held"],
            "free": None if r["share"] is None else r["share"] - r["held"],
            "reclaiming": r["reclaiming"],
        }
    return list(out.values())


def orders(tx: Tx, now: float) -> list[dict[str, Any]]:
    """Return the imported orders, the one that ends last first."""
    out: dict[str, dict[str, Any]] = {}
    for r in tx.rows(
        "SELECT o.order_id, o.starts, o.ends, o.imported_at, l.type, l.count, l.held"
        " FROM purchase_order o JOIN order_line l ON l.order_id = o.order_id"
        " ORDER BY o.ends DESC, o.order_id"
    ):
        order = out.setdefault(
            r["order_id"],
            {
                "order_id": r["order_id"],
                "starts": r["starts"],
                "ends": r["ends"],
                "imported_at": r["imported_at"],
                "in_date": r["starts"] <= now < r["ends"],
                "counts": {},
                "held": {},
            },
        )
        order["counts"][r["type"]] = r["count"]
        order["held"][r["type"]] = r["held"]
    return list(out.values())


def tokens(tx: Tx, now: float) -> list[dict[str, Any]]:
    """Return registration tokens, without their secrets."""
    return [
        {
            "id": r["token_id"],
            "uses_left": r["uses_left"],
            "expires": r["expires"],
            "revoked": bool(r["revoked"]),
            "serial": r["serial"],
            "tenant": r["tenant"],
            "usable": not r["revoked"] and r["uses_left"] > 0 and r["expires"] > now,
        }
        for r in tx.rows(
            "SELECT r.*, t.name AS tenant FROM registration_token r"
            " LEFT JOIN tenant t ON t.tenant_id = r.tenant_id"
            " WHERE TRUE AND MINE(r.tenant_id) ORDER BY token_id DESC LIMIT 500"
        )
    ]


def journal(tx: Tx, limit: int, before: int | None) -> list[dict[str, Any]]:
    """Return journal entries of the pool, the newest first, those before entry `before`.

    Who signs in is the audit log's. A tenant's operator sees what concerns his tenants, and of
    what was asked for elsewhere not who it was.
    """
    return [
        {
            "entry": r["entry"],
            "at": r["at"],
            "who": r["who"],
            "source": r["source"],
            "cause": r["cause"],
            "detail": msgspec.json.decode(r["detail"]),
        }
        for r in tx.rows(
            "SELECT entry, at, cause, detail,"
            " CASE WHEN elsewhere AND :narrow THEN 'elsewhere' ELSE who END AS who,"
            " CASE WHEN elsewhere AND :narrow THEN '' ELSE source END AS source"
            " FROM journal WHERE entry < :before AND cause NOT IN (SELECT value FROM"
            " json_each(:access)) AND substr(cause, 1, 6) <> 'smart_' AND MINE(tenant_id)"
            " ORDER BY entry DESC LIMIT :limit",
            before=before if before is not None else 2**62,
            narrow=not tx.scope.whole,
            access=msgspec.json.encode(ACCESS_CAUSES).decode(),
            limit=limit,
        )
    ]
