"""The tables that `callpool pool` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from callpool.licensing.capacity import LICENSE_TYPES

Moment = Callable[[float], str]


def types_table(value: Mapping[str, Any]) -> Table:
    """Return the pool's counts per license type."""
    table = Table(title="License pool", box=SIMPLE_HEAD)
    table.add_column("Type")
    for head in ("Purchased", "Held", "Free", "Reclaiming"):
        table.add_column(head, justify="right")
    for name, row in value["types"].items():
        table.add_row(
            f"{row['label']} ({name})",
            # A tenant without a share is bounded by the pool alone, whose counts are not its.
            *(
                "-" if row[key] is None else str(row[key])
                for key in ("purchased", "held", "free", "reclaiming")
            ),
        )
    return table


def restored_note(state: Mapping[str, Any], day: Moment) -> str:
    """Return what operators are told while a restored manager learns."""
    missing = ", ".join(state["waiting_for"]) or "no one"
    known = "its grant journal tells" if state["journal_agrees"] else "NOTHING tells"
    return (
        f"RESTORED from a backup on {day(state['since'])}: {known} what devices hold; nothing "
        f"grows until {day(state['ends_at_latest'])} at the latest. Not reported: {missing}."
    )


def window_notes(value: Mapping[str, Any], moment: Moment) -> list[str]:
    """Return a sentence for each device whose restart waits for its window."""
    notes = []
    for device in value["devices"]:
        wish = device["restart_window"]
        if wish:
            how = "with save" if wish["save"] else "without save"
            when = "is open" if wish["open"] else f"opens {moment(wish['opens'])}"
            window = f"the window {wish['window']} UTC, which {when}"
            units = ", ".join(wish["waits_for"])
            notes.append(f"{device['name']} restarts {how} in {window}: {units}.")
    return notes


def cancelled_note(name: str, given: list[str]) -> str:
    """Return what is said of a cancelled restart; `given`: units that have their order."""
    late = f" {', '.join(given)} had the order already and may carry it out." if given else ""
    return f"{name} is not asked to restart any more.{late}"


def _each(counts: Mapping[str, int] | None, types: list[str]) -> str:
    return "/".join(str((counts or {}).get(name, 0)) for name in types) if counts else "-"


def devices_table(value: Mapping[str, Any], day: Moment) -> Table:
    """Return devices and units at a glance, a row for each license type, within 80 columns.

    Below a unit's name stands its serial number, below its status when its lease ends.
    """
    table = Table(title="Devices", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Device", overflow="fold")
    table.add_column("Status, lease", overflow="fold")
    table.add_column("License", no_wrap=True)
    for head in ("Allocated", "Remote", "Held", "Actual", "In use"):
        table.add_column(head, justify="right", no_wrap=True)
    types = [(name, LICENSE_TYPES[name].unit) for name in value["types"]]

    def add(
        name: str, serial: str, status: str, lease: str, *columns: Mapping[str, int] | None
    ) -> None:
        heads = [(escape(name), status), (escape(serial), lease)]
        for (kind, unit), head in zip_longest(types, heads[: len(types)], fillvalue=("", "")):
            table.add_row(*head, unit, *(str(c.get(kind, 0)) if c else "-" for c in columns))

    for device in value["devices"]:
        for unit in device["units"]:
            status = unit["locked"] or unit["status"]
            add(
                device["name"],
                unit["serial"],
                f"{status}, waits" if unit["pending"] else status,
                day(unit["lease_end"]) if unit["leased"] else "no lease",
                device["allocation"],
                *(unit[name] for name in ("remote", "held", "actual", "in_use")),
            )
    for unit in value["leaving"]:
        counts = (None, unit["remote"], unit["held"], None, None)
        add(unit["device"], unit["serial"], "leaving", "", *counts)
    return table


def wide_table(value: Mapping[str, Any], moment: Moment) -> Table:
    """Return devices and units with all that is known, for a wide terminal."""
    table = Table(title="Devices", box=SIMPLE_HEAD)
    for head in ("Device", "Tenant", "Serial", "Status", "Apply"):
        table.add_column(head)
    for head in ("Allocated", "Remote", "Held", "Actual", "In use"):
        table.add_column(head, justify="right")
    table.add_column("Pending")
    table.add_column("Last contact")
    table.add_column("Lease ends")
    types = list(value["types"])
    for device in value["devices"]:
        for unit in device["units"]:
            table.add_row(
                escape(device["name"]),
                escape(device["tenant"]),
                escape(unit["serial"]),
                unit["locked"] or unit["status"],
                device["apply"],
                _each(device["allocation"], types),
                _each(unit["remote"], types),
                _each(unit["held"], types),
                _each(unit["actual"], types),
                _each(unit["in_use"], types),
                "yes" if unit["pending"] else "",
                moment(unit["last_contact"]) if unit["last_contact"] else "never",
                moment(unit["lease_end"]) if unit["leased"] else "-",
            )
    for unit in value["leaving"]:
        table.add_row(
            escape(unit["device"]),
            "",
            escape(unit["serial"]),
            "leaving",
            "",
            "",
            _each(unit["remote"], types),
            _each(unit["held"], types),
        )
    table.caption = " / ".join(types)
    return table


def orders_table(value: Mapping[str, Any], moment: Moment) -> Table:
    """Return imported orders."""
    table = Table(title="Orders", box=SIMPLE_HEAD)
    for head in ("Order", "Counts", "Held", "Starts", "Ends", "In date"):
        table.add_column(head)
    for order in value["orders"]:
        table.add_row(
            escape(order["order_id"]),
            _counts(order["counts"]),
            _counts(order["held"]),
            moment(order["starts"]),
            moment(order["ends"]),
            "yes" if order["in_date"] else "no",
        )
    return table


def journal_table(value: Mapping[str, Any], moment: Moment) -> Table:
    """Return journal entries."""
    table = Table(title="Journal", box=SIMPLE_HEAD)
    for head in ("Time", "Who", "From", "Cause", "Detail"):
        table.add_column(head)
    for entry in value["journal"]:
        table.add_row(
            moment(entry["at"]),
            escape(entry["who"]),
            escape(entry["source"]),
            entry["cause"],
            escape(", ".join(f"{k}={v}" for k, v in entry["detail"].items())),
        )
    return table


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())
