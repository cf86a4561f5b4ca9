"""The list of devices: filtered, sorted and paged in the database, then shown as the API does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.errors import LicenseError
from callpool.licensing.usage import DAY
from callpool.manager import device_views, queue
from callpool.manager.console import attention
from callpool.manager.console.queries import ATTENTION, HEARD, WORST
from callpool.manager.paging import Column, Page, Sorts, page_rows
from callpool.manager.store.tx import Tx

_NAME: Final = Column("n.name", "name", str)
SORTS: Final[Sorts] = {
    "name": (_NAME,),
    "tenant": (Column("t.name", "tenant", str), _NAME),
    "worst": (Column(WORST, "worst", str), _NAME),
    "contact": (Column("coalesce(k.last_contact, 0.0)", "contact", float), _NAME),
    **{
        # Ties in the order of an index, so that none of them is sorted.
        name: (Column(f"c.{name}", name, int), Column("c.device_id", "device_id", int))
        for name in ("granted", "local", "actual", "in_use")
    },
}
#: What can be asked for by `show`, and the words for it.
SHOWS: Final = {
    "": "all devices",
    "attention": "that need attention",
    "pending": "that wait for a restart",
    "reclaiming": "that have to give back",
    "waiting": "with a request that waits",
    "short": "with less than allocated",
}
_SHOWN: Final = {
    "": "",
    "attention": f" AND {ATTENTION}",
    "pending": " AND n.worst LIKE '____restart%'",
    "reclaiming": " AND n.device_id IN (SELECT u.device_id FROM holding h JOIN unit u"
    " ON u.serial = h.serial WHERE h.held > h.granted AND h.since = 0)",
    "waiting": " AND n.device_id IN (SELECT device_id FROM request)",
    "short": " AND n.worst LIKE '____short'",
}


class DeviceQuery(Page, frozen=True, kw_only=True):
    """Which devices, in which order; what is empty stands for all."""

    q: str = ""
    tenant: str = ""
    show: Literal["", "attention", "pending", "reclaiming", "waiting", "short"] = ""
    mode: Literal["", "fixed", "none"] = ""
    #: Devices that report this alarm.
    alarm: str = ""
    sort: Literal["name", "tenant", "worst", "contact", "granted", "local", "actual", "in_use"] = (
        "name"
    )
    #: The license type whose count is sorted by.
    type: str = POOL_TYPES[0]
    down: Literal["", "1"] = ""
    #: The device whose allocation is being changed in place.
    edit: str = ""


def page(tx: Tx, at: Mapping[str, float], asked: DeviceQuery) -> dict[str, Any]:
    """Return a page of devices, how many there are in all, and the next page's cursor.

    `at` is `queries.clock` of now.

    Raises LicenseError `unknown_tenant`, `bad_cursor`.
    """
    if asked.tenant and not tx.row(
        "SELECT 1 FROM tenant WHERE name = :name AND MINE(tenant_id)", name=asked.tenant
    ):
        raise LicenseError("unknown_tenant", f"There is no tenant named {asked.tenant[:64]!r}.")
    counted = SORTS[asked.sort][0].name.startswith("c.")
    where, values = _where(asked)
    tables = f"device_now n{HEARD} JOIN tenant t ON t.tenant_id = n.tenant_id"
    given: dict[str, Any] = dict(values)
    columns = f"n.device_id, n.name, t.name AS tenant, {WORST} AS worst, k.last_contact"
    columns += ", coalesce(k.last_contact, 0.0) AS contact"
    if counted:
        tables += " JOIN device_count c ON c.device_id = n.device_id AND c.type = :type"
        columns += f", {SORTS[asked.sort][0].name} AS {asked.sort}"
        given["type"] = asked.type
    rows, following = page_rows(
        tx,
        f"SELECT {columns} FROM {tables} WHERE TRUE{where}",  # noqa: S608  made of constants
        SORTS,
        asked,
        f"-{asked.sort}" if asked.down else asked.sort,
        {**given, **at},
    )
    total = tx.value(
        f"SELECT count(*) FROM device_now n WHERE TRUE{where}",  # noqa: S608  made of constants
        **values,
        **{name: time for name, time in at.items() if f":{name}" in where},
    )
    return {
        "rows": shown(tx, at["now"], [dict(r) for r in rows]),
        "next": following,
        "total": int(total),
    }


def _where(asked: DeviceQuery) -> tuple[str, dict[str, Any]]:
    where, values = " AND MINE(n.tenant_id)", {}
    where += _SHOWN[asked.show]
    if asked.tenant:
        where += " AND n.tenant_id = (SELECT tenant_id FROM tenant WHERE name = :tenant)"
        values["tenant"] = asked.tenant
    if asked.mode:
        where += " AND n.mode = :mode"
        values["mode"] = asked.mode
    if asked.alarm:
        where += " AND n.alarms LIKE :alarm ESCAPE '!'"
        values["alarm"] = f"% {_plain(asked.alarm)} %"
    if asked.q:
        where += " AND (n.name LIKE :q ESCAPE '!' OR n.serials LIKE :q ESCAPE '!')"
        values["q"] = f"%{_plain(asked.q)}%"
    return where, values


def _plain(text: str) -> str:
    """Return text that LIKE ... ESCAPE '!' takes as it is."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def shown(tx: Tx, now: float, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return devices for people, in the order of `rows` (device_id, name, worst, ...)."""
    ids = [r["device_id"] for r in rows]
    found, _ = device_views.devices(tx, now, ids)
    by_name = {d["name"]: d for d in found}
    peaks = _peaks(tx, now, [u["serial"] for d in found for u in d["units"]])
    waiting = {r.device: r for r in queue.requests(tx, mine=True)}
    out = []
    for r in rows:
        device = by_name[r["name"]]
        units = device["units"]
        alarms = list(dict.fromkeys(a for u in units for a in u["alarms"] or ()))
        gravity, _, code = r["worst"].partition(":")
        problem = None
        if code:
            problem = (
                attention.alarm_problem(alarms)
                if code == "alarm"
                else attention.problem_for(code, len(units))
            )
        out.append(
            {
                **device,
                "id": r["device_id"],
                "last_contact": min(
                    (u["last_contact"] for u in units if u["last_contact"]), default=None
                ),
                "code": code,
                "problem": problem,
                "gravity": int(gravity or 0),
                "severity": attention.severity(int(gravity or 0)),
                "alarms": alarms,
                "request": waiting.get(device["name"]),
                "counts": {kind: counts_of(device, kind, peaks) for kind in POOL_TYPES},
            }
        )
    return out


def counts_of(device: dict[str, Any], kind: str, peaks: dict[tuple[str, str], int]) -> Any:
    """Return one license type of a device: of a pair what both units are sure to have.

    `pending` is what Actual becomes by a restart with save, None where nothing waits.
    """
    units = device["units"]
    in_use = max(((u["in_use"] or {}).get(kind, 0) for u in units), default=0)
    row = {
        name: min(((u[name] or {}).get(kind, 0) for u in units), default=0)
        for name in ("remote", "local", "actual", "granted")
    }
    after = []
    for unit in units:
        most = (unit["maximum"] or {}).get(kind)
        whole = (unit["local"] or {}).get(kind, 0) + unit["remote"].get(kind, 0)
        after.append(whole if most is None else min(whole, most))
    wanted = min(after, default=0)
    smart = any(u["mode"] == "smart" for u in units)
    moves = device["pending"] and not smart and wanted != row["actual"]
    return {
        **row,
        "allocated": device["allocation"][kind],
        "pending": wanted if moves else None,
        "in_use": in_use,
        "reclaiming": sum(u["reclaiming"].get(kind, 0) for u in units),
        "peak": max((peaks.get((u["serial"], kind), 0) for u in units), default=0),
    }


def _peaks(tx: Tx, now: float, serials: list[str]) -> dict[tuple[str, str], int]:
    """Return the most in use at once within the last 24 hours, as far as it is reported."""
    return {
        (r["serial"], r["type"]): r["peak"]
        for r in tx.rows(
            "SELECT serial, type, max(peak) AS peak FROM usage_hour"
            " WHERE serial IN TEXTS(:serials) AND at > :since"
            " GROUP BY serial, type",
            serials=msgspec.json.encode(serials).decode(),
            since=now - DAY,
        )
    }
