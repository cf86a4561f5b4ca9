"""Requests that wait for licenses: queued, moved step by step, granted whole.

Each change of the pool ends with `advance`: a report that shows fewer calls, a confirmation, a
lease that ended, an order that arrived may be what a request waits for. The arithmetic is in
`callpool.licensing.waiting`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from callpool.licensing.capacity import LICENSE_TYPES, check_count, check_type
from callpool.licensing.errors import LicenseError
from callpool.licensing.lease import APPLY_LIVE
from callpool.licensing.waiting import Donor, lacking, plan
from callpool.manager import queue
from callpool.manager.change import Change
from callpool.manager.ledger import FIXED, device_by_id, lines, room, units_of
from callpool.manager.pools import allocate, clipping_notes, purchased, set_targets
from callpool.manager.queue import MOVING, WAITING, Request
from callpool.manager.standing import takes, waits_for
from callpool.manager.store.tx import Row

#: Reports older than this many polls say nothing of what is unused now.
_FRESH_POLLS = 4.0
#: A unit that has not called for so many polls may not call at all: nothing is expected of it.
_SILENT_POLLS = 30.0
#: Requests of one tenant that may wait at once: they are served in turn.
MAX_WAITING: Final = 100
#: Why an allocation that can wait was not had at once.
_CAN_WAIT = ("pool_exceeded", "tenant_exceeded", "requests_waiting")


def allocate_or_wait(
    change: Change, device: Row, wanted: Mapping[str, object]
) -> tuple[list[str], bool]:
    """Allocate at once where it can be had; queue a request where it cannot.

    Returns notes for people and whether it waits. Raises LicenseError as `pools.allocate`;
    `pool_exceeded` or `tenant_exceeded` for what no waiting could bring, `too_many_waiting`.
    """
    try:
        return allocate(change, device, wanted), False
    except LicenseError as error:
        if error.code not in _CAN_WAIT:
            raise
    counts = {check_type(k, pooled=True): check_count(v, k) for k, v in wanted.items()}
    for name, count in counts.items():
        _check_ever(change, device, name, count)
    queue.drop(change, device["device_id"], "request_replaced")
    if sum(r.tenant_id == device["tenant_id"] for r in queue.requests(change.tx)) >= MAX_WAITING:
        raise LicenseError(
            "too_many_waiting",
            f"{MAX_WAITING} requests of this tenant wait already; cancel some, or buy licenses.",
        )
    queue.add(change, device["device_id"], counts)
    change.journal("request_queued", device=device["name"], counts=counts)
    # From its next contact on each unit reports often.
    change.hint_tenant(device["tenant_id"])
    return clipping_notes(change, device, counts), True


def _check_ever(change: Change, device: Row, name: str, count: int) -> None:
    """Refuse what cannot come however long it is waited for."""
    cost = len(units_of(change, device["device_id"]))
    share = change.tx.value(
        "SELECT share FROM tenant_share WHERE tenant_id = :tenant AND type = :type",
        tenant=device["tenant_id"],
        type=name,
    )
    bought = purchased(change, name)
    whose, most = ("pool", bought) if share is None or bought < share else ("tenant", int(share))
    if count * cost > most:
        raise LicenseError(
            f"{whose}_exceeded",
            f"{count} {LICENSE_TYPES[name].label} cannot be waited for: "
            f"the {whose} has {most} in all"
            + (", and an HA pair costs two for each." if cost > 1 else "."),
        )


def cancel(change: Change, device: Row) -> None:
    """Take a device's request out of the queue; raises LicenseError `no_request`.

    What was taken from others for it stays free; their allocation is the operator's to raise.
    """
    if not queue.drop(change, device["device_id"], "request_cancelled"):
        raise LicenseError("no_request", f"{device['name']} has no request that waits.")


def advance(change: Change, poll_seconds: float) -> None:
    """Bring every request as far as it can go; the one that waits longest first.

    `poll_seconds` is how often units report while a request waits.
    """
    served: set[int] = set()
    for request in queue.requests(change.tx):
        # No overtaking within a tenant.
        if request.tenant_id in served:
            continue
        if not _advance(change, request, poll_seconds):
            served.add(request.tenant_id)


def _advance(change: Change, request: Request, poll_seconds: float) -> bool:
    """Serve one request; returns whether it is granted."""
    device = device_by_id(change, request.device_id)
    if device["removed_at"] is not None or device["mode"] != FIXED:
        return queue.drop(change, request.device_id, "request_cancelled")
    missing = _missing(change, request)
    if not missing:
        set_targets(change, device, request.wanted)
        queue.keep_granted(change, request)
        change.tx.run("DELETE FROM request WHERE request_id = :request", request=request.request_id)
        change.journal(
            "request_granted",
            device=request.device,
            counts=request.wanted,
            asked_at=request.asked_at,
        )
        return True
    plans, why = {}, {}
    for name, n in missing.items():
        soon, later = _coming(change, request, name, poll_seconds)
        donors = _donors(change, request, name, poll_seconds)
        planned = plan(n - soon, donors, later=later)
        plans[name] = planned
        if planned is None:
            why[name] = _waits(name, n - soon - later, donors)
    if None in plans.values():
        # Nothing is taken of one type before the other can come too.
        queue.note(change, request, state=request.state, why=why)
        return False
    for name, planned in plans.items():
        for giver, count in (planned or {}).items():
            _take(change, request, name, giver, count)
    why = {name: _moves(change, request.tenant_id, name, n) for name, n in missing.items()}
    queue.note(change, request, state=MOVING, why=why)
    # Where nothing that was taken is in use anywhere, it is free by that very step.
    return not _missing(change, request) and _advance(change, request, poll_seconds)


def _take(change: Change, request: Request, name: str, giver: str, count: int) -> None:
    device = change.tx.row(
        "SELECT * FROM device WHERE name = :name AND removed_at IS NULL", name=giver
    )
    assert device is not None  # it was found a moment ago
    left = _granted(change, device, name) - count
    set_targets(change, device, {name: left})
    change.journal(
        "taken_for_request",
        device=giver,
        request_of=request.device,
        type=name,
        count=count,
        left=left,
    )


def _missing(change: Change, request: Request) -> dict[str, int]:
    own, free = {}, {}
    for name in request.wanted:
        own[name] = queue.units_held(change, request.device_id, name)
        pool, tenant = room(change, request.tenant_id, name, lines(change, name))
        others = queue.kept(change, request.tenant_id, name, waiting=True, but=request.device_id)
        free[name] = min(pool, tenant) - others
    return lacking(request.wanted, own, free)


def _coming(change: Change, request: Request, name: str, poll_seconds: float) -> tuple[int, int]:
    """Return the units of a tenant that are being taken back: soon, and who knows when.

    The latter wait for a restart, or for a unit that has long been silent, while the request
    waited. What the request's own device gives back it has: it is not missing.
    """
    soon = later = 0
    pace = poll_seconds * queue.pace(change.tx, request.tenant_id)
    oldest = change.now - _SILENT_POLLS * pace
    for r in _giving_back(change, request.tenant_id, name):
        if r["device_id"] == request.device_id:
            continue
        silent = max(r["last_contact"] or 0.0, request.asked_at) < oldest
        what = waits_for(r)
        if (silent and what == "contact") or (r["apply"] == "restart" and what != "calls"):
            later += r["reclaiming"]
        else:
            soon += r["reclaiming"]
    return soon, later


def _giving_back(change: Change, tenant_id: int, name: str) -> list[Row]:
    return change.tx.rows(
        "SELECT d.device_id, d.name, d.apply, u.serial, u.grant_version, u.report,"
        " u.last_contact,"
        " sum(h.held - h.granted) AS reclaiming FROM holding h"
        " JOIN unit u ON u.serial = h.serial JOIN device d ON d.device_id = u.device_id"
        " WHERE h.tenant_id = :tenant AND h.type = :type AND h.since = 0 AND h.held > h.granted"
        " GROUP BY d.device_id, d.name, d.apply, u.serial, u.grant_version, u.report,"
        " u.last_contact, u.role"
        " ORDER BY d.name, u.role",
        tenant=tenant_id,
        type=name,
    )


def _granted(change: Change, device: Row, name: str) -> int:
    """Return what each unit of a device is granted now: the same for both of a pair."""
    return min(
        int(
            change.tx.value(
                "SELECT coalesce(sum(granted), 0) FROM holding WHERE serial = :serial"
                " AND type = :type AND since = 0",
                serial=unit["serial"],
                type=name,
            )
        )
        for unit in units_of(change, device["device_id"])
    )


def _donors(change: Change, request: Request, name: str, poll_seconds: float) -> list[Donor]:
    """Return who may give of a type: what each has in force and does not use.

    Only devices that have just reported, since the request was queued, with all that was
    granted to them in force; not those whose own request was granted while this one waited:
    what has just come into service would go out of it again. One query: every contact of a
    large tenant comes here.
    """
    oldest = change.now - _FRESH_POLLS * poll_seconds * queue.pace(change.tx, request.tenant_id)
    found: dict[str, list[Row]] = {}
    for unit in change.tx.rows(
        "SELECT d.name, d.apply, u.hint_seen, u.last_contact, u.grant_version, u.report,"
        " (SELECT coalesce(sum(h.granted), 0) FROM holding h WHERE h.serial = u.serial"
        "  AND h.type = :type AND h.since = 0) AS granted"
        " FROM device d JOIN allocation a ON a.device_id = d.device_id"
        " JOIN unit u ON u.device_id = d.device_id AND u.state = 'active'"
        " WHERE d.tenant_id = :tenant AND d.removed_at IS NULL AND d.mode = 'fixed'"
        " AND a.type = :type AND a.target > 0 AND a.granted_hint < :hint"
        " AND NOT EXISTS (SELECT 1 FROM request r WHERE r.device_id = d.device_id)"
        # What a pair in a hitless run is to have is settled.
        " AND NOT EXISTS (SELECT 1 FROM hitless_run h WHERE h.device_id = d.device_id"
        "   AND h.state IN ('running', 'stopped'))"
        " ORDER BY d.device_id",
        tenant=request.tenant_id,
        type=name,
        hint=request.hint,
    ):
        found.setdefault(unit["name"], []).append(unit)
    out = []
    for device, units in found.items():
        granted = min(int(u["granted"]) for u in units)
        unused = min(
            _unused(u, name, granted)
            if u["hint_seen"] >= request.hint and (u["last_contact"] or 0.0) >= oldest
            else 0
            for u in units
        )
        if unused > 0:
            live = units[0]["apply"] == APPLY_LIVE
            out.append(Donor(name=device, unused=unused, cost=len(units), live=live))
    return out


class _Use(msgspec.Struct):
    """What of a report tells who may give."""

    applied_version: int = 0
    remote_in_use: dict[str, int] = {}


_read_use = msgspec.json.Decoder(_Use).decode


def _unused(unit: Row, name: str, granted: int) -> int:
    if not unit["report"] or not granted:
        return 0
    use = _read_use(unit["report"])
    unused = granted - use.remote_in_use.get(name, 0)
    given = unused > 0 and use.applied_version == unit["grant_version"] and takes(unit)
    return unused if given else 0


def _waits(name: str, lacks: int, donors: Sequence[Donor]) -> str:
    unused = sum(d.cost * d.unused for d in donors)
    label = LICENSE_TYPES[name].label
    return (
        f"waits until {max(0, lacks - unused)} more {label} are unused in its tenant; "
        f"{lacks} are missing, {unused} are unused"
    )


def _moves(change: Change, tenant_id: int, name: str, missing: int) -> str:
    """Say whom a moving request waits for, and for what."""
    waits: dict[str, list[str]] = {}
    for r in _giving_back(change, tenant_id, name):
        names = waits.setdefault(waits_for(r), [])
        if r["name"] not in names:
            names.append(r["name"])
    words = {
        "calls": "calls to end on",
        "restart": "a restart with save of",
        "contact": "a contact of",
    }
    label = LICENSE_TYPES[name].label
    parts = [f"{words[k]} {', '.join(v)}" for k, v in sorted(waits.items())]
    return f"{missing} {label} are on their way: waits for {' and '.join(parts) or 'its turn'}"


__all__ = ["MOVING", "WAITING", "advance", "allocate_or_wait", "cancel"]
