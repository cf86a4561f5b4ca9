"""`callpool device syslog`: set, show, off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from callpool.device.options import AsJson, Directory
from callpool.device.settings import Layout
from callpool.device.syslog_settings import (
    SyslogSettings,
    check_files,
    read_settings,
    write_settings,
)
from callpool.host.console import say

syslog_app = typer.Typer(no_args_is_help=True, help="Syslog: who is told.")

_NEXT_RUN = "It counts from the next `callpool device run` on."


@syslog_app.command("set")
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
    settings = read_settings(Path("/dev/stdin") if str(file) == "-" else file)
    check_files(settings)
    write_settings(layout.syslog, settings)
    if as_json:
        typer.echo(msgspec.json.encode(settings).decode())
        return
    say(f"Syslog is set. {_NEXT_RUN}")


@syslog_app.command()
def show(directory: Directory, as_json: AsJson = False) -> None:
    """Show the settings."""
    layout = Layout(directory.resolve())
    layout.load()
    settings = read_settings(layout.syslog) if layout.syslog.exists() else None
    if as_json:
        typer.echo(msgspec.json.encode(settings).decode())
        return
    if settings is None:
        say("Syslog is off.")
        return
    for line in _lines(settings):
        say(line)


@syslog_app.command()
def off(directory: Directory, as_json: AsJson = False) -> None:
    """Turn syslog off."""
    layout = Layout(directory.resolve())
    layout.load()
    for file in (layout.syslog, layout.syslog_state):
        file.unlink(missing_ok=True)
    typer.echo("{}") if as_json else say(f"Syslog is off. {_NEXT_RUN}")


def _lines(settings: SyslogSettings) -> list[str]:
    lines = [f"hostname   {settings.hostname or 'the name of this machine'}"]
    for target in settings.targets:
        told: dict[str, Any] = msgspec.structs.asdict(target)
        head = (told.pop("transport"), told.pop("address"), told.pop("facility"))
        rest = (f"{name}={value}" for name, value in told.items() if value)
        lines.append(f"target     {' '.join((*head, *rest))}")
    return lines
