"""What operators see: the pool, its orders, its journal, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from callpool.licensing.capacity import LICENSE_TYPES, POOL_TYPES
from callpool.licensing.errors import LicenseError
from callpool.manager import device_views, queue, restored
from callpool.manager.audit import ACCESS_CAUSES
from callpool.manager.paging import MOST, Column, Number, Page, page_rows
from callpool.manager.store.tx import Row, Tx
from callpool.manager.tags import tenant_tag


def pool(tx: Tx, now: float, ids: Sequence[int] | None = None) -> dict[str, Any]:
    """Return the pool at `now` (manager's time): types, tenants, devices, units.

    Of devices all, or those with the numbers `ids`.
    A tenant's operator sees what is his tenants': of `types` their shares.
    """
    devices, leaving = device_views.devices(tx, now, ids)
    return {
        "time": now,
        "product_key": tx.meta("product_key") if tx.scope.whole else "",
        "restored": restored.shown(tx),
        "types": _types(tx, now) if tx.scope.whole else _own_types(tx),
        "tenants": tenants(tx),
        "devices": devices,
        "leaving": leaving,
        "requests": requests(tx),
    }


def whole_pool(tx: Tx, now: float) -> dict[str, Any]:
    """Return the pool with the first MOST of its devices by name, and how many there are in all."""
    total = int(tx.value("SELECT count(*) FROM device_now n WHERE TRUE AND MINE(n.tenant_id)"))
    ids = None
    if total > MOST:
        listed = tx.rows(
            "SELECT n.device_id FROM device_now n WHERE TRUE AND MINE(n.tenant_id)"
            " ORDER BY n.name LIMIT :most",
            most=MOST,
        )
        left = tx.rows(
            "SELECT DISTINCT u.device_id FROM unit u JOIN device d ON d.device_id = u.device_id"
            " WHERE u.state <> 'active' AND MINE(d.tenant_id)"
            " AND EXISTS (SELECT 1 FROM holding h WHERE h.serial = u.serial AND h.held > 0)"
            " LIMIT :most",
            most=MOST,
        )
        ids = [r["device_id"] for r in (*listed, *left)]
    return {**pool(tx, now, ids), "devices_total": total}


def _types(tx: Tx, now: float) -> dict[str, Any]:
    found = {
        r["type"]: r
        for r in tx.rows(
            "SELECT l.type, sum(l.count) AS purchased, sum(l.held) AS held,"
            " (SELECT coalesce(sum(h.held - h.granted), 0) FROM holding h"
            "   WHERE h.type = l.type AND h.since = 0 AND h.held > h.granted) AS reclaiming"
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


class TenantQuery(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tenants, in which order."""

    #: A part of the name.
    q: str = ""
    sort: Literal["name", "-name"] = "name"


class OrderQuery(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which orders, in which order."""

    sort: Literal["ends", "-ends", "order_id", "-order_id"] = "-ends"


class RequestQuery(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests; the longest waiting first."""

    tenant: str = ""
    state: Literal["", "waiting", "moving"] = ""


class JournalQuery(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which lines of the journal; the newest first."""

    who: str = ""
    cause: str = ""
    #: Only what concerns this tenant.
    tenant: str = ""
    #: Only entries before this one.
    before: Number = 2**62


def requests(tx: Tx) -> list[dict[str, Any]]:
    """Return the requests that wait, the one that waits longest first."""
    return [_request(r) for r in queue.requests(tx, mine=True)]


def request_page(tx: Tx, asked: RequestQuery) -> dict[str, Any]:
    """Return a page of the requests that wait; raises LicenseError `bad_cursor`."""
    rows, following = page_rows(
        tx,
        queue.REQUESTS + " AND (:tenant = '' OR t.name = :tenant)"
        " AND (:state = '' OR r.state = :state)",
        {"asked": (Column("r.request_id", "request_id", int),)},
        asked,
        "asked",
        {"tenant": asked.tenant, "state": asked.state},
    )
    return {"requests": [_request(queue.read(r)) for r in rows], "next": following}


def _request(r: queue.Request) -> dict[str, Any]:
    return {
        "device": r.device,
        "tenant": r.tenant,
        "wanted": r.wanted,
        "asked_at": r.asked_at,
        "who": r.who,
        "state": r.state,
        "why": r.why,
    }


_SHARES: Final = (
    "SELECT t.name, s.type, s.share, s.held,"
    " (SELECT coalesce(sum(h.held - h.granted), 0) FROM holding h WHERE h.since = 0"
    "   AND h.held > h.granted AND h.tenant_id = s.tenant_id AND h.type = s.type) AS reclaiming"
    " FROM tenant t JOIN tenant_share s ON s.tenant_id = t.tenant_id"
    " WHERE TRUE AND MINE(t.tenant_id)"
)


def tenants(tx: Tx, names: list[str] | None = None) -> list[dict[str, Any]]:
    """Return the tenants, all or those with these names, with their shares.

    A share of None is bounded by the pool alone. `free` is what a share has left, beside what is
    still being taken back (`reclaiming`).
    """
    these, given = "", {}
    if names is not None:
        these = " AND t.name IN TEXTS(:names)"
        given = {"names": msgspec.json.encode(names).decode()}
    out: dict[str, dict[str, Any]] = {}
    for r in tx.rows(f"{_SHARES}{these} ORDER BY t.name, s.type", **given):
        tenant = out.setdefault(r["name"], {"name": r["name"], "shares": {}})
        tenant["shares"][r["type"]] = {
            "share": r["share"],
            "held": r["held"],
            "free": None if r["share"] is None else r["share"] - r["held"],
            "reclaiming": r["reclaiming"],
        }
    for tenant in out.values():
        shares = {kind: row["share"] for kind, row in tenant["shares"].items()}
        tenant["etag"] = tenant_tag(tenant["name"], shares)
    return list(out.values())


def tenant(tx: Tx, name: str) -> dict[str, Any]:
    """Return one tenant; raises LicenseError `unknown_tenant`."""
    found = tenants(tx, [name])
    if not found:
        raise LicenseError("unknown_tenant", f"There is no tenant named {name[:64]!r}.")
    return found[0]


def tenant_page(tx: Tx, asked: TenantQuery) -> dict[str, Any]:
    """Return a page of tenants; raises LicenseError `bad_cursor`."""
    rows, following = page_rows(
        tx,
        "SELECT t.name FROM tenant t WHERE TRUE AND MINE(t.tenant_id)"
        " AND (:q = '' OR instr(lower(t.name), lower(:q)) > 0)",
        {"name": (Column("t.name", "name", str),)},
        asked,
        asked.sort,
        {"q": asked.q},
    )
    return {"tenants": tenants(tx, [r["name"] for r in rows]), "next": following}


def order_page(tx: Tx, now: float, asked: OrderQuery) -> dict[str, Any]:
    """Return a page of the imported orders; raises LicenseError `bad_cursor`."""
    rows, following = page_rows(
        tx,
        "SELECT o.order_id, o.starts, o.ends, o.imported_at FROM purchase_order o WHERE TRUE",
        {
            "ends": (Column("o.ends", "ends", float), Column("o.order_id", "order_id", str)),
            "order_id": (Column("o.order_id", "order_id", str),),
        },
        asked,
        asked.sort,
        {},
    )
    out: dict[str, dict[str, Any]] = {
        r["order_id"]: {
            "order_id": r["order_id"],
            "starts": r["starts"],
            "ends": r["ends"],
            "imported_at": r["imported_at"],
            "in_date": r["starts"] <= now < r["ends"],
            "counts": {},
            "held": {},
        }
        for r in rows
    }
    for r in tx.rows(
        "SELECT * FROM order_line WHERE order_id IN TEXTS(:ids)",
        ids=msgspec.json.encode(list(out)).decode(),
    ):
        out[r["order_id"]]["counts"][r["type"]] = r["count"]
        out[r["order_id"]]["held"][r["type"]] = r["held"]
    return {"orders": list(out.values()), "next": following}


def token_page(tx: Tx, now: float, asked: Page) -> dict[str, Any]:
    """Return a page of registration tokens, the newest first, without their secrets.

    Raises LicenseError `bad_cursor`.
    """
    rows, following = page_rows(
        tx,
        "SELECT r.*, t.name AS tenant FROM registration_token r"
        " LEFT JOIN tenant t ON t.tenant_id = r.tenant_id WHERE TRUE AND MINE(r.tenant_id)",
        {"id": (Column("r.token_id", "token_id", int),)},
        asked,
        "-id",
        {},
    )
    found = [
        {
            "id": r["token_id"],
            "uses_left": r["uses_left"],
            "expires": r["expires"],
            "revoked": bool(r["revoked"]),
            "serial": r["serial"],
            "tenant": r["tenant"],
            "usable": not r["revoked"] and r["uses_left"] > 0 and r["expires"] > now,
        }
        for r in rows
    ]
    return {"tokens": found, "next": following}


def journal_page(tx: Tx, asked: JournalQuery) -> dict[str, Any]:
    """Return a page of the pool's journal, the newest entry first.

    Who signs in, and what is done at the authority, is the audit log's. A tenant's operator sees
    what concerns his tenants, and of what was asked for elsewhere not who it was.
    Raises LicenseError `bad_cursor`.
    """
    who = "CASE WHEN elsewhere AND :narrow THEN 'elsewhere' ELSE who END"
    rows, following = page_rows(
        tx,
        f"SELECT entry, at, cause, detail, {who} AS who,"  # noqa: S608  constants only
        " CASE WHEN elsewhere AND :narrow THEN '' ELSE source END AS source"
        " FROM journal WHERE entry < :before AND cause NOT IN TEXTS(:access)"
        " AND substr(cause, 1, 6) <> 'smart_' AND MINE(tenant_id)"
        f" AND (:cause = '' OR cause = :cause) AND (:who = '' OR {who} = :who)"
        " AND (:tenant = '' OR tenant_id = (SELECT tenant_id FROM tenant WHERE name = :tenant"
        " AND MINE(tenant_id)))",
        {"entry": (Column("entry", "entry", int),)},
        asked,
        "-entry",
        {
            "access": msgspec.json.encode(ACCESS_CAUSES).decode(),
            "narrow": not tx.scope.whole,
            "before": asked.before,
            "cause": asked.cause,
            "who": asked.who,
            "tenant": asked.tenant,
        },
    )
    found = [
        {
            "entry": r["entry"],
            "at": r["at"],
            "who": r["who"],
            "source": r["source"],
            "cause": r["cause"],
            "detail": msgspec.json.decode(r["detail"]),
        }
        for r in rows
    ]
    return {"journal": found, "next": following}
