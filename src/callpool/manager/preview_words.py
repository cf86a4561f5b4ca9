"""What a preview says for people; it needs nothing of the manager itself."""

from __future__ import annotations

from typing import Any, Final

from callpool.licensing.capacity import LICENSE_TYPES

Value = dict[str, Any]

#: What is counted per license type of the pool.
OF_TYPE: Final = ("purchased", "held", "free", "reclaiming")


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
