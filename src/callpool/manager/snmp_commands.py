"""`callpool manager snmp` and `callpool manager syslog`: set, show, off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from callpool.host.console import say
from callpool.manager.settings import Layout, load
from callpool.manager.snmp_settings import (
    Filtered,
    StationSettings,
    SyslogSettings,
    read_settings,
    write_settings,
)

station_app = typer.Typer(
    no_args_is_help=True, help="SNMP: whose alarms are taken, and whom they are forwarded to."
)
syslog_app = typer.Typer(no_args_is_help=True, help="Syslog: whom alarms are forwarded to.")

Directory = Annotated[Path, typer.Option("--dir", help="The manager's directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
File = Annotated[Path, typer.Argument(help="A JSON file with the settings; - for standard input.")]

#: A running manager sees that its settings have changed.
_COUNTS = "A running manager takes it up within seconds."


def _layout(directory: Path) -> Layout:
    layout = Layout(directory)
    load(layout)
    return layout


def _given(file: Path) -> Path:
    # /dev/stdin, so that a secret need not lie in any file.
    return Path("/dev/stdin") if str(file) == "-" else file


def _print(told: Mapping[str, object] | None, as_json: bool, off: str) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
    elif told is None:
        say(off)
    else:
        for name, value in told.items():
            say(f"{name:10} {value}")


@station_app.command("set")
def set_snmp(file: File, directory: Directory, as_json: Json = False) -> None:
    """Check the settings and put them into the manager's directory, mode 0600."""
    layout = _layout(directory)
    settings = read_settings(_given(file), StationSettings)
    write_settings(layout.snmp, settings)
    if as_json:
        _print(public(settings), True, "")
        return
    say(f"SNMP is set. {_COUNTS}")


@station_app.command("show")
def show_snmp(directory: Directory, as_json: Json = False) -> None:
    """Show the settings without any secret."""
    layout = _layout(directory)
    told = public(read_settings(layout.snmp, StationSettings)) if layout.snmp.exists() else None
    _print(told, as_json, "SNMP is off.")


@station_app.command("off")
def off_snmp(directory: Directory, as_json: Json = False) -> None:
    """Turn SNMP off and remove its secrets."""
    _layout(directory).snmp.unlink(missing_ok=True)
    typer.echo("{}") if as_json else say(f"SNMP is off. {_COUNTS}")


@syslog_app.command("set")
def set_syslog(file: File, directory: Directory, as_json: Json = False) -> None:
    """Check the settings and put them into the manager's directory."""
    layout = _layout(directory)
    settings = read_settings(_given(file), SyslogSettings)
    write_settings(layout.syslog, settings)
    if as_json:
        _print(public_syslog(settings), True, "")
        return
    say(f"Syslog is set. {_COUNTS}")


@syslog_app.command("show")
def show_syslog(directory: Directory, as_json: Json = False) -> None:
    """Show the settings."""
    file = _layout(directory).syslog
    told = public_syslog(read_settings(file, SyslogSettings)) if file.exists() else None
    _print(told, as_json, "Syslog is off.")


@syslog_app.command("off")
def off_syslog(directory: Directory, as_json: Json = False) -> None:
    """Turn syslog off."""
    _layout(directory).syslog.unlink(missing_ok=True)
    typer.echo("{}") if as_json else say(f"Syslog is off. {_COUNTS}")


def public(settings: StationSettings) -> dict[str, str]:
    """Return the settings without secrets."""
    return {
        "listen": settings.listen or "nowhere",
        "users": ", ".join(
            f"{u.name} ({', '.join(u.serials) or 'any unit'})" for u in settings.users
        ),
        "v2c": "on" if settings.community else "off",
        "prefixes": ", ".join(settings.prefixes),
        "ask_user": settings.ask_user,
        "devices": ", ".join(f"{d.serial} {d.address}".strip() for d in settings.devices),
        "targets": ", ".join(
            f"{t.address} {t.kind} {t.user or 'v2c'}{_filter(t.filter)}" for t in settings.targets
        ),
    }


def public_syslog(settings: SyslogSettings) -> dict[str, str]:
    """Return the settings for people."""
    return {
        "targets": ", ".join(
            f"{t.address} {t.transport}{_filter(t.filter)}" for t in settings.targets
        )
    }


def _filter(told: Filtered) -> str:
    tenants = f" of {'/'.join(told.tenants)}" if told.tenants else ""
    return f" from {told.severity}{tenants}"
