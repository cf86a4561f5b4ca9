"""`callpool alarms`: what is active on the manager and its devices, what has been, acknowledge."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from callpool.host.console import console, say
from callpool.manager.pool_commands import call, connect, moment
from callpool.manager.usage_commands import window

alarms_app = typer.Typer(no_args_is_help=True, help="Alarms of the manager and of its devices.")
alarms_app.callback()(connect)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DeviceName = Annotated[str, typer.Option("--device", help="Only this device.")]
Tenant = Annotated[str, typer.Option(help="Only this tenant.")]
Severity = Annotated[str, typer.Option(help="warning, minor, major or critical, and graver.")]
Limit = Annotated[int, typer.Option(help="At most so many.", min=1, max=1000)]
Cursor = Annotated[str, typer.Option(help="Go on after the page before, which named it.")]


def _query(**asked: object) -> str:
    return urlencode({k: v for k, v in asked.items() if v not in ("", 0, None)})


@alarms_app.command()
def active(
    context: typer.Context,
    device: DeviceName = "",
    tenant: Tenant = "",
    severity: Severity = "",
    limit: Limit = 100,
    cursor: Cursor = "",
    as_json: Json = False,
) -> None:
    """Show what is active, the newest first."""

    def tables(value: dict[str, Any]) -> None:
        if not value["alarms"]:
            say("No alarm is active.")
            return
        console.print(active_table(value))
        _say_next(value)

    asked = _query(device=device, tenant=tenant, severity=severity, limit=limit, cursor=cursor)
    call(context, "GET", f"/alarms?{asked}", as_json=as_json, show=tables)


@alarms_app.command()
def history(
    context: typer.Context,
    device: DeviceName = "",
    tenant: Tenant = "",
    severity: Severity = "",
    since: Annotated[str, typer.Option(help="How far back, such as 90m, 12h or 7d.")] = "",
    limit: Limit = 100,
    cursor: Cursor = "",
    as_json: Json = False,
) -> None:
    """Show raises, changes and clears, the newest first."""
    asked = _query(
        device=device,
        tenant=tenant,
        severity=severity,
        since=max(0, int(time.time() - window(since))) if since else "",
        limit=limit,
        cursor=cursor,
    )

    def tables(value: dict[str, Any]) -> None:
        console.print(history_table(value))
        _say_next(value)

    call(context, "GET", f"/alarms/history?{asked}", as_json=as_json, show=tables)


@alarms_app.command()
def ack(
    context: typer.Context,
    number: Annotated[int, typer.Argument(help="The alarm's number, as `active` shows it.")],
    note: Annotated[str, typer.Option(help="Why, or what is being done.")] = "",
    as_json: Json = False,
) -> None:
    """Acknowledge an active alarm: whoever looks next knows that you have seen it."""
    call(
        context,
        "POST",
        f"/alarms/{number}/acknowledge",
        {"note": note},
        as_json=as_json,
        show=lambda v: say(f"Alarm {v['id']} is acknowledged by {v['acknowledged_by']}."),
    )


@alarms_app.command()
def links(context: typer.Context, as_json: Json = False) -> None:
    """Show how far each target was told, and what the SNMP receiver has counted."""

    def tables(value: dict[str, Any]) -> None:
        table = Table(title="Targets", box=SIMPLE_HEAD)
        for head in ("Target", "Told", "Behind", "Fails since", "Why"):
            table.add_column(head, overflow="fold")
        for t in value["targets"]:
            since = moment(t["failing_since"]) if t["failing_since"] else ""
            table.add_row(
                escape(t["name"]), str(t["told"]), str(t["behind"]), since, escape(t["failure"])
            )
        console.print(table)
        snmp = value["snmp"]
        say(f"SNMP notifications are taken at {snmp['listen'] or 'no address'}.")
        for name, count in sorted(snmp["counts"].items()):
            if count:
                say(f"  {name:18} {count}")

    call(context, "GET", "/alarms/links", as_json=as_json, show=tables)


def _say_next(value: dict[str, Any]) -> None:
    if value["next"] is not None:
        say(f"There are more: --cursor {value['next']}")


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def active_table(value: dict[str, Any]) -> Table:
    """Return active alarms."""
    table = _table("Active alarms", "No.", "Since", "Severity", "Device", "Alarm", "Seen by")
    for a in value["alarms"]:
        expected = f"expected: {a['expected']}" if a["expected"] else ""
        table.add_row(
            str(a["id"]),
            moment(a["raised_at"]),
            "\n".join(filter(None, (a["severity"], escape(expected)))),
            _who(a),
            escape(a["text"]),
            escape(a["acknowledged_by"]),
        )
    return table


def history_table(value: dict[str, Any]) -> Table:
    """Return events of alarms."""
    table = _table("Alarm history", "No.", "At", "What", "Severity", "Device", "Alarm", "By")
    for e in value["events"]:
        table.add_row(
            str(e["id"]),
            moment(e["at"]),
            e["transition"],
            e["severity"],
            _who(e),
            escape(e["text"]),
            escape(e["who"] if e["transition"] == "acknowledged" else e["source"]),
        )
    return table


def _who(a: dict[str, Any]) -> str:
    name = a["device"] or "manager"
    about = a["about"] if a["about"] not in ("system0Mo", "manager") else ""
    return "\n".join(escape(part) for part in (name, a["serial"], about) if part)
