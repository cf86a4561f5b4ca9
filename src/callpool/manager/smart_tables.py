"""The tables that `callpool smart` prints, within 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from callpool.manager.pool_tables import Moment

Value = Mapping[str, Any]


def _table(title: str, *heads: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", overflow="fold")
    return table


def _where(row: Value) -> str:
    return escape("/".join(str(row[k]) for k in ("account", "virtual_account") if row[k]))


def accounts_table(value: Value) -> Table:
    """Return accounts and their virtual accounts."""
    table = _table("Accounts", "Account", "Virtual accounts")
    for row in value["accounts"]:
        table.add_row(escape(row["name"]), escape(", ".join(row["virtual_accounts"])))
    return table


def licenses_table(value: Value, moment: Moment) -> Table:
    """Return Purchased, In use and Balance."""
    counts = ("Purchased", "In use", "Balance")
    table = _table("Licenses", "Virtual account", "License", *counts, "Status", right=counts)
    for row in value["entitlements"]:
        since = row["out_of_compliance_since"]
        table.add_row(
            _where(row),
            row["tag"],
            *(str(row[name]) for name in ("purchased", "in_use", "balance")),
            f"out of compliance since {moment(since)}" if since else "in compliance",
        )
    return table


def instances_table(value: Value, day: Moment) -> Table:
    """Return product instances and their latest authorization.

    Below an instance stands its serial number, below what it was told until when that holds,
    below its status when it called last.
    """
    table = _table("Product instances", "Instance, serial", "Virtual account")
    table.add_column("Status, last call")
    table.add_column("Count", justify="right", no_wrap=True)
    table.add_column("Told, expires")
    for row in value["instances"]:
        given = row["authorizations"] or [None]
        for one in given:
            told = one and f"{one['status'].replace('_', ' ')}\n{day(one['expires_at'])}"
            table.add_row(
                f"{row['instance_id']}\n{escape(row['serial'])}",
                _where(row),
                f"{row['status']}\n{day(row['last_contact'])}",
                str(one["count"]) if one else "-",
                told or "nothing yet",
            )
    return table


def tokens_table(value: Value, day: Moment) -> Table:
    """Return registration tokens."""
    table = _table(
        "Registration tokens",
        *("Id", "Virtual account", "Description", "Uses left", "Expires", "Export", "Good"),
        right=("Id", "Uses left"),
    )
    for row in value["tokens"]:
        table.add_row(
            str(row["id"]),
            _where(row),
            escape(row["description"]),
            str(row["uses_left"]),
            day(row["expires"]),
            "allowed" if row["export_allowed"] else "",
            "yes"
            if row["usable"]
            else "revoked"
            if row["revoked"]
            else "expired"
            if row["uses_left"]
            else "used up",
        )
    return table


def smart_orders_table(value: Value, day: Moment) -> Table:
    """Return imported orders and where their licenses are."""
    table = _table(
        "Orders",
        *("Order", "Virtual account", "License", "Count", "Starts", "Ends", "In date"),
        right=("Count",),
    )
    for row in value["orders"]:
        table.add_row(
            escape(row["order_id"]),
            _where(row),
            row["tag"],
            str(row["count"]),
            day(row["starts"]),
            day(row["ends"]),
            "yes" if row["in_date"] else "no",
        )
    return table


def alerts_table(value: Value, moment: Moment) -> Table:
    """Return alerts."""
    table = _table("Alerts", "Id", "Severity", "Raised", "Message", "What to do")
    for row in value["alerts"]:
        table.add_row(
            str(row["id"]),
            row["severity"] if row["cleared_at"] is None else "ended",
            moment(row["raised_at"]),
            escape(row["message"]),
            escape(row["action"]),
        )
    return table


def events_table(value: Value, moment: Moment) -> Table:
    """Return the event log."""
    table = _table("Events", "Time", "Who", "Virtual account", "Event")
    for row in value["events"]:
        table.add_row(moment(row["at"]), escape(row["who"]), _where(row), escape(row["message"]))
    return table
