"""`callpool smart`: the authority's operator commands, a client of the manager's API."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from callpool.host.console import console, count_from, say
from callpool.licensing.capacity import CPS
from callpool.licensing.errors import LicenseError
from callpool.manager.client import ManagerClient
from callpool.manager.pool_commands import Json, call, connect, day, moment, shown
from callpool.manager.smart_tables import (
    accounts_table,
    alerts_table,
    events_table,
    instances_table,
    licenses_table,
    smart_orders_table,
    tokens_table,
)

smart_app = typer.Typer(
    no_args_is_help=True, help="Operate smart licensing: accounts, tokens, entitlements."
)
smart_app.callback()(connect)

Account = Annotated[str, typer.Option(help="The account; needed where there are several.")]
Virtual = Annotated[str, typer.Option(help="The virtual account; `default` where left out.")]
Within = Annotated[str, typer.Option("--virtual-account", help="Of this virtual account only.")]
OfAccount = Annotated[str, typer.Option("--account", help="Of this account only.")]
All = Annotated[bool, typer.Option("--all", help="With those that are over.")]
Instance = Annotated[str, typer.Argument(help="The instance's id, or its serial number.")]


def _query(path: str, **filters: str) -> str:
    given = {name: value for name, value in filters.items() if value}
    return f"{path}?{urlencode(given)}" if given else path


@smart_app.command()
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show licenses (Purchased, In use, Balance), instances and open alerts."""

    def tables(value: dict[str, Any]) -> None:
        console.print(licenses_table(value, moment))
        console.print(instances_table(value, day))
        if value["alerts"]:
            console.print(alerts_table(value, moment))

    call(context, "GET", "/smart", as_json=as_json, show=tables)


@smart_app.command()
def account(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A new account's name; none lists them.")] = "",
    as_json: Json = False,
) -> None:
    """Add an account with its virtual account `default`, or list accounts."""
    if not name:
        call(
            context,
            "GET",
            "/smart/accounts",
            as_json=as_json,
            show=lambda v: console.print(accounts_table(v)),
        )
        return
    call(
        context,
        "POST",
        "/smart/accounts",
        {"name": name},
        as_json=as_json,
        show=lambda _: say(f"Account {name} is added, with its virtual account default."),
    )


@smart_app.command("virtual-account")
def virtual_account(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The new virtual account's name.")],
    account: Account = "",
    as_json: Json = False,
) -> None:
    """Add a virtual account: licenses are counted within one."""
    call(
        context,
        "POST",
        "/smart/virtual-accounts",
        {"name": name, "account": account},
        as_json=as_json,
        show=lambda _: say(f"Virtual account {name} is added."),
    )


@smart_app.command()
def token(
    context: typer.Context,
    account: Account = "",
    virtual_account: Virtual = "",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[float, typer.Option(help="Days for which it is good.")] = 30.0,
    uses: Annotated[int, typer.Option(help="How many devices it registers.")] = 1,
    export_allowed: Annotated[
        bool, typer.Option("--export-allowed", help="Allow export-controlled functionality.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a registration token of a virtual account; it is shown this once."""
    if not math.isfinite(days):
        raise LicenseError("bad_request", f"A token is good for a number of days, not {days}.")
    body = {
        "account": account,
        "virtual_account": virtual_account,
        "description": description,
        "days": days,
        "uses": uses,
        "export_allowed": export_allowed,
    }
    call(context, "POST", "/smart/tokens", body, as_json=as_json, show=lambda v: say(v["token"]))


@smart_app.command()
def tokens(
    context: typer.Context,
    account: OfAccount = "",
    virtual_account: Within = "",
    as_json: Json = False,
) -> None:
    """List registration tokens, without their secrets."""
    call(
        context,
        "GET",
        _query("/smart/tokens", account=account, virtual_account=virtual_account),
        as_json=as_json,
        show=lambda v: console.print(tokens_table(v, day)),
    )


@smart_app.command()
def revoke(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(help="A token's number, or an instance: its ID certificate.")
    ],
    as_json: Json = False,
) -> None:
    """Revoke a registration token, or an instance's ID certificate."""
    if what.isdecimal() and len(what) < 12:
        call(
            context,
            "DELETE",
            f"/smart/tokens/{what}",
            as_json=as_json,
            show=lambda _: say(f"Token {what} is revoked."),
        )
        return
    call(
        context,
        "POST",
        f"/smart/instances/{quote(what, safe='')}/revoke",
        as_json=as_json,
        show=lambda v: say(f"The ID certificate of {v['instance_id']} is revoked."),
    )


@smart_app.command()
def order(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The vendor's order file (--role smart).")],
    account: Account = "",
    virtual_account: Virtual = "",
    as_json: Json = False,
) -> None:
    """Import a purchase order into a virtual account."""
    envelope = file.read_bytes()
    path = _query("/smart/orders", account=account, virtual_account=virtual_account)
    opened: Callable[[], ManagerClient] = context.obj
    with opened() as client:
        shown(
            client.import_order(envelope, path),
            as_json,
            lambda v: say(
                f"Order {v['order_id']} is imported into {v['account']}/{v['virtual_account']}:"
                f" {', '.join(f'{n} {tag}' for tag, n in v['counts'].items())}."
            ),
        )


@smart_app.command()
def orders(
    context: typer.Context,
    account: OfAccount = "",
    virtual_account: Within = "",
    as_json: Json = False,
) -> None:
    """List imported orders and where their licenses are."""
    call(
        context,
        "GET",
        _query("/smart/orders", account=account, virtual_account=virtual_account),
        as_json=as_json,
        show=lambda v: console.print(smart_orders_table(v, day)),
    )


# A negative count, such as -5, is no option: it is refused as a count.
@smart_app.command(context_settings={"ignore_unknown_options": True})
def transfer(
    context: typer.Context,
    count: Annotated[str, typer.Argument(help="TAG=COUNT; a bare number means cps.")],
    source: Annotated[str, typer.Option("--from", help="The virtual account that gives.")],
    target: Annotated[str, typer.Option("--to", help="The virtual account that gets.")],
    account: Account = "",
    order_id: Annotated[
        str, typer.Option("--order", help="Of this order; else those that end last.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Move licenses between two virtual accounts of one account."""
    tag, equals, number = count.partition("=")
    if not equals:
        tag, number = CPS, count
    body = {
        "tag": tag,
        "count": count_from(number, tag),
        "source": source,
        "target": target,
        "account": account,
        "order_id": order_id,
    }
    call(
        context,
        "POST",
        "/smart/transfers",
        body,
        as_json=as_json,
        show=lambda _: say(f"{number} {tag} are moved from {source} to {target}."),
    )


@smart_app.command()
def instances(
    context: typer.Context,
    account: OfAccount = "",
    virtual_account: Within = "",
    everything: All = False,
    as_json: Json = False,
) -> None:
    """List product instances, and what each was told last."""
    call(
        context,
        "GET",
        _query(
            "/smart/instances",
            account=account,
            virtual_account=virtual_account,
            all="1" if everything else "",
        ),
        as_json=as_json,
        show=lambda v: console.print(instances_table(v, day)),
    )


@smart_app.command()
def remove(context: typer.Context, instance: Instance, as_json: Json = False) -> None:
    """Take an instance off the list; its count is free at once, and it has to register again."""
    call(
        context,
        "DELETE",
        f"/smart/instances/{quote(instance, safe='')}",
        as_json=as_json,
        show=lambda v: say(f"{v['instance_id']} ({v['serial']}) is removed."),
    )


@smart_app.command()
def move(
    context: typer.Context,
    instance: Instance,
    target: Annotated[str, typer.Option("--to", help="The virtual account that gets it.")],
    as_json: Json = False,
) -> None:
    """Move an instance, with what it uses, to another virtual account of its account."""
    call(
        context,
        "POST",
        f"/smart/instances/{quote(instance, safe='')}/move",
        {"virtual_account": target},
        as_json=as_json,
        show=lambda v: say(f"{instance} is in {v['account']}/{v['virtual_account']} now."),
    )


@smart_app.command()
def alerts(
    context: typer.Context,
    dismiss: Annotated[int, typer.Option(help="Dismiss the alert of this number.", min=0)] = 0,
    kind: Annotated[str, typer.Option(help="Of this kind only.")] = "",
    everything: All = False,
    as_json: Json = False,
) -> None:
    """List open alerts, or dismiss one about what has happened."""
    if dismiss:
        call(
            context,
            "DELETE",
            f"/smart/alerts/{dismiss}",
            as_json=as_json,
            show=lambda _: say(f"Alert {dismiss} is dismissed."),
        )
        return
    call(
        context,
        "GET",
        _query("/smart/alerts", kind=kind, all="1" if everything else ""),
        as_json=as_json,
        show=lambda v: (
            console.print(alerts_table(v, moment)) if v["alerts"] else say("No alert is open.")
        ),
    )


@smart_app.command()
def events(
    context: typer.Context,
    limit: Annotated[
        int | None, typer.Option(help="Events to show; 40 by default, as CSV all.", min=1)
    ] = None,
    instance: Annotated[
        str, typer.Option(help="Of this instance only, by its id or serial number.")
    ] = "",
    tag: Annotated[str, typer.Option(help="Of this license only.")] = "",
    kind: Annotated[str, typer.Option(help="Of this kind only.")] = "",
    since: Annotated[str, typer.Option(help="From this day or time on, UTC.")] = "",
    until: Annotated[str, typer.Option(help="Before this day or time, UTC.")] = "",
    account: OfAccount = "",
    virtual_account: Within = "",
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV that is safe to open in a spreadsheet.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the event log, the newest first."""
    path = _query(
        "/smart/events",
        limit=str(limit or ("" if as_csv else 40)),
        instance=instance,
        tag=tag,
        kind=kind,
        since=_time(since),
        until=_time(until),
        account=account,
        virtual_account=virtual_account,
        format="csv" if as_csv else "",
    )
    if as_csv:
        opened: Callable[[], ManagerClient] = context.obj
        with opened() as client:
            sys.stdout.write(client.text(path).replace("\r\n", "\n"))
        return
    call(
        context, "GET", path, as_json=as_json, show=lambda v: console.print(events_table(v, moment))
    )


def _time(text: str) -> str:
    """Return a day or time, UTC where it names no zone, in seconds since 1970."""
    if not text:
        return ""
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise LicenseError(
            "bad_date", f"Give a day or time as 2026-01-31 or 2026-01-31T13:30, not {text[:40]!r}."
        ) from error
    return str((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp())
