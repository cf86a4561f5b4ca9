"""`callpool device snmp`: set, show, off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from callpool.device.options import AsJson, Directory
from callpool.device.settings import Layout
from callpool.host.console import say
from callpool.host.snmp.settings import SnmpSettings, read_settings, write_settings

snmp_app = typer.Typer(no_args_is_help=True, help="SNMP: who may read, who is told.")

_NEXT_RUN = "It counts from the next `callpool device run` on."


@snmp_app.command("set")
def set_(
    file: Annotated[
        Path, typer.Argument(help="A JSON file with the settings; - for standard input.")
    ],
    directory: Directory,
    as_json: AsJson = False,
) -> None:
    """Check the settings and put them into the device's directory, mode 0600."""
    layout = Layout(directory.resolve())
    layout.load()
    # /dev/stdin, so that a secret need not lie in any file.
    settings = read_settings(Path("/dev/stdin") if str(file) == "-" else file)
    write_settings(layout.snmp, settings)
    if as_json:
        typer.echo(msgspec.json.encode(_public(settings)).decode())
        return
    say(f"SNMP is set. {_NEXT_RUN}")


@snmp_app.command()
def show(directory: Directory, as_json: AsJson = False) -> None:
    """Show the settings without any secret."""
    layout = Layout(directory.resolve())
    layout.load()
    told = _public(read_settings(layout.snmp)) if layout.snmp.exists() else None
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
        return
    if told is None:
        say("SNMP is off.")
        return
    for name, value in told.items():
        say(f"{name:10} {value}")


@snmp_app.command()
def off(directory: Directory, as_json: AsJson = False) -> None:
    """Turn SNMP off and remove its secrets."""
    layout = Layout(directory.resolve())
    layout.load()
    layout.snmp.unlink(missing_ok=True)
    typer.echo("{}") if as_json else say(f"SNMP is off. {_NEXT_RUN}")


def _public(settings: SnmpSettings) -> dict[str, str]:
    targets = (f"{t.address} {t.kind} {t.user or 'v2c'}" for t in settings.targets)
    return {
        "listen": settings.listen,
        "users": ", ".join(u.name for u in settings.users),
        "v2c": "on" if settings.community else "off",
        "targets": ", ".join(targets),
        "contact": settings.contact,
        "location": settings.location,
    }
