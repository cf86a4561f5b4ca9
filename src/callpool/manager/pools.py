"""The pool's transactions: import, allocate, refill, and what the clock brings.

Each function runs inside one `Change`; `Pool.change` in `core.py` opens it, sweeps what is due
first, and refills devices that are short of their target last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from callpool.licensing.capacity import LICENSE_TYPES, POOL_TYPES, check_count, check_type
from callpool.licensing.errors import LicenseError
from callpool.licensing.order import PurchaseOrder, check_for
from callpool.licensing.pool import LEASE_MARGIN, check_fits, reachable
from callpool.licensing.usage import HOUR
from callpool.manager.change import CLOCK, Change
from callpool.manager.hitless_store import check_none_runs
from callpool.manager.ledger import (
    FIXED,
    device_by_id,
    holdings,
    lines,
    regrant,
    room,
    settle_unit,
    units_of,
)
from callpool.manager.queue import drop, kept
from callpool.manager.restore import charge
from callpool.manager.restored import check_may_grow
from callpool.manager.standing import in_smart_mode, is_reset
from callpool.manager.store.tx import Row


def import_order(change: Change, order: PurchaseOrder, envelope: str) -> PurchaseOrder:
    """Import a verified order; it is kept even if nothing is allocated.

    Raises LicenseError `order_for_another_manager`, `order_out_of_date`,
    `order_already_imported`.
    """
    check_for(order, change.tx.meta("product_key"), change.now)
    done = change.tx.row(
        "SELECT imported_at FROM purchase_order WHERE order_id = :order", order=order.order_id
    )
    if done is not None:
        raise LicenseError(
            "order_already_imported", f"Order {order.order_id} has been imported already."
        )
    change.tx.run(
        "INSERT INTO purchase_order (order_id, starts, ends, issued_at, imported_at, envelope)"
        " VALUES (:order, :starts, :ends, :issued, :now, :envelope)",
        order=order.order_id,
        starts=order.starts,
        ends=order.ends,
        issued=order.issued_at,
        now=change.now,
        envelope=envelope,
    )
    for name, count in order.counts:
        change.tx.run(
            "INSERT INTO order_line (order_id, type, count) VALUES (:order, :type, :count)",
            order=order.order_id,
            type=name,
            count=count,
        )
    change.journal(
        "order_imported",
        order=order.order_id,
        counts=order.counts.to_dict(),
        starts=order.starts,
        ends=order.ends,
    )
    charge(change, order.order_id)
    renew_all(change)
    return order


def allocate(change: Change, device: Row, wanted: Mapping[str, object]) -> list[str]:
    """Set what a device is to have, per license type; all of it, or nothing changes.

    Returns notes for people, such as what the device's own maximum leaves unused. Raises
    LicenseError `unknown_license_type`, `bad_count`, `device_not_managed`, `pool_exceeded`,
    `tenant_exceeded`, `requests_waiting`, `hitless_running`. A request of the device that waits is
    replaced by it.
    """
    counts = {check_type(k, pooled=True): check_count(v, k) for k, v in wanted.items()}
    if not counts:
        raise LicenseError("bad_request", "Name at least one license type and its count.")
    if device["mode"] != FIXED:
        raise LicenseError(
            "device_not_managed",
            f"{device['name']} is listed but not managed by the pool; set its mode to fixed first.",
        )
    check_none_runs(change, device)
    drop(change, device["device_id"], "request_replaced")
    before = _targets(change, device)
    for name, count in counts.items():
        # Only a new promise must be had: a smaller wish never fails.
        if count > before.get(name, 0):
            check_room(change, device, name, count)
    set_targets(change, device, counts)
    change.journal(
        "allocated",
        device=device["name"],
        before={k: before.get(k, 0) for k in counts},
        counts=counts,
    )
    return clipping_notes(change, device, counts)


def _targets(change: Change, device: Row) -> dict[str, int]:
    return {
        r["type"]: r["target"]
        for r in change.tx.rows(
            "SELECT type, target FROM allocation WHERE device_id = :device",
            device=device["device_id"],
        )
    }


def set_targets(change: Change, device: Row, counts: Mapping[str, int]) -> None:
    """Set what a device is to have and bring its grants in line, as far as can be had."""
    for name, count in counts.items():
        change.tx.run(
            "INSERT INTO allocation (device_id, type, target, since)"
            " VALUES (:device, :type, :target, :now)"
            " ON CONFLICT (device_id, type) DO UPDATE SET target = excluded.target,"
            " since = excluded.since WHERE allocation.target <> excluded.target",
            device=device["device_id"],
            type=name,
            target=count,
            now=change.now,
        )
    regrant(change, device)
    for unit in units_of(change, device["device_id"]):
        settle_unit(change, unit)


def check_room(change: Change, device: Row, name: str, count: int) -> None:
    """Refuse `count` of a type for each unit of a device, where that cannot be had.

    Raises LicenseError `pool_exceeded`, `tenant_exceeded`, `requests_waiting`.
    """
    check_may_grow(change.tx)
    tenant_id, units = device["tenant_id"], units_of(change, device["device_id"])
    mine = [[h for h in holdings(change, u["serial"])[name] if h.since == 0.0] for u in units]
    # A device whose grant already waits to shrink keeps what it holds: `own` counts all of it.
    own = [sum(h.held for h in rows) for rows in mine]
    pool, tenant = room(change, tenant_id, name, lines(change, name))
    waited = kept(change, tenant_id, name, waiting=True, elsewhere=False)
    # What moves in another tenant is the pool's affair: nothing is told of it here.
    pool = max(0, pool - kept(change, tenant_id, name, waiting=True) + waited)
    free = min(pool, tenant)
    whose = "tenant" if tenant < pool else "pool"
    available = reachable(own, free)
    check_fits(name, asked=count, available=available, whose=whose, cost=len(units))
    if waited:
        # What is being taken back from it is on its way to them.
        own = [sum(h.granted for h in rows) for rows in mine]
    left = reachable(own, max(0, free - waited))
    if count > left:
        raise LicenseError(
            "requests_waiting",
            f"{count} {LICENSE_TYPES[name].label} cannot be allocated: requests that have waited "
            f"longer come first, and leave this device at most {left}; queue behind them with "
            "--wait, or cancel them.",
        )


def clipping_notes(change: Change, device: Row, counts: Mapping[str, int]) -> list[str]:
    """Say what of an allocation lies above a unit's maximum, as it last reported it."""
    notes = []
    for unit in units_of(change, device["device_id"]):
        report = msgspec.json.decode(unit["report"]) if unit["report"] else {}
        if in_smart_mode(unit):
            notes.append(
                f"{unit['serial']} is in smart mode and is given nothing until smart licensing is "
                "disabled there."
            )
            continue
        if is_reset(unit):
            notes.append(
                f"{unit['serial']} was reset to factory defaults and is given nothing until it is "
                "enrolled again."
            )
            continue
        for name, count in counts.items():
            most = report.get("maximum", {}).get(name)
            local = report.get("local", {}).get(name, 0)
            if most is not None and local + count > most:
                notes.append(
                    f"{unit['serial']} supports at most {most} {LICENSE_TYPES[name].label}: "
                    f"{local} local and {count} allocated are clipped to {most}."
                )
    return notes


def refill(change: Change) -> None:
    """Give devices that are short of their target what is free, the longest waiting first."""
    for row in change.tx.rows(
        "SELECT a.device_id, min(a.since) AS since FROM allocation a"
        " JOIN device d ON d.device_id = a.device_id"
        " WHERE d.removed_at IS NULL AND d.mode = 'fixed' AND a.target *"
        " (SELECT count(*) FROM unit u WHERE u.device_id = a.device_id AND u.state = 'active')"
        " > (SELECT coalesce(sum(h.granted), 0) FROM holding h JOIN unit u ON u.serial = h.serial"
        "    WHERE u.device_id = a.device_id AND u.state = 'active' AND h.type = a.type"
        "    AND h.since = 0)"
        " GROUP BY a.device_id ORDER BY since, a.device_id"
    ):
        regrant(change, device_by_id(change, row["device_id"]))
    change.freed = False


def renew_all(change: Change) -> None:
    """Recompute every device's grant: an order was imported, began or ended."""
    for device in change.tx.rows(
        "SELECT * FROM device d WHERE EXISTS (SELECT 1 FROM allocation a"
        " WHERE a.device_id = d.device_id AND a.target > 0) ORDER BY device_id"
    ):
        regrant(change, device)
    change.freed = True


def _lease_hour(now: float) -> int:
    """Return the hour in which leases end that may be over; a float would find no index."""
    return int((now - LEASE_MARGIN) // HOUR)


def due(change: Change) -> bool:
    """Tell whether the clock brought something: an order's begin or end, a lease's end."""
    return bool(
        change.tx.value(
            "SELECT EXISTS (SELECT 1 FROM purchase_order o WHERE o.ends <= :now"
            "   AND EXISTS (SELECT 1 FROM holding h WHERE h.order_id = o.order_id))"
            " OR EXISTS (SELECT 1 FROM holding WHERE since > 0 AND since <= :now)"
            " OR EXISTS (SELECT 1 FROM unit WHERE leased AND lease_hour <= :hour"
            "   AND lease_end <= :now - :margin AND lease_elapsed <= :elapsed - :margin)"
            " OR EXISTS (SELECT 1 FROM purchase_order WHERE starts <= :now AND starts >"
            "   CAST(coalesce((SELECT value FROM meta WHERE name = 'swept'), '0') AS REAL))",
            now=change.now,
            elapsed=change.elapsed,
            margin=LEASE_MARGIN,
            hour=_lease_hour(change.now),
        )
    )


def sweep(change: Change) -> None:
    """Do what the clock brings: orders that end or begin, leases that are over.

    What an ended order counted is worth nothing any more on any device: each grant carries
    its step-down. A lease that is over by both clocks frees what its unit held beyond its
    targets; what is allocated to it stays.
    """
    asked_by, change.who = change.who, CLOCK
    ended = change.tx.rows(
        "SELECT order_id FROM purchase_order o WHERE ends <= :now"
        " AND EXISTS (SELECT 1 FROM holding h WHERE h.order_id = o.order_id)",
        now=change.now,
    )
    for row in ended:
        change.tx.run("DELETE FROM holding WHERE order_id = :order", order=row["order_id"])
        change.journal("order_ended", order=row["order_id"])
    _begin_renewals(change)
    began = change.tx.run(
        "INSERT INTO meta (name, value) VALUES ('swept', :now) ON CONFLICT (name)"
        " DO UPDATE SET value = :now WHERE CAST(meta.value AS REAL) < (SELECT"
        " coalesce(max(starts), 0) FROM purchase_order WHERE starts <= :at)",
        now=repr(change.now),
        at=change.now,
    )
    if ended or began:
        renew_all(change)
    for unit in change.tx.rows(
        "SELECT * FROM unit WHERE leased AND lease_hour <= :hour AND lease_end <= :now - :margin"
        " AND lease_elapsed <= :elapsed - :margin",
        now=change.now,
        elapsed=change.elapsed,
        margin=LEASE_MARGIN,
        hour=_lease_hour(change.now),
    ):
        change.tx.run(
            "UPDATE unit SET leased = FALSE, floor_version = sent_version WHERE serial = :serial",
            serial=unit["serial"],
        )
        change.journal("lease_ended", serial=unit["serial"], lease_end=unit["lease_end"])
        settle_unit(change, {**unit, "leased": False})
    change.who = asked_by


def _begin_renewals(change: Change) -> None:
    """Count renewals whose time has come as in force; an order before them has ended."""
    for r in change.tx.rows(
        "SELECT * FROM holding WHERE since > 0 AND since <= :now", now=change.now
    ):
        values: dict[str, Any] = {k: r[k] for k in ("serial", "type", "order_id")}
        change.tx.run(
            "DELETE FROM holding WHERE serial = :serial AND type = :type"
            " AND order_id = :order_id AND since = :since",
            since=r["since"],
            **values,
        )
        change.tx.run(
            "INSERT INTO holding (serial, type, order_id, since, tenant_id, granted, held)"
            " VALUES (:serial, :type, :order_id, 0, :tenant, :granted, :held)"
            " ON CONFLICT (serial, type, order_id, since) DO UPDATE SET"
            " granted = holding.granted + excluded.granted, held = holding.held + excluded.held",
            tenant=r["tenant_id"],
            granted=r["granted"],
            held=r["held"],
            **values,
        )


def purchased(change: Change, name: str) -> int:
    """Return how many licenses of a type are purchased and in date."""
    return int(
        change.tx.value(
            "SELECT coalesce(sum(l.count), 0) FROM order_line l JOIN purchase_order o"
            " ON o.order_id = l.order_id WHERE l.type = :type AND o.starts <= :now"
            " AND o.ends > :now",
            type=name,
            now=change.now,
        )
    )


__all__ = [
    "POOL_TYPES",
    "allocate",
    "due",
    "import_order",
    "purchased",
    "refill",
    "renew_all",
    "sweep",
]
