"""`callpool device alarms`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from callpool.device.alarm_book import AlarmReport
from callpool.device.control import ask
from callpool.device.options import AsJson, Directory
from callpool.device.settings import Layout
from callpool.host.console import say
from callpool.licensing.alarm_table import DEFINITIONS, Severity
from callpool.licensing.alarms import Event


def shown(event: Event) -> dict[str, Any]:
    """Return one event by name, for scripts."""
    return {
        "sequence": event.sequence,
        "at": event.at,
        "severity": event.severity.name.lower(),
        "code": event.code,
        "text": event.text,
        "next_step": DEFINITIONS[event.code].next_step if event.code in DEFINITIONS else "",
        "oid": event.oid,
    }


def alarms(
    directory: Directory,
    history: Annotated[
        bool, typer.Option("--history", help="Every raise, change and clear, the newest first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the active alarms with what to do, or their history."""
    told = ask(Layout(directory.resolve()).control, "alarms", after=0, timeout=10.0)
    report = msgspec.convert(told, AlarmReport)
    events = tuple(reversed(report.history)) if history else report.active
    if as_json:
        typer.echo(msgspec.json.encode([shown(e) for e in events]).decode())
        return
    if not events:
        say("No alarm has been raised yet." if history else "No alarm is active.")
    for event in events:
        when = datetime.fromtimestamp(event.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        name = event.severity.name.lower()
        say(f"{event.sequence:6}  {when}  {name:8}  {event.text} [{event.code}]")
        if event.severity is not Severity.CLEARED and not history:
            say(f"{'':6}  {shown(event)['next_step']}")
