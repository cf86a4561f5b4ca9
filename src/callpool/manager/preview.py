"""Previews: any change run for real in its transaction, looked at, and rolled back.

There is no second way to reckon: what a preview shows is what the change would have written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.lease import APPLY_RESTART
from callpool.manager import views
from callpool.manager.change import Acting, Change
from callpool.manager.core import Manager
from callpool.manager.preview_words import OF_TYPE

T = TypeVar("T")
Value = dict[str, Any]


class _Seen(Exception):
    """Ends the transaction of a preview, so that nothing of it stays."""

    def __init__(self, seen: Value) -> None:
        self.seen = seen


def preview(
    manager: Manager,
    who: str,
    source: str,
    work: Callable[[Change], T],
    then: Callable[[T], Any] = lambda result: result,
    acting: Acting = Acting(),  # noqa: B008  frozen
) -> Value:
    """Return what `work` would change: see `compare`; `answer` is `then` of its result.

    Nothing is changed. Raises what `Manager.change` would raise.
    """
    # What the clock brings is not of this change's doing.
    manager.sweep()

    def first(change: Change) -> T:
        # Only devices that are touched from here on are looked at, of however many.
        change.tx.forget_touched("device")
        return work(change)

    def look(change: Change, result: T) -> None:
        touched = sorted(int(number) for number in change.tx.touched("device"))
        after = views.pool(change.tx, change.now, touched)
        # Another connection sees what was there before this transaction.
        before = manager.database.read(
            lambda tx: views.pool(tx, change.now, touched), change.tx.scope
        )
        answer = {"preview": True, "answer": then(result)}
        raise _Seen(answer | compare(before, after))

    try:
        manager.change(who, source, first, last=look, acting=acting)
    except _Seen as end:
        return end.seen
    raise AssertionError("a preview always ends by what it has seen")  # pragma: no cover


def compare(before: Value, after: Value) -> Value:
    """Return how two views of the pool (`views.pool`) differ, as `{"before", "after"}` pairs.

    `devices`: what changes per device and license type; `tenants`, `types`: theirs; only what
    changes is in it. Counts of `target` and `granted` are per unit (an HA pair pays each twice);
    `cost`, `held` and all counts of tenants and types are units of the pool.
    """
    were, now = _devices(before), _devices(after)
    devices = [
        _device(name, were.get(name), now.get(name), after["leaving"])
        for name in sorted(were.keys() | now.keys())
    ]
    return {
        "devices": [d for d in devices if d],
        "tenants": _tenants(before, after),
        "types": _types(before, after),
    }


def _devices(value: Value) -> dict[str, Value]:
    """Return the devices by name, each with its request."""
    requests = {r["device"]: r for r in value["requests"]}
    return {d["name"]: {**d, "request": requests.get(d["name"])} for d in value["devices"]}


def _pair(before: Any, after: Any) -> Value:
    return {"before": before, "after": after}


def _device(name: str, was: Value | None, now: Value | None, leaving: list[Value]) -> Value | None:
    if was == now:
        return None
    device: Value = {"device": name}
    for key in ("tenant", "apply", "mode"):
        device[key] = _pair(was and was[key], now and now[key])
    units = now["units"] if now else [u for u in leaving if u["device"] == name]
    device["types"] = {
        kind: _counts(kind, was, now, units)
        for kind in POOL_TYPES
        if any(_has(kind, d) for d in (was, now))
    }
    old = {u["serial"]: u["grant_version"] for u in was["units"]} if was else {}
    changed = any(u["grant_version"] != old.get(u["serial"], 0) for u in units)
    device["restart_needed"] = bool(now and now["apply"] == APPLY_RESTART and changed)
    device["request"] = _pair(was and was["request"], now and now["request"])
    return device


def _has(kind: str, device: Value | None) -> bool:
    return device is not None and (
        device["allocation"][kind] > 0 or any(u["held"][kind] for u in device["units"])
    )


def _counts(kind: str, was: Value | None, now: Value | None, units: list[Value]) -> Value:
    """Return one license type of one device; `units` are those that may still hold something."""
    counts = {
        "target": _pair(_target(kind, was), _target(kind, now)),
        "granted": _pair(_granted(kind, was), _granted(kind, now)),
        "held": _pair(
            sum(u["held"][kind] for u in was["units"]) if was else 0,
            sum(u["held"][kind] for u in units),
        ),
        "cost": _pair(
            *(_target(kind, d) * len(d["units"]) if d else 0 for d in (was, now)),
        ),
        "to_reclaim": [
            {
                "serial": u["serial"],
                "count": u["held"][kind] - u["granted"][kind],
                "waits_for": u["reclaim_waits_for"],
                "lease_end": u["lease_end"] if u["leased"] else None,
            }
            for u in units
            if u["held"][kind] > u["granted"][kind]
        ],
    }
    clipped = [
        _pair((u["local"] or {}).get(kind, 0) + _target(kind, now), u["maximum"][kind])
        for u in units
        if now and u["maximum"] and kind in u["maximum"]
    ]
    over = [c for c in clipped if c["before"] > c["after"]]
    if over:
        counts["clipped"] = over[0]
    return counts


def _target(kind: str, device: Value | None) -> int:
    return int(device["allocation"][kind]) if device and device["mode"] == "fixed" else 0


def _granted(kind: str, device: Value | None) -> int:
    return min((int(u["granted"][kind]) for u in device["units"]), default=0) if device else 0


def _tenants(before: Value, after: Value) -> list[Value]:
    were = {t["name"]: t["shares"] for t in before["tenants"]}
    none: Mapping[str, Any] = {"share": None, "held": 0}
    found = []
    for tenant in after["tenants"]:
        old = were.get(tenant["name"], {})
        types = {
            kind: {key: _pair(old.get(kind, none)[key], share[key]) for key in ("share", "held")}
            for kind, share in tenant["shares"].items()
            if share != old.get(kind, none) or tenant["name"] not in were
        }
        if types:
            found.append({"tenant": tenant["name"], "types": types})
    return found


def _types(before: Value, after: Value) -> Value:
    return {
        kind: {key: _pair(before["types"][kind][key], row[key]) for key in OF_TYPE}
        for kind, row in after["types"].items()
        if any(before["types"][kind][key] != row[key] for key in OF_TYPE)
    }
