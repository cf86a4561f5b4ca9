"""`callpool device metrics`: the scrape token."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from callpool.device.options import AsJson, Directory
from callpool.device.settings import Layout
from callpool.host.console import say

metrics_app = typer.Typer(no_args_is_help=True, help="Metrics: who may scrape.")


@metrics_app.command()
def token(
    directory: Directory,
    new: Annotated[bool, typer.Option("--new", help="Make a new one; the old ends at once.")] = (
        False
    ),
    as_json: AsJson = False,
) -> None:
    """Say which file holds the scrape token, made where there is none; metrics are on then."""
    layout = Layout(directory.resolve())
    layout.load()
    file = layout.metrics_token
    if new or not file.exists():
        from callpool.host.metrics import make_token  # what serves metrics is not loaded elsewhere

        make_token(file)
    if as_json:
        typer.echo(msgspec.json.encode({"file": str(file)}).decode())
        return
    say(f"The scrape token is in {file}: name it as `credentials_file`.")


@metrics_app.command()
def off(directory: Directory, as_json: AsJson = False) -> None:
    """Remove the scrape token: nobody may scrape."""
    layout = Layout(directory.resolve())
    layout.load()
    layout.metrics_token.unlink(missing_ok=True)
    typer.echo("{}") if as_json else say("Metrics are off.")
