"""`callpool device ssh`: on, show, off."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from callpool.device.options import AsJson, Directory
from callpool.device.settings import Layout
from callpool.device.ssh_settings import (
    DEFAULT_SSH,
    SshSettings,
    fingerprint,
    host_key,
    read_ssh,
    write_ssh,
)
from callpool.host.console import say

ssh_app = typer.Typer(no_args_is_help=True, help="The device's shell: where it listens.")

_NEXT_RUN = "It counts from the next `callpool device run` on."


@ssh_app.command()
def on(
    directory: Directory,
    listen: Annotated[str, typer.Option(help="Where it listens, host:port.")] = DEFAULT_SSH,
    as_json: AsJson = False,
) -> None:
    """Turn the shell on, and make its host key where there is none yet."""
    layout = Layout(directory.resolve())
    layout.load()
    settings = SshSettings(listen=listen)
    host_key(layout.ssh_host_key)
    write_ssh(layout.ssh, settings)
    _tell(layout, settings, as_json)
    if not as_json:
        say(_NEXT_RUN)


@ssh_app.command()
def show(directory: Directory, as_json: AsJson = False) -> None:
    """Show where it listens and the host key's fingerprint."""
    layout = Layout(directory.resolve())
    layout.load()
    _tell(layout, read_ssh(layout.ssh), as_json)


@ssh_app.command()
def off(directory: Directory, as_json: AsJson = False) -> None:
    """Turn the shell off; users and the host key stay."""
    layout = Layout(directory.resolve())
    layout.load()
    layout.ssh.unlink(missing_ok=True)
    typer.echo("null") if as_json else say(f"The shell is off. {_NEXT_RUN}")


def _tell(layout: Layout, settings: SshSettings | None, as_json: bool) -> None:
    told = None
    if settings is not None:
        told = {"listen": settings.listen, "host_key": fingerprint(layout.ssh_host_key)}
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
    elif told is None:
        say("The shell is off.")
    else:
        say(f"The shell listens on {told['listen']}; host key {told['host_key']}.")
