"""What a unit is granted and what is held for it: the pool's arithmetic on the database.

`regrant` brings grants in line with targets (a share grows only out of what is free),
`settle` lowers what is held to what a grant in force may still use. Both only write rows of
`holding`; the database moves what lines and shares count as held, and refuses a violation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.lease import Grant
from callpool.licensing.pool import (
    Holding,
    Key,
    Line,
    by_line,
    cover,
    reachable,
    renewals,
    settle,
    slices,
)
from callpool.manager.change import Change
from callpool.manager.hitless_store import keeps_all
from callpool.manager.queue import kept
from callpool.manager.restored import restored
from callpool.manager.standing import takes
from callpool.manager.store.tx import Row
from callpool.wire.messages import GrantMessage, SliceMessage

#: A unit's row stands for a device that is in the inventory.
ACTIVE = "active"
#: Its device was removed; the row stays for what it may still hold.
REMOVED = "removed"
#: Another serial number took its place.
REPLACED = "replaced"
#: Why a unit is locked whose identity an operator has revoked, and the code that it is told.
REVOKED = "identity_revoked"

#: A device in the pool's hands ('fixed'), or listed without being managed.
FIXED = "fixed"


def read_slices(text: str) -> tuple[SliceMessage, ...]:
    """Read slices as they are kept in the database."""
    return msgspec.json.decode(text, type=tuple[SliceMessage, ...])


def grant_of(unit: Row, apply: str) -> Grant:
    """Return a unit's latest grant."""
    message = GrantMessage(
        version=unit["grant_version"], apply=apply, slices=read_slices(unit["grant_content"])
    )
    return message.grant(unit["serial"])


def lines(change: Change, name: str) -> list[Line]:
    """Return the order lines of one license type that are not over.

    A manager that was restored from a backup does not know what is free: nothing is.
    """
    unknown = restored(change.tx) is not None
    return [
        Line(
            order_id=r["order_id"],
            starts=r["starts"],
            ends=r["ends"],
            free=0 if unknown else r["free"],
        )
        for r in change.tx.rows(
            "SELECT l.order_id, o.starts, o.ends, l.count - l.held AS free"
            " FROM order_line l JOIN purchase_order o ON o.order_id = l.order_id"
            " WHERE l.type = :type AND o.ends > :now",
            type=name,
            now=change.now,
        )
    ]


def holdings(change: Change, serial: str) -> dict[str, list[Holding]]:
    """Return what a unit holds, per license type."""
    out: dict[str, list[Holding]] = {name: [] for name in POOL_TYPES}
    for r in change.tx.rows(
        "SELECT type, order_id, since, granted, held FROM holding WHERE serial = :serial"
        " ORDER BY order_id, since",
        serial=serial,
    ):
        out.setdefault(r["type"], []).append(
            Holding(order_id=r["order_id"], since=r["since"], granted=r["granted"], held=r["held"])
        )
    return out


def room(change: Change, tenant_id: int, name: str, found: Sequence[Line]) -> tuple[int, int]:
    """Return how much a tenant's devices can grow by: (as the pool has it, as its share has it).

    What is free in the pool but set aside by another tenant's share cannot be had. A tenant
    without a share of its own is bounded by the pool alone.
    """
    free = sum(line.free for line in found if line.starts <= change.now)
    row = change.tx.row(
        "SELECT (SELECT share - held FROM tenant_share WHERE tenant_id = :tenant AND type = :type)"
        " AS own, (SELECT coalesce(sum(share - held), 0) FROM tenant_share"
        " WHERE tenant_id <> :tenant AND type = :type AND share IS NOT NULL) AS set_aside",
        tenant=tenant_id,
        type=name,
    )
    assert row is not None  # a SELECT without FROM has one row
    pool = max(0, free - row["set_aside"])
    return pool, pool if row["own"] is None else int(row["own"])


def units_of(change: Change, device_id: int) -> list[Row]:
    """Return the units of a device that take part in its allocation."""
    return change.tx.rows(
        "SELECT * FROM unit WHERE device_id = :device AND state = 'active' ORDER BY role",
        device=device_id,
    )


def device_by_id(change: Change, device_id: int) -> Row:
    """Return a device's row."""
    row = change.tx.row("SELECT * FROM device WHERE device_id = :device", device=device_id)
    assert row is not None  # unit.device_id is a foreign key
    return row


def targets(change: Change, device: Row) -> dict[str, int]:
    """Return what a device is to have: nothing once it is removed or not managed."""
    if device["removed_at"] is not None or device["mode"] != FIXED:
        return {}
    return {
        r["type"]: r["target"]
        for r in change.tx.rows(
            "SELECT type, target FROM allocation WHERE device_id = :device",
            device=device["device_id"],
        )
    }


def write_holdings(
    change: Change,
    serial: str,
    tenant_id: int,
    name: str,
    before: Sequence[Holding],
    after: Mapping[Key, Holding],
) -> None:
    """Bring a unit's rows of one license type from `before` to `after`."""
    old = {h.key: h for h in before}
    for key, h in after.items():
        values: dict[str, Any] = {
            "serial": serial,
            "type": name,
            "order_id": key[0],
            "since": key[1],
            "granted": h.granted,
            "held": h.held,
        }
        if key not in old:
            if h.held:
                change.tx.run(
                    "INSERT INTO holding (serial, type, order_id, since, tenant_id, granted, held)"
                    " VALUES (:serial, :type, :order_id, :since, :tenant, :granted, :held)",
                    tenant=tenant_id,
                    **values,
                )
        elif h.held == 0:
            del values["granted"], values["held"]
            change.tx.run(
                "DELETE FROM holding WHERE serial = :serial AND type = :type"
                " AND order_id = :order_id AND since = :since",
                **values,
            )
        elif h != old[key]:
            change.tx.run(
                "UPDATE holding SET granted = :granted, held = :held WHERE serial = :serial"
                " AND type = :type AND order_id = :order_id AND since = :since",
                **values,
            )


def regrant(change: Change, device: Row) -> bool:
    """Bring the grants of a device's units in line with its targets, as far as can be had.

    Returns whether any grant has a new version.

    Both units of an HA pair are given the same. A unit whose content changes gets a new
    version and a hint.
    """
    units = change.tx.rows(
        "SELECT * FROM unit WHERE device_id = :device ORDER BY role", device=device["device_id"]
    )
    wanted = targets(change, device)
    mine = {u["serial"]: holdings(change, u["serial"]) for u in units}
    active = [u["serial"] for u in units if u["state"] == ACTIVE and takes(u)]
    content: dict[str, dict[str, dict[Key, int]]] = {u["serial"]: {} for u in units}
    ends: dict[str, float] = {}
    for name in POOL_TYPES:
        target = wanted.get(name, 0)
        if target == 0 and not any(mine[s][name] for s in mine):
            continue
        found = lines(change, name)
        ends |= {line.order_id: line.ends for line in found}
        own = [sum(h.held for h in mine[s][name] if h.since == 0.0) for s in active]
        growth = 0
        # What there is to grow by is reckoned over all tenants: only where it is needed.
        if target > reachable(own, 0):
            growth = min(room(change, device["tenant_id"], name, found))
            # What is being taken back for a request goes to nobody else.
            growth = max(
                0,
                growth
                - kept(change, device["tenant_id"], name, waiting=False, but=device["device_id"]),
            )
        level = min(target, reachable(own, growth))
        for unit in units:
            serial = unit["serial"]
            rows = mine[serial][name]
            have = {h.key: h.held for h in rows}
            now = cover(level, rows, found, change.now) if serial in active else {}
            found = _less(found, {o: n - have.get((o, 0.0), 0) for o, n in now.items()})
            later = renewals(now, rows, found, change.now + change.lease_seconds)
            taken: dict[str, int] = {}
            for key, count in later.items():
                grown = max(0, count - have.get(key, 0))
                taken[key[0]] = taken.get(key[0], 0) + grown
            found = _less(found, taken)
            granted: dict[Key, int] = {(o, 0.0): n for o, n in now.items()} | later
            content[serial][name] = granted
            after = {h.key: replace(h, granted=granted.get(h.key, 0)) for h in rows}
            for key, count in granted.items():
                after[key] = Holding(
                    order_id=key[0],
                    since=key[1],
                    granted=count,
                    held=max(have.get(key, 0), count),
                )
            write_holdings(change, serial, device["tenant_id"], name, rows, after)
    changed = False
    for unit in units:
        changed |= _keep_grant(change, unit, device["apply"], content[unit["serial"]], ends)
    return changed


def _less(found: Sequence[Line], taken: Mapping[str, int]) -> list[Line]:
    return [replace(x, free=x.free - max(0, taken.get(x.order_id, 0))) for x in found]


def _keep_grant(
    change: Change,
    unit: Row,
    apply: str,
    granted: Mapping[str, Mapping[Key, int]],
    ends: Mapping[str, float],
) -> bool:
    """Give the unit's grant a new version if its content is not what it was; tells whether."""
    was = by_line(grant_of(unit, apply), change.now)
    now = {
        name: {key: count for key, count in counts.items() if count}
        for name, counts in granted.items()
        if any(counts.values())
    }
    if was == now:
        return False
    new = Grant(serial=unit["serial"], version=0, slices=slices(now, ends))
    change.tx.run(
        "UPDATE unit SET grant_version = grant_version + 1, grant_content = :content"
        " WHERE serial = :serial",
        content=msgspec.json.encode(GrantMessage.of(new).slices).decode(),
        serial=unit["serial"],
    )
    change.hint(unit["serial"])
    return True


def needed(change: Change, unit: Row) -> list[dict[str, dict[Key, int]]]:
    """Return the grants that a unit may be running or may yet receive, by line.

    Those are what it last reported to have received and applied, and every version that was
    put into a reply since the last one that it proved to have received.
    """
    return sent_grants(change, unit, unit["floor_version"]) if unit["leased"] else []


def sent_grants(change: Change, unit: Row, floor: int) -> list[dict[str, dict[Key, int]]]:
    """Return the grants that a unit reported, and those sent from version `floor` on."""
    report = msgspec.json.decode(unit["report"]) if unit["report"] else {}
    return [
        by_line(
            GrantMessage(version=r["version"], apply="", slices=read_slices(r["slices"])).grant(""),
            change.now,
        )
        for r in change.tx.rows(
            "SELECT version, slices FROM grant_journal WHERE serial = :serial"
            " AND (version >= :floor OR version = :remote OR version = :applied)",
            serial=unit["serial"],
            floor=floor,
            remote=report.get("remote_version", 0),
            applied=report.get("applied_version", 0),
        )
    ]


def settle_unit(change: Change, unit: Row) -> dict[str, int]:
    """Lower what is held for a unit to what it may still use; returns what became free.

    A unit of a pair whose hitless run is open keeps all that it held.
    """
    mine = holdings(change, unit["serial"])
    if not any(h.held > h.granted for rows in mine.values() for h in rows):
        return {}
    if keeps_all(change.tx, unit):
        return {}
    grants = needed(change, unit)
    report = msgspec.json.decode(unit["report"]) if unit["report"] and unit["leased"] else {}
    in_use = report.get("remote_in_use", {})
    tenant_id = device_by_id(change, unit["device_id"])["tenant_id"]
    freed: dict[str, int] = {}
    for name, rows in mine.items():
        after = settle(rows, [g.get(name, {}) for g in grants], int(in_use.get(name, 0)))
        write_holdings(change, unit["serial"], tenant_id, name, rows, {h.key: h for h in after})
        lowered = sum(h.held for h in rows) - sum(h.held for h in after)
        if lowered:
            freed[name] = lowered
    if freed:
        change.freed = True
        change.journal("reclaimed", serial=unit["serial"], counts=freed)
    return freed


def unit_by_serial(change: Change, serial: str) -> Row | None:
    """Return a unit's row, or None."""
    return change.tx.row("SELECT * FROM unit WHERE serial = :serial", serial=serial)
