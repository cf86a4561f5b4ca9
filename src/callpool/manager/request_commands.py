"""`callpool pool requests` and `callpool pool cancel`: what waits for licenses, and for what."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from callpool.host.console import console, say
from callpool.licensing.capacity import LICENSE_TYPES
from callpool.manager.bulk_commands import Json, Preview, query, say_preview
from callpool.manager.client import ManagerClient

#: What a share that is being taken back waits for, in words.
_WAITS: Final = {
    "contact": "has not been in contact since",
    "restart": "waits for a restart with save",
    "calls": "waits for calls to end",
    "lease": "cannot be reached",
    "hitless": "waits for the end of its hitless installation",
}


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _wanted(request: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} {LICENSE_TYPES[kind].label}" for kind, n in request["wanted"].items())


def _why(request: Mapping[str, Any]) -> str:
    return "; ".join(request["why"].values()) or request["state"]


def request_notes(value: Mapping[str, Any]) -> Iterator[str]:
    """Say what the pool's requests wait for, a sentence each."""
    for request in value["requests"]:
        yield f"{request['device']} has asked for {_wanted(request)}: {_why(request)}."


def reclaim_notes(value: Mapping[str, Any]) -> Iterator[str]:
    """Say what units are to give back, and what that waits for, a sentence each."""
    units = [(d["name"], u) for d in value["devices"] for u in d["units"]]
    units += [(u["device"], u) for u in value["leaving"]]
    for name, unit in units:
        counts = ", ".join(f"{n} {LICENSE_TYPES[k].label}" for k, n in unit["reclaiming"].items())
        if not counts:
            continue
        until = f"; at the latest free after its lease, {_moment(unit['lease_end'])} UTC"
        yield (
            f"{name} ({unit['serial']}) is to give back {counts}: "
            f"{_WAITS[unit['reclaim_waits_for']]}{until if unit['leased'] else ''}."
        )


def requests_table(value: Mapping[str, Any]) -> Table:
    """Return the requests that wait, the one that waits longest first."""
    table = Table(title="Requests", box=SIMPLE_HEAD)
    for head in ("Device", "Tenant", "Asks for", "Since", "By", "State", "Waits for"):
        table.add_column(head, overflow="fold")
    for request in value["requests"]:
        table.add_row(
            escape(request["device"]),
            escape(request["tenant"]),
            _wanted(request),
            _moment(request["asked_at"]),
            escape(request["who"]),
            request["state"],
            escape(_why(request)),
        )
    return table


def show_requests(context: typer.Context, as_json: Json = False) -> None:
    """List the requests that wait for licenses, the longest waiting first."""
    opened: Callable[[], ManagerClient] = context.obj
    with opened() as client:
        value = client.whole("/requests")
    if as_json:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    elif value["requests"]:
        console.print(requests_table(value))
    else:
        say("No request waits.")


def cancel(
    context: typer.Context,
    device: Annotated[str, typer.Argument(help="The device's name.")],
    preview: Preview = False,
    as_json: Json = False,
) -> None:
    """Cancel a device's request; it keeps what it has."""
    opened: Callable[[], ManagerClient] = context.obj
    path = f"/devices/{quote(device, safe='')}/request{query(preview=preview)}"
    with opened() as client:
        value = client.call("DELETE", path)
    if as_json:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    elif preview:
        say_preview(value)
    else:
        say(f"{device} does not wait any more; it keeps what it has.")
