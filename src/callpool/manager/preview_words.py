"""What a preview says for people; it needs nothing of the manager itself."""

from __future__ import annotations

from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from callpool.licensing.capacity import LICENSE_TYPES

Value = dict[str, Any]

#: What is counted per license type of the pool.
OF_TYPE: Final = ("purchased", "held", "free", "reclaiming")


def preview_table(value: Value) -> Table:
    """Return what is counted, before and after: a row for each device, tenant, pool and type.

    What an HA pair costs is twice its target. "To come back" is what has to be given back before
    anyone else can have it; "Free" is what the tenant's share or the pool has left.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Of", overflow="fold")
    table.add_column("License", no_wrap=True)
    for head in ("Target", "At once", "Costs", "Held", "To come back", "Free"):
        table.add_column(head, justify="right")
    for device in value["devices"]:
        for kind, row in device["types"].items():
            back = sum(unit["count"] for unit in row["to_reclaim"])
            counts = (_short(row[key]) for key in ("target", "granted", "cost", "held"))
            unit = LICENSE_TYPES[kind].unit
            table.add_row(escape(device["device"]), unit, *counts, str(back), "")
    for tenant in value["tenants"]:
        for kind, row in tenant["types"].items():
            free = {
                when: None if row["share"][when] is None else row["share"][when] - row["held"][when]
                for when in ("before", "after")
            }
            name = escape(f"tenant {tenant['tenant']}")
            held, share = _short(row["held"]), _short(row["share"])
            unit = LICENSE_TYPES[kind].unit
            table.add_row(name, unit, share, "", "", held, "", _short(free))
    for kind, row in value["types"].items():
        counts = (_short(row[key]) for key in ("held", "reclaiming", "free"))
        table.add_row("the pool", LICENSE_TYPES[kind].unit, "", "", "", *counts)
    return table


def _short(pair: Value) -> str:
    """Return a change for a table: one count where nothing moves."""
    if _moves(pair):
        return _arrow(pair).replace(" ", "")
    return "" if pair["after"] is None else str(pair["after"])


def sentences(value: Value) -> list[str]:
    """Say a preview for people, a sentence or two for each device, tenant and type."""
    out = []
    for device in value["devices"]:
        said = [
            f"{key} {_arrow(device[key])}"
            for key in ("tenant", "apply", "mode")
            if device[key]["before"] != device[key]["after"]
        ]
        for kind, row in device["types"].items():
            said += _said(LICENSE_TYPES[kind].label, row)
        said += _asked(device["request"])
        if device["restart_needed"]:
            said.append("a restart with save applies it")
        if said:
            out.append(f"{device['device']}: {'; '.join(said)}.")
    for tenant in value["tenants"]:
        for kind, row in tenant["types"].items():
            label = LICENSE_TYPES[kind].label
            said = [f"{key} {_arrow(row[key])}" for key in ("share", "held") if _moves(row[key])]
            if said:
                out.append(f"Tenant {tenant['tenant']}, {label}: {', '.join(said)}.")
    for kind, row in value["types"].items():
        said = [f"{key} {_arrow(row[key])}" for key in OF_TYPE if _moves(row[key])]
        out.append(f"Pool, {LICENSE_TYPES[kind].label}: {', '.join(said)}.")
    return out or ["Nothing would change."]


def _asked(request: Value) -> list[str]:
    """Say what becomes of a device's request."""
    if not _moves(request):
        return []
    if request["after"] is None:
        return ["its request waits no longer"]
    wanted = request["after"]["wanted"]
    counts = ", ".join(f"{n} {LICENSE_TYPES[kind].label}" for kind, n in wanted.items())
    return [f"a request for {counts} waits: {'; '.join(request['after']['why'].values())}"]


def _moves(pair: Value) -> bool:
    return bool(pair["before"] != pair["after"])


def _arrow(pair: Value) -> str:
    before, after = ("none" if n is None else n for n in (pair["before"], pair["after"]))
    return f"{before} -> {after}"


def _said(label: str, row: Value) -> list[str]:
    said = []
    if _moves(row["target"]):
        said.append(f"{label} {_arrow(row['target'])}")
        # The price of a pair differs from its target.
        if row["cost"] != row["target"]:
            said.append(f"costs {_arrow(row['cost'])} of the pool")
    short = row["target"]["after"] - row["granted"]["after"]
    if short > 0:
        said.append(f"{row['granted']['after']} of them at once")
    for unit in row["to_reclaim"]:
        said.append(f"{unit['count']} {label} stay held until {unit['serial']} gives them back")
    if "clipped" in row:
        wanted, most = row["clipped"]["before"], row["clipped"]["after"]
        said.append(f"{wanted} with the local key are clipped to the device's maximum of {most}")
    return said
