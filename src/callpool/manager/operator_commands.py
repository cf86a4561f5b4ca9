"""`callpool operator`: operators, roles and API tokens, a client of the manager's API."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from callpool.host.console import console, say
from callpool.manager.client import ManagerClient
from callpool.manager.pool_commands import Json, call, connect, moment, shown

operator_app = typer.Typer(
    no_args_is_help=True, help="Operators, their roles, sessions and API tokens."
)
operator_app.callback()(connect)

Username = Annotated[str, typer.Argument(help="The operator's name.")]
Tenants = Annotated[
    list[str] | None, typer.Option("--tenant", help="A tenant operator's tenant; repeatable.")
]


def _path(username: str) -> str:
    return f"/operators/{quote(username, safe='')}"


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(escape(text) for text in row))
    return table


def _when(seconds: float | None) -> str:
    return moment(seconds) if seconds else "never"


def operators_table(value: dict[str, Any]) -> Table:
    """Return the operators."""
    return _table(
        "Operators",
        ("Name", "Role", "Tenants", "Let in", "Last sign-in"),
        [
            (
                o["username"],
                o["role"],
                ", ".join(o["tenants"]),
                "no" if o["disabled"] else "yes",
                _when(o["last_sign_in"]),
            )
            for o in value["operators"]
        ],
    )


def tokens_table(value: dict[str, Any]) -> Table:
    """Return API tokens."""
    return _table(
        "API tokens",
        ("Id", "Owner", "Name", "Scopes", "Good until", "Last used", "Usable"),
        [
            (
                str(t["id"]),
                t["username"],
                t["name"],
                ", ".join(t["scopes"]),
                moment(t["expires"]),
                _when(t["last_used"]),
                "yes" if t["usable"] else "no",
            )
            for t in value["api_tokens"]
        ],
    )


@operator_app.command("list")
def show(context: typer.Context, as_json: Json = False) -> None:
    """List the operators."""
    call(
        context,
        "GET",
        "/operators",
        as_json=as_json,
        show=lambda v: console.print(operators_table(v)),
    )


@operator_app.command()
def me(context: typer.Context, as_json: Json = False) -> None:
    """Show who you are to the manager, and what you may do."""

    def said(value: dict[str, Any]) -> None:
        of = f" of {', '.join(value['tenants'])}" if value["tenants"] else ""
        say(f"{value['username']}, {value['role']}{of}: {', '.join(value['permissions'])}")

    call(context, "GET", "/me", as_json=as_json, show=said)


@operator_app.command("sign-in")
def sign_in(context: typer.Context, as_json: Json = False) -> None:
    """Open a session of 12 hours; prints its token, for CALLPOOL_TOKEN."""
    opened: Callable[[], ManagerClient] = context.obj
    with opened() as client:
        shown(client.sign_in(), as_json, lambda v: say(v["token"]))


@operator_app.command("sign-out")
def sign_out(context: typer.Context, as_json: Json = False) -> None:
    """End the session whose token is in CALLPOOL_TOKEN."""
    call(
        context,
        "DELETE",
        "/sessions/current",
        as_json=as_json,
        show=lambda _: say("Signed out."),
    )


@operator_app.command()
def add(
    context: typer.Context,
    username: Username,
    role: Annotated[
        str,
        typer.Option(help="administrator, license_operator, tenant_operator, viewer or auditor."),
    ] = "viewer",
    tenants: Tenants = None,
    as_json: Json = False,
) -> None:
    """Add an operator; prints the first password, this once."""
    call(
        context,
        "POST",
        "/operators",
        {"username": username, "role": role, "tenants": tenants or []},
        as_json=as_json,
        show=lambda v: say(v["password"]),
    )


@operator_app.command("set")
def set_operator(
    context: typer.Context,
    username: Username,
    role: Annotated[str | None, typer.Option(help="The new role.")] = None,
    tenants: Tenants = None,
    disabled: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Let in no more, or again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change an operator's role or tenants, or whether he is let in."""
    asked = {"role": role, "tenants": tenants, "disabled": disabled}
    body = {k: v for k, v in asked.items() if v is not None}
    call(
        context,
        "PATCH",
        _path(username),
        body,
        as_json=as_json,
        show=lambda _: say(f"{username} is changed."),
    )


@operator_app.command()
def remove(context: typer.Context, username: Username, as_json: Json = False) -> None:
    """Remove an operator with his sessions and tokens."""
    call(
        context,
        "DELETE",
        _path(username),
        as_json=as_json,
        show=lambda _: say(f"{username} is removed."),
    )


@operator_app.command()
def password(context: typer.Context, username: Username, as_json: Json = False) -> None:
    """Give an operator a new password; prints it, this once. His sessions end."""
    call(
        context,
        "PUT",
        f"{_path(username)}/password",
        {},
        as_json=as_json,
        show=lambda v: say(v["password"]),
    )


@operator_app.command("my-password")
def my_password(context: typer.Context, as_json: Json = False) -> None:
    """Change your own password: the old and the new, a line each, or asked for."""
    if sys.stdin.isatty():
        old, new = getpass.getpass("Old password: "), getpass.getpass("New password: ")
    else:
        old, new = (sys.stdin.readline().rstrip("\n") for _ in range(2))
    call(
        context,
        "PUT",
        "/me/password",
        {"old": old, "new": new},
        as_json=as_json,
        show=lambda _: say("The password is changed."),
    )


@operator_app.command("end-sessions")
def end_sessions(context: typer.Context, username: Username, as_json: Json = False) -> None:
    """End all sessions of an operator."""
    call(
        context,
        "DELETE",
        f"{_path(username)}/sessions",
        as_json=as_json,
        show=lambda v: say(f"{v['ended']} sessions of {username} are ended."),
    )


@operator_app.command()
def tokens(
    context: typer.Context,
    everybody: Annotated[bool, typer.Option("--all", help="Everybody's.")] = False,
    as_json: Json = False,
) -> None:
    """List API tokens."""
    call(
        context,
        "GET",
        "/all-api-tokens" if everybody else "/api-tokens",
        as_json=as_json,
        show=lambda v: console.print(tokens_table(v)),
    )


@operator_app.command()
def token(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scopes: Annotated[
        list[str],
        typer.Option("--scope", help="read, pool, smart, operators, audit, metrics; repeatable."),
    ],
    days: Annotated[float, typer.Option(help="Days for which it is good.")] = 90.0,
    as_json: Json = False,
) -> None:
    """Make an API token of yours; it is shown this once."""
    call(
        context,
        "POST",
        "/api-tokens",
        {"name": name, "scopes": scopes, "days": days},
        as_json=as_json,
        show=lambda v: say(v["token"]),
    )


@operator_app.command()
def revoke(
    context: typer.Context,
    number: Annotated[int, typer.Argument(help="The token's id.")],
    anybody: Annotated[bool, typer.Option("--any", help="Somebody else's.")] = False,
    as_json: Json = False,
) -> None:
    """Revoke an API token."""
    call(
        context,
        "DELETE",
        f"{'/all-api-tokens' if anybody else '/api-tokens'}/{number}",
        as_json=as_json,
        show=lambda _: say(f"API token {number} is revoked."),
    )
