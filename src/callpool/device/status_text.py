"""`callpool device status`: the device as its operator reads it, with what to do."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.table import Table

from callpool.device.alarms import DEFINITIONS, span
from callpool.device.service import waits_for
from callpool.device.smart_status import rows
from callpool.device.status import PairStatus, Status
from callpool.host.console import console, say


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def lines(now: Status) -> list[tuple[str, str]]:
    """Return label and value of what stands above the table; times absolute and as spans."""
    found = [
        ("Serial number", now.serial),
        ("Mode", now.mode),
        ("License Server Status", now.server_status),
        ("In service", f"No: {now.out_of_service}" if now.out_of_service else "Yes"),
    ]
    if now.unsaved:
        found.append(("Unsaved configuration", "Yes: lost at a restart unless written by `wr`"))
    if now.waiting and now.in_service:
        found.append(("Waiting", waits_for(now.waiting)))
    if now.product_key:
        found.append(("Product key", now.product_key))
    if now.last_contact is not None:
        ago = span(now.time - now.last_contact)
        found.append(("Last contact", f"{_when(now.last_contact)} ({ago} ago)"))
    if now.lease_end is not None and now.lease_seconds is not None:
        found.append(("Lease ends", f"{_when(now.lease_end)} (in {span(now.lease_seconds)})"))
    if now.pair is not None:
        found += pair_lines(now.pair)
    if now.features:
        found.append(("Features", ", ".join(now.features)))
    return found + (rows(now.smart) if now.smart is not None else [])


def pair_lines(pair: PairStatus) -> list[tuple[str, str]]:
    """Return label and value of what a unit says of its HA pair."""
    heard = "never heard" if pair.peer_age < 0 else f"heard {pair.peer_age:.1f} s ago"
    found = [
        ("HA role", f"{pair.role} (service address {pair.service})"),
        ("HA synchronised", "Yes" if pair.synchronised else "No"),
        ("HA other unit", f"{pair.peer} {pair.peer_role or 'unknown'}, {heard}"),
        ("HA license versions", f"{pair.running_version} here, {pair.peer_version} there"),
    ]
    if pair.switch_result:
        found.append(("HA last switchover order", f"{pair.switch_done}: {pair.switch_result}"))
    return found


def show(now: Status) -> None:
    """Print the device: its standing, its capacity, its alarms and what to do about each."""
    for label, value in lines(now):
        say(f"{label:28} {value}")
    table = Table("SBC Capacity", "Remote", "Local", "Actual", "in use", "peak", "after restart")
    for row in now.capacity:
        after = str(row.pending) if row.pending != row.actual else ""
        counts = (row.remote, row.local, row.actual, row.in_use, row.peak)
        table.add_row(row.label, *(str(n) for n in counts), after)
    console.print(table)
    if now.pending:
        say(
            "A change is pending: restart with save to apply it (`callpool device restart --save`,"
            " or from the manager); calls that are up survive it."
        )
    for alarm in now.alarms:
        say(f"{alarm.severity}: {alarm.text} [{alarm.code}]")
        say(f"  To do: {DEFINITIONS[alarm.code].next_step}")
