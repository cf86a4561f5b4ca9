"""`callpool device smart`: enable, disable, register, deregister, renew, count, status."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from callpool.device.control import ask
from callpool.device.options import AsJson, Directory, TokenFile, token_from
from callpool.device.settings import Layout
from callpool.device.smart_status import SmartStatus, rows
from callpool.host.console import count_from, say
from callpool.licensing.errors import TrustError
from callpool.wire.tokens import split

smart_app = typer.Typer(no_args_is_help=True, help="Smart licensing: the Smart Agent.")

#: Seconds to wait for what becomes of a contact.
_PATIENCE: Final = 100.0

#: Refusals that say that the device is off the authority's list already.
_GONE: Final = frozenset({"not_registered", "certificate_revoked", "certificate_expired"})


class Renewal(StrEnum):
    """What can be renewed."""

    AUTH = "auth"
    ID = "id"


def _ask(directory: Path, action: str, **fields: Any) -> dict[str, Any]:
    socket = Layout(directory.resolve()).control
    told: dict[str, Any] = ask(socket, "smart", timeout=_PATIENCE, action=action, **fields)
    return told


def _show(told: dict[str, Any], as_json: bool, sentence: str) -> None:
    """Print the outcome; one that failed says why, and what goes on by itself."""
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
        return
    if told["code"]:
        say(f"{told['detail']} [{told['code']}]")
    now = msgspec.convert(told["smart"], SmartStatus)
    say(f"{sentence} State: {now.state}.")


def _unlisted(code: str) -> str:
    """Return what a failure to leave the authority means for its list of instances."""
    if code in _GONE:
        return "The authority did not list this device any more."
    return (
        "The authority could not be told: it still lists this device, and counts what it uses, "
        "until the device is removed there (`callpool smart remove`)."
    )


@smart_app.command()
def enable(directory: Directory, as_json: AsJson = False) -> None:
    """Turn smart licensing on; evaluation begins."""
    _show(_ask(directory, "enable"), as_json, "Smart licensing is on.")


@smart_app.command()
def disable(directory: Directory, as_json: AsJson = False) -> None:
    """Turn smart licensing off; a registered device leaves its authority first."""
    told = _ask(directory, "disable")
    sentence = "Smart licensing is off."
    if told["code"]:
        sentence += f" {_unlisted(told['code'])}"
    _show(told, as_json, sentence)


@smart_app.command()
def register(
    directory: Directory,
    token: Annotated[
        str | None,
        typer.Argument(
            help="The registration token. Others on this machine can see it in the list of "
            "processes and the shell's history: prefer --token-file or CALLPOOL_TOKEN.",
            show_default=False,
        ),
    ] = None,
    token_file: TokenFile = None,
    force: Annotated[
        bool, typer.Option("--force", help="Though the device is registered already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register with the authority: a token as argument, in a file (- reads standard input), or
    in CALLPOOL_TOKEN."""  # noqa: D209, D205 - one sentence
    text = (token or "").strip() or token_from(token_file)
    if not text:
        raise TrustError("bad_token", "Give the registration token, best with --token-file.")
    split(text)
    told = _ask(directory, "register", token=text, force=force)
    _show(told, as_json, f"Registration: {told['smart']['registration']}.")


@smart_app.command()
def deregister(directory: Directory, as_json: AsJson = False) -> None:
    """Leave the authority; local data is cleared even where it cannot be told."""
    told = _ask(directory, "deregister")
    sentence = "Deregistered; the local data is cleared."
    if told["code"]:
        sentence = f"The local data is cleared. {_unlisted(told['code'])}"
    _show(told, as_json, sentence)


@smart_app.command()
def renew(
    what: Annotated[Renewal, typer.Argument(help="auth: the authorization; id: the certificate.")],
    directory: Directory,
    as_json: AsJson = False,
) -> None:
    """Renew the authorization or the ID certificate at once."""
    _show(_ask(directory, f"renew_{what.value}"), as_json, "Asked for.")


@smart_app.command(context_settings={"ignore_unknown_options": True})
def count(
    count: Annotated[str, typer.Argument(help="Calls a second, a multiple of 5.")],
    directory: Directory,
    as_json: AsJson = False,
) -> None:
    """Configure the calls a second that this device asks for."""
    wanted = count_from(count, "A count")
    _show(_ask(directory, "count", count=wanted), as_json, f"Configured: {wanted} calls/s.")


@smart_app.command()
def status(directory: Directory, as_json: AsJson = False) -> None:
    """Show state, enforcement mode, deadlines and the account."""
    told = _ask(directory, "status")["smart"]
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
        return
    for label, value in rows(msgspec.convert(told, SmartStatus)):
        say(f"{label:28} {value}")
