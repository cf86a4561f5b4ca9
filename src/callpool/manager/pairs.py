"""HA pairs in the inventory: one device, two serial numbers, equal shares at double cost.

A pair is added whole (`inventory.add_device`), or formed of a device that is there and a second
serial number; it ends when one of its units leaves. What a unit that left may still use stays
held until it confirms that it dropped it, or its lease ends (law 1).
"""

from __future__ import annotations

from callpool.licensing.errors import LicenseError
from callpool.manager.change import Change
from callpool.manager.hitless_store import end_for
from callpool.manager.inventory import add_unit, device_by_name
from callpool.manager.ledger import (
    REMOVED,
    holdings,
    regrant,
    settle_unit,
    targets,
    unit_by_serial,
    units_of,
)
from callpool.manager.pair_views import active_of, pair_of, report_of
from callpool.manager.pools import check_room
from callpool.manager.queue import drop
from callpool.manager.store.tx import Row


def form(change: Change, name: str, serial: str) -> None:
    """Let `serial` be the second unit of a device: both are given the same, at double cost.

    Raises LicenseError `unknown_device`, `already_pair`, `bad_serial`, `duplicate_serial`,
    `serial_still_holds`; `pool_exceeded`, `tenant_exceeded` or `requests_waiting` where the pool
    cannot pay for the second unit: nothing changes then.
    """
    device = device_by_name(change, name)
    units = units_of(change, device["device_id"])
    if len(units) != 1:
        raise LicenseError("already_pair", f"{name} is an HA pair already.")
    mine = holdings(change, units[0]["serial"])
    add_unit(change, device, serial, 1 - units[0]["role"])
    # What is asked for a single device would cost more now.
    drop(change, device["device_id"], "request_cancelled")
    for kind, count in targets(change, device).items():
        # As much as the first unit has: the second must not take it from the first.
        has = min(count, sum(h.held for h in mine[kind] if h.since == 0.0))
        if has:
            check_room(change, device, kind, has)
    regrant(change, device)
    change.journal("pair_formed", device=name, serial=serial)


def dissolve(change: Change, name: str, serial: str) -> None:
    """Let the unit `serial` leave a pair; the other one stays with what was allocated.

    Raises LicenseError `unknown_device`, `no_pair`, `unknown_serial`, `hitless_running`.
    """
    device = device_by_name(change, name)
    units = units_of(change, device["device_id"])
    if len(units) != 2:
        raise LicenseError("no_pair", f"{name} is no HA pair.")
    if serial not in {u["serial"] for u in units}:
        raise LicenseError("unknown_serial", f"{name} has no serial number {serial[:32]!r}.")
    end_for(change, device)
    change.hint(serial)
    change.tx.run(
        "UPDATE unit SET state = :state WHERE serial = :serial", state=REMOVED, serial=serial
    )
    change.tx.run(
        "UPDATE device SET active_serial = NULL WHERE device_id = :device",
        device=device["device_id"],
    )
    regrant(change, device)
    left = unit_by_serial(change, serial)
    assert left is not None  # it was there a moment ago, and rows are never deleted
    settle_unit(change, left)
    change.freed = True
    change.journal("pair_dissolved", device=name, serial=serial)


def note_active(change: Change, device: Row, serial: str, called_before: float | None) -> None:
    """Record which unit of a pair is the active one, from the report that it has just made.

    While both say so, the one that was stays it; a unit that has been silent since the other's
    last call (`called_before`) says nothing any more.
    """
    units = units_of(change, device["device_id"])
    mine = [u for u in units if u["serial"] == serial]
    others = [u for u in units if u["serial"] != serial]
    if len(units) != 2 or not mine or device["active_serial"] == serial:
        return
    silent = (others[0]["last_contact"] or 0.0) < (called_before or 0.0)
    serves = pair_of(report_of(mine[0])).serves
    if active_of(units) != serial and not (serves and silent):
        return
    change.tx.run(
        "UPDATE device SET active_serial = :serial WHERE device_id = :device",
        serial=serial,
        device=device["device_id"],
    )
    change.journal(
        "pair_active", device=device["name"], serial=serial, before=device["active_serial"]
    )
