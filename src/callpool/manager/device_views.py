"""What operators see of devices and their units: all of them, one, or a page of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.errors import LicenseError
from callpool.manager.hitless_store import open_runs
from callpool.manager.ledger import ACTIVE
from callpool.manager.paging import Column, Page, Sorts, page_rows
from callpool.manager.pair_views import pair_shown
from callpool.manager.standing import is_reset, waits_for
from callpool.manager.store.tx import Row, Tx
from callpool.manager.tags import device_tag
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

_SORTS: Final[Sorts] = {
    "name": (Column("d.name", "name", str),),
    "tenant": (Column("t.name", "tenant", str), Column("d.name", "name", str)),
    "added_at": (Column("d.added_at", "added_at", float), Column("d.name", "name", str)),
}
#: What makes a list shorter, by the field of `DeviceQuery` that asks for it.
_FILTERS: Final = {
    "tenant": " AND d.tenant_id = (SELECT tenant_id FROM tenant WHERE name = :tenant)",
    "mode": " AND d.mode = :mode",
    "apply": " AND d.apply = :apply",
    "q": " AND (d.name LIKE :q ESCAPE '!' OR d.device_id IN (SELECT device_id FROM unit"
    " WHERE serial LIKE :q ESCAPE '!' AND state = 'active'))",
}
_STATUS: Final = {
    "locked": " AND d.device_id IN (SELECT device_id FROM unit WHERE locked IS NOT NULL"
    " AND state = 'active')",
    "released": " AND d.device_id IN (SELECT device_id FROM unit WHERE released"
    " AND locked IS NULL AND state = 'active')",
    "new": " AND d.device_id IN (SELECT device_id FROM unit WHERE public_key IS NULL"
    " AND locked IS NULL AND NOT released AND state = 'active')",
    "enrolled": " AND d.device_id NOT IN (SELECT device_id FROM unit WHERE locked IS NOT NULL"
    " AND state = 'active' UNION SELECT device_id FROM unit WHERE released AND state = 'active'"
    " UNION SELECT device_id FROM unit WHERE public_key IS NULL AND state = 'active')",
}
_LISTED: Final = (
    " FROM device d JOIN tenant t ON t.tenant_id = d.tenant_id WHERE d.removed_at IS NULL"
    " AND MINE(d.tenant_id)"
)


class DeviceQuery(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which devices, in which order."""

    #: A part of the device's name or of a serial number; upper and lower case are the same.
    q: str = ""
    tenant: str = ""
    mode: Literal["", "fixed", "none"] = ""
    apply: Literal["", "restart", "live"] = ""
    #: Of any of its units; `enrolled` of all of them.
    status: Literal["", "new", "enrolled", "locked", "released"] = ""
    sort: Literal["name", "-name", "tenant", "-tenant", "added_at", "-added_at"] = "name"
    #: Whether to count all that the filters leave.
    count: Literal["false", "true"] = "false"


def page(tx: Tx, now: float, asked: DeviceQuery) -> dict[str, Any]:
    """Return a page of devices; raises LicenseError `unknown_tenant`, `bad_cursor`."""
    if asked.tenant and not tx.value(
        "SELECT 1 FROM tenant WHERE name = :name AND MINE(tenant_id)", name=asked.tenant
    ):
        raise LicenseError("unknown_tenant", f"There is no tenant named {asked.tenant[:64]!r}.")
    given = {name: getattr(asked, name) for name in _FILTERS if getattr(asked, name)}
    if asked.q:
        given["q"] = f"%{asked.q.replace('!', '!!').replace('%', '!%').replace('_', '!_')}%"
    listed = _LISTED + "".join(_FILTERS[name] for name in given) + _STATUS.get(asked.status, "")
    rows, following = page_rows(
        tx,
        f"SELECT d.device_id, d.name, d.added_at, t.name AS tenant{listed}",
        _SORTS,
        asked,
        asked.sort,
        given,
    )
    ids = [r["device_id"] for r in rows]
    found, _ = devices(tx, now, ids)
    by_name = {d["name"]: d for d in found}
    total = tx.value(f"SELECT count(*){listed}", **given) if asked.count == "true" else None
    return {"devices": [by_name[r["name"]] for r in rows], "next": following, "total": total}


def device(tx: Tx, now: float, name: str) -> dict[str, Any]:
    """Return one device; raises LicenseError `unknown_device`."""
    row = tx.row(
        "SELECT device_id FROM device WHERE name = :name AND removed_at IS NULL"
        " AND MINE(tenant_id)",
        name=name,
    )
    if row is None:
        raise LicenseError("unknown_device", f"There is no device named {name[:64]!r}.")
    return devices(tx, now, [row["device_id"]])[0][0]


_UNITS: Final = (
    "SELECT u.*, d.name, d.apply, d.mode, d.removed_at, d.added_at, t.name AS tenant FROM unit u"
    " JOIN device d ON d.device_id = u.device_id JOIN tenant t ON t.tenant_id = d.tenant_id"
    " WHERE TRUE AND MINE(d.tenant_id)"
)
_THESE: Final = " AND u.device_id IN NUMBERS(:ids)"
_TARGETS: Final = "SELECT device_id, type, target FROM allocation WHERE TRUE"
_HELD: Final = (
    "SELECT h.serial, h.type, sum(h.granted) AS granted, sum(h.held) AS held FROM holding h"
    " WHERE h.since = 0"
)
_HELD_BY_THESE: Final = (
    " AND h.serial IN (SELECT u.serial FROM unit u WHERE u.device_id IN NUMBERS(:ids))"
)


def devices(
    tx: Tx, now: float, ids: Sequence[int] | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return devices by name, all or those with these numbers, and units that have left.

    The latter are out of the inventory and still hold something.
    """
    these: dict[str, Any] = {}
    units, allocated, holding = _UNITS, _TARGETS, _HELD
    if ids is not None:
        these = {"ids": msgspec.json.encode(list(ids)).decode()}
        units += _THESE
        allocated += " AND device_id IN NUMBERS(:ids)"
        holding += _HELD_BY_THESE
    held: dict[str, dict[str, tuple[int, int]]] = {}
    for r in tx.rows(holding + " GROUP BY h.serial, h.type", **these):
        held.setdefault(r["serial"], {})[r["type"]] = (r["granted"], r["held"])
    targets: dict[int, dict[str, int]] = {}
    for r in tx.rows(allocated, **these):
        targets.setdefault(r["device_id"], {})[r["type"]] = r["target"]
    found: dict[int, dict[str, Any]] = {}
    rows: dict[int, list[Row]] = {}
    leaving = []
    runs = {run.device_id: run for run in open_runs(tx)}
    for r in tx.rows(units + " ORDER BY d.name, u.role", **these):
        unit = _unit(r, held.get(r["serial"], {}), now)
        if unit["reclaim_waits_for"] and r["device_id"] in runs and r["leased"]:
            unit["reclaim_waits_for"] = "hitless"
        if r["state"] != ACTIVE or r["removed_at"] is not None:
            if held.get(r["serial"]):
                leaving.append(unit | {"device": r["name"]})
            continue
        mine = targets.get(r["device_id"], {})
        listed = found.setdefault(r["device_id"], _device(r, mine))
        listed["units"].append(unit)
        rows.setdefault(r["device_id"], []).append(r)
    windows = restart_windows(tx, now, None if ids is None else found)
    for device_id, listed in found.items():
        units_of = listed["units"]
        listed["restart_window"] = windows.get(device_id)
        listed["cost"] = len(units_of)
        listed["pair"] = pair_shown(rows[device_id], runs.get(device_id))
        listed["pending"] = any(u["pending"] for u in units_of)
        listed["short"] = {
            k: n - min(u["granted"][k] for u in units_of)
            for k, n in listed["allocation"].items()
            if any(u["granted"][k] < n for u in units_of)
        }
        serials = [u["serial"] for u in units_of]
        listed["etag"] = device_tag(listed, listed["allocation"], serials)
    return list(found.values()), leaving


def _device(r: Row, targets: dict[str, int]) -> dict[str, Any]:
    return {
        "name": r["name"],
        "tenant": r["tenant"],
        "apply": r["apply"],
        "mode": r["mode"],
        "added_at": r["added_at"],
        "allocation": {k: targets.get(k, 0) for k in POOL_TYPES},
        "units": [],
    }


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
