"""`callpool pool`: the operator's commands, a client of the manager's API."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from callpool.host.console import console, count_from, say
from callpool.licensing.capacity import FAR_END_USERS, SBC_SESSIONS, check_type
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager.bulk_commands import (
    Preview,
    Wait,
    Within,
    bulk,
    export,
    query,
    say_preview,
)
from callpool.manager.client import ManagerClient, find_connection
from callpool.manager.hitless_commands import hitless, pair, pair_notes, unpair
from callpool.manager.pool_tables import (
    cancelled_note,
    devices_table,
    journal_table,
    orders_table,
    restored_note,
    types_table,
    wide_table,
    window_notes,
)
from callpool.manager.request_commands import cancel, reclaim_notes, request_notes, show_requests
from callpool.manager.usage_commands import usage

pool_app = typer.Typer(no_args_is_help=True, help="Operate the license pool.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The device's name.")]
Counts = Annotated[
    list[str] | None, typer.Argument(help="TYPE=COUNT; a bare number means sbc_sessions.")
]


pool_app.command()(usage)
pool_app.command()(bulk)
pool_app.command()(export)
pool_app.command("requests")(show_requests)
pool_app.command()(cancel)
pool_app.command()(pair)
pool_app.command()(unpair)
pool_app.command()(hitless)


@pool_app.callback()
def connect(
    context: typer.Context,
    manager: Annotated[str, typer.Option(help="The manager's URL.")] = "",
    ca_file: Annotated[str, typer.Option(help="Its certificate authority.")] = "",
    username: Annotated[str, typer.Option(help="The operator's name.")] = "",
    lab: Annotated[str, typer.Option(help="A lab's directory.")] = "",
) -> None:
    """Say where the manager is; CALLPOOL_PASSWORD holds the password."""

    def opened() -> ManagerClient:
        return ManagerClient(
            find_connection(manager=manager, ca_file=ca_file, username=username, lab=lab)
        )

    context.obj = opened


def targets_from(words: Sequence[str]) -> dict[str, int]:
    """Read `TYPE=COUNT` words, 0 included.

    Raises LicenseError `unknown_license_type`, `bad_count`, `repeated_license_type`.
    """
    counts: dict[str, int] = {}
    for word in words:
        name, equals, count = word.partition("=")
        if not equals:
            name, count = SBC_SESSIONS, word
        if check_type(name, pooled=True) in counts:
            raise LicenseError("repeated_license_type", f"{name} is given twice.")
        counts[name] = count_from(count, name)
    return counts


def moment(seconds: float) -> str:
    """Return manager's time for people, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def day(seconds: float) -> str:
    """Return the day of manager's time, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def call(
    context: typer.Context,
    method: str,
    path: str,
    body: object = None,
    *,
    as_json: bool,
    show: Callable[[dict[str, Any]], None],
    preview: bool = False,
) -> None:
    """Call the manager's API and show the answer, or print it as JSON.

    With `preview` ask what the change would do, and show that.

    Raises CallpoolError as `ManagerClient.call` does.
    """
    opened: Callable[[], ManagerClient] = context.obj
    with opened() as client:
        if preview:
            path += ("&" if "?" in path else "?") + "preview=true"
        if method == "GET" and "limit=" not in path:
            value = client.whole(path)
        else:
            value = client.call(method, path, body)
        shown(value, as_json, say_preview if preview else show)


def shown(value: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    """Print an answer as JSON, or show it."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    else:
        show(value)


def _path(name: str) -> str:
    return f"/devices/{quote(name, safe='')}"


@pool_app.command()
def show(
    context: typer.Context,
    wide: Annotated[bool, typer.Option("--wide", help="All columns, for a wide terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Show the pool: what is purchased, allocated, held and in use."""

    def tables(value: dict[str, Any]) -> None:
        if value["restored"]:
            say(restored_note(value["restored"], moment))
        console.print(types_table(value))
        console.print(wide_table(value, moment) if wide else devices_table(value, day))
        for note in (*request_notes(value), *reclaim_notes(value)):
            say(note)
        for note in (*window_notes(value, moment), *pair_notes(value)):
            say(note)
        hidden = value["devices_total"] - len(value["devices"])
        if hidden > 0:
            say(f"{hidden} more devices: the API's /devices and the console list them by pages.")

    call(context, "GET", "/pool", as_json=as_json, show=tables)


# A negative count, such as -1, is no option: it is refused as a count.
@pool_app.command(context_settings={"ignore_unknown_options": True})
def allocate(
    context: typer.Context,
    device: Name,
    counts: Counts = None,
    sbc_sessions: Annotated[str, typer.Option(help="Concurrent call sessions.")] = "",
    far_end_users: Annotated[str, typer.Option(help="Registered users.")] = "",
    wait: Wait = False,
    preview: Preview = False,
    within: Within = "",
    as_json: Json = False,
) -> None:
    """Set what a device is to have."""
    named = ((SBC_SESSIONS, sbc_sessions), (FAR_END_USERS, far_end_users))
    wanted = targets_from([*(counts or []), *(f"{kind}={n}" for kind, n in named if n)])

    def done(value: dict[str, Any]) -> None:
        said = ", ".join(f"{n} {name}" for name, n in wanted.items())
        if value["waiting"]:
            say(f"{device} waits for {said}; it keeps what it has until then.")
        else:
            say(f"{device} is allocated {said}.")
        for note in value["notes"]:
            say(f"Note: {note}")

    path = f"{_path(device)}/allocation" + query(wait=wait, tenant=within)
    call(context, "PUT", path, wanted, as_json=as_json, show=done, preview=preview)


@pool_app.command()
def order(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The vendor's order file.")],
    preview: Preview = False,
    as_json: Json = False,
) -> None:
    """Import a purchase order."""
    envelope = file.read_bytes()
    opened: Callable[[], ManagerClient] = context.obj
    with opened() as client:
        value = client.import_order(envelope, "/orders" + query(preview=preview))

    def done(value: dict[str, Any]) -> None:
        say(f"Order {value['order_id']} is imported: {value['counts']}.")

    shown(value, as_json, say_preview if preview else done)


@pool_app.command()
def orders(context: typer.Context, as_json: Json = False) -> None:
    """List imported orders."""
    call(
        context,
        "GET",
        "/orders",
        as_json=as_json,
        show=lambda v: console.print(orders_table(v, moment)),
    )


@pool_app.command()
def tenant(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The tenant's name.")],
    shares: Annotated[list[str] | None, typer.Argument(help="TYPE=COUNT.")] = None,
    preview: Preview = False,
    as_json: Json = False,
) -> None:
    """Add a tenant, or set the shares of one that exists."""
    wanted = targets_from(shares or [])
    opened: Callable[[], ManagerClient] = context.obj
    with opened() as client:
        path = f"/tenants/{quote(name, safe='')}"
        try:
            client.call("GET", path)
        except CallpoolError as error:
            if error.code != "unknown_tenant":
                raise
            body = {"name": name, "shares": wanted}
            value = client.call("POST", "/tenants" + query(preview=preview), body)
        else:
            value = client.call("PUT", path + query(preview=preview), wanted)

    def done(_: dict[str, Any]) -> None:
        say(f"Tenant {name}: {wanted or 'no share set'}.")

    shown(value, as_json, say_preview if preview else done)


@pool_app.command()
def add(
    context: typer.Context,
    name: Name,
    serials: Annotated[list[str], typer.Argument(help="Serial number; two for an HA pair.")],
    tenant_name: Annotated[str, typer.Option("--tenant", help="Its tenant.")] = "default",
    apply: Annotated[str, typer.Option(help="restart or live.")] = "restart",
    as_json: Json = False,
) -> None:
    """Add a device by its serial number."""
    body = {"name": name, "serials": serials, "tenant": tenant_name, "apply": apply}
    call(
        context,
        "POST",
        "/devices",
        body,
        as_json=as_json,
        show=lambda _: say(f"{name} is added."),
    )


@pool_app.command("set")
def set_device(
    context: typer.Context,
    name: Name,
    tenant_name: Annotated[str | None, typer.Option("--tenant", help="Its tenant.")] = None,
    apply: Annotated[str | None, typer.Option(help="restart or live.")] = None,
    mode: Annotated[str | None, typer.Option(help="fixed or none.")] = None,
    preview: Preview = False,
    as_json: Json = False,
) -> None:
    """Change a device's tenant, way to apply, or mode."""
    asked = {"tenant": tenant_name, "apply": apply, "mode": mode}
    body = {k: v for k, v in asked.items() if v is not None}
    call(
        context,
        "PATCH",
        _path(name),
        body,
        as_json=as_json,
        show=lambda _: say(f"{name} is set."),
        preview=preview,
    )


@pool_app.command()
def remove(
    context: typer.Context, name: Name, preview: Preview = False, as_json: Json = False
) -> None:
    """Remove a device; its licenses are free once it confirms, or when its lease ends."""
    call(
        context,
        "DELETE",
        _path(name),
        as_json=as_json,
        show=lambda _: say(f"{name} is removed."),
        preview=preview,
    )


@pool_app.command()
def restart(
    context: typer.Context,
    name: Name,
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Apply what was received.")
    ] = False,
    window: Annotated[str, typer.Option(help="HH:MM-HH:MM, UTC: wait for this time of day.")] = "",
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel a restart that waits for its window.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Restart a device's SIP service, now or in a window; established calls go on."""
    path = f"{_path(name)}/restart"
    if cancel:
        if save or window:
            raise LicenseError("bad_request", "--cancel stands alone.")
        call(
            context,
            "DELETE",
            path,
            as_json=as_json,
            show=lambda v: say(cancelled_note(name, v["given_already"])),
        )
        return
    how = f"restart{' with save' if save else ''}"
    when = f" in the window {window} UTC" if window else ""
    call(
        context,
        "POST",
        path,
        {"save": save, "window": window},
        as_json=as_json,
        show=lambda _: say(f"{name} is asked to {how}{when}."),
    )


@pool_app.command()
def replace(
    context: typer.Context,
    name: Name,
    serial: Annotated[str, typer.Argument(help="The old serial number.")],
    by: Annotated[str, typer.Argument(help="The new serial number.")],
    old_is_off: Annotated[
        bool, typer.Option("--old-is-off", help="You state that the old unit is off.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let another serial number take the place of one that is off."""
    body = {"serial": serial, "by": by, "old_is_off": old_is_off}
    call(
        context,
        "POST",
        f"{_path(name)}/replace",
        body,
        as_json=as_json,
        show=lambda _: say(f"{by} takes the place of {serial} in {name}."),
    )


@pool_app.command()
def token(
    context: typer.Context,
    uses: Annotated[int, typer.Option(help="How many devices it enrols.")] = 1,
    days: Annotated[float, typer.Option(help="Days for which it is good.")] = 7.0,
    tenant_name: Annotated[
        str, typer.Option("--tenant", help="Enrols devices of this tenant only.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Make a registration token; it is shown this once."""
    call(
        context,
        "POST",
        "/tokens",
        {"uses": uses, "days": days, "tenant": tenant_name},
        as_json=as_json,
        show=lambda v: say(v["token"]),
    )


@pool_app.command()
def unlock(
    context: typer.Context,
    serial: Annotated[str, typer.Argument(help="The unit's serial number.")],
    as_json: Json = False,
) -> None:
    """Release a locked unit; prints the token by which one machine goes on as it."""
    call(
        context,
        "POST",
        f"/units/{quote(serial, safe='')}/unlock",
        as_json=as_json,
        show=lambda v: say(v["token"]),
    )


@pool_app.command()
def revoke(
    context: typer.Context,
    serial: Annotated[str, typer.Argument(help="The unit's serial number.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the journal.")] = "",
    as_json: Json = False,
) -> None:
    """Revoke the identity of a unit that is lost or stolen; `unlock` gives the number out again."""
    call(
        context,
        "POST",
        f"/units/{quote(serial, safe='')}/revoke",
        {"reason": reason},
        as_json=as_json,
        show=lambda v: say(
            f"{v['serial']} gets no lease any more; what it holds is free once its lease has ended."
        ),
    )


@pool_app.command()
def journal(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="Entries to show.", min=1, max=1000)] = 40,
    as_json: Json = False,
) -> None:
    """Show what was changed, when, why and by whom, the newest first."""
    call(
        context,
        "GET",
        f"/journal?limit={limit}",
        as_json=as_json,
        show=lambda v: console.print(journal_table(v, moment)),
    )
