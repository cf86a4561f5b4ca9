"""`callpool audit`: read the audit log, export it, verify it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from callpool.host.console import console, say
from callpool.manager import audit_verify
from callpool.manager.change import HERE
from callpool.manager.client import ManagerClient
from callpool.manager.core import Manager
from callpool.manager.pool_commands import Json, call, connect, moment, shown
from callpool.manager.settings import Layout

audit_app = typer.Typer(no_args_is_help=True, help="Read and verify the audit log.")
audit_app.callback()(connect)

Who = Annotated[str, typer.Option(help="Of this operator or serial number only.")]
Cause = Annotated[str, typer.Option(help="Of this cause only.")]
Outcome = Annotated[str, typer.Option(help="done or refused.")]
Tenant = Annotated[str, typer.Option(help="What concerns this tenant only.")]
OnHost = Annotated[
    Path | None,
    typer.Option("--dir", help="The manager's directory: on its host, without the API."),
]


def _query(**filters: object) -> str:
    given = {name: value for name, value in filters.items() if value}
    return f"/audit?{urlencode(given)}" if given else "/audit"


def audit_table(value: dict[str, Any]) -> Table:
    """Return lines of the audit log."""
    table = Table(title="Audit log", box=SIMPLE_HEAD)
    for head in ("Line", "Time", "Who", "Role", "From", "What", "Outcome", "Detail"):
        table.add_column(head, overflow="fold")
    for line in value["lines"]:
        table.add_row(
            str(line["entry"]),
            moment(line["at"]),
            escape(line["who"]),
            line["role"],
            escape(f"{line['source']} {line['via']}".strip()),
            escape(line["cause"]),
            line["outcome"],
            escape(", ".join(f"{k}={v}" for k, v in line["detail"].items())),
        )
    return table


@audit_app.command()
def show(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="Lines to show.", min=1, max=1000)] = 40,
    who: Who = "",
    cause: Cause = "",
    outcome: Outcome = "",
    tenant: Tenant = "",
    as_json: Json = False,
) -> None:
    """Show who did what, when, from where, the newest first."""
    call(
        context,
        "GET",
        _query(limit=limit, who=who, cause=cause, outcome=outcome, tenant=tenant),
        as_json=as_json,
        show=lambda v: console.print(audit_table(v)),
    )


@audit_app.command()
def export(
    context: typer.Context,
    form: Annotated[str, typer.Option("--format", help="csv or jsonl.")] = "csv",
    who: Who = "",
    cause: Cause = "",
    outcome: Outcome = "",
    tenant: Tenant = "",
) -> None:
    """Print the audit log, the newest line first."""
    opened: Callable[[], ManagerClient] = context.obj
    path = _query(format=form, who=who, cause=cause, outcome=outcome, tenant=tenant)
    with opened() as client:
        sys.stdout.write(client.text(path))


@audit_app.command()
def head(context: typer.Context, as_json: Json = False) -> None:
    """Print the log's signed head, to be kept elsewhere."""
    call(context, "GET", "/audit/head", as_json=as_json, show=lambda v: say(v["envelope"]))


@audit_app.command()
def verify(
    context: typer.Context,
    heads: Annotated[
        list[Path] | None, typer.Option("--head", help="A head that was kept elsewhere.")
    ] = None,
    directory: OnHost = None,
    as_json: Json = False,
) -> None:
    """Verify the whole audit log; the status is 1 where something is not as it was written."""
    envelopes = [file.read_text(errors="replace").strip() for file in heads or ()]
    if directory is not None:
        manager = Manager(Layout(directory))
        value = msgspec.to_builtins(audit_verify.verify(manager, envelopes))
        manager.close()
    else:
        opened: Callable[[], ManagerClient] = context.obj
        with opened() as client:
            value = client.call("POST", "/audit/verify", {"heads": envelopes}, timeout=600.0)
    shown(value, as_json, say_verdict)
    raise typer.Exit(0 if value["whole"] else 1)


def say_verdict(value: dict[str, Any]) -> None:
    """Say what was found, a sentence each."""
    for finding in (*value["findings"], *value["accepted"]):
        say(finding["sentence"])
    if value["more_findings"]:
        say(f"{value['more_findings']} more findings.")
    head = value["head"]
    if head:
        say(
            f"Signed up to line {head['number']}, {moment(head['at'])} UTC; "
            f"{value['after_head']} lines came after."
        )
    verdict = "The log is whole" if value["whole"] else "The log is NOT whole"
    say(f"{verdict}: {value['lines']} lines, the last is {value['last']}.")


@audit_app.command()
def accept(
    line: Annotated[int, typer.Argument(help="The line that tells of lost lines.")],
    reason: Annotated[str, typer.Option(help="Why, such as a restored backup.")],
    directory: Annotated[Path, typer.Option("--dir", help="The manager's directory.")],
    operator: Annotated[str, typer.Option(help="Who decides.")] = "root",
) -> None:
    """Accept that lines were lost, on the manager's host; it is written down."""
    manager = Manager(Layout(directory))
    try:
        manager.change(operator, HERE, lambda c: audit_verify.accept(c, line, reason))
    finally:
        manager.close()
    say(f"The loss that line {line} tells of is accepted.")
