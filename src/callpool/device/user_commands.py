"""`callpool device user`: the way in, and back in where a password is lost.

These commands are the host's: whoever may write the device's directory may use them. What they
change counts at once and stays, without `wr`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from callpool.device.config import AddKey, Change, CreateUser, RemoveUser, SetGroup, SetPassword
from callpool.device.control import ask
from callpool.device.errors import DeviceError
from callpool.device.options import AsJson, Directory
from callpool.device.settings import Layout
from callpool.device.setup import configure_offline, startup_config
from callpool.device.users import Group, User, hash_password
from callpool.host.console import say

user_app = typer.Typer(no_args_is_help=True, help="Users of the shell and of the pages.")

Name = Annotated[str, typer.Argument(help="The user's name.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="A file with the password; - for standard input.")
]
KeyFile = Annotated[Path | None, typer.Option(help="A file with an OpenSSH public key.")]

#: Only the first line counts, and no more than this is read of it, in characters.
_LONGEST_LINE: Final = 4096


@user_app.command()
def add(
    name: Name,
    directory: Directory,
    group: Annotated[Group, typer.Option(help="What the user may do.")] = Group.ADMINISTRATOR,
    password_file: PasswordFile = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a user who signs in by a password (file, or asked for) or by a public key."""
    changes: list[Change] = [CreateUser(name=name), SetGroup(name=name, group=group)]
    if key_file is not None:
        changes.append(AddKey(name=name, key=_public_key(key_file)))
    if password_file is not None or key_file is None:
        changes.append(SetPassword(name=name, hash=hash_password(_password(password_file))))
    _configure(directory, changes)
    typer.echo("{}") if as_json else say(f"User {name} is in group {group}.")


@user_app.command()
def password(
    name: Name, directory: Directory, password_file: PasswordFile = None, as_json: AsJson = False
) -> None:
    """Give a user a new password (file, or asked for)."""
    hashed = hash_password(_password(password_file))
    _configure(directory, [SetPassword(name=name, hash=hashed)])
    typer.echo("{}") if as_json else say(f"User {name} has a new password.")


@user_app.command()
def remove(name: Name, directory: Directory, as_json: AsJson = False) -> None:
    """Remove a user."""
    _configure(directory, [RemoveUser(name=name)])
    typer.echo("{}") if as_json else say(f"User {name} is removed.")


@user_app.command("list")
def list_(directory: Directory, as_json: AsJson = False) -> None:
    """Show who has a way in after the next start: the startup configuration."""
    layout = Layout(directory.resolve())
    layout.load()
    users = startup_config(layout).users
    if as_json:
        typer.echo(msgspec.json.encode([_public(u) for u in users]).decode())
        return
    if not users:
        say("There are no users: nobody can sign in. Add one with `callpool device user add`.")
    for user in users:
        way = "password" if user.password else "no password"
        say(f"{user.name:32} {user.group:14} {way}, public keys: {len(user.keys)}")


def _public(user: User) -> dict[str, object]:
    return {
        "name": user.name,
        "group": user.group,
        "password": bool(user.password),
        "keys": list(user.keys),
    }


def _configure(directory: Path, changes: list[Change]) -> None:
    layout = Layout(directory.resolve())
    layout.load()
    for change in changes:
        try:
            ask(
                layout.control,
                "config",
                action="change",
                change=msgspec.to_builtins(change),
                durable=True,
                timeout=10.0,
            )
        except DeviceError as error:
            if error.code != "not_running":
                raise
            configure_offline(layout, change)


def _password(file: Path | None) -> str:
    """Return the password: never from the command line, where others could see it."""
    if file is None:
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    if str(file) == "-":
        text = typer.get_text_stream("stdin").readline(_LONGEST_LINE)
    else:
        with file.open(encoding="utf-8", errors="replace") as source:
            text = source.readline(_LONGEST_LINE)
    return text.rstrip("\r\n")


def _public_key(file: Path) -> str:
    """Return a public key's line; raises DeviceError `bad_public_key`."""
    # Loaded only where it is used: the library costs a quarter of a second.
    from callpool.device.public_key import read_public_key

    with file.open(encoding="utf-8", errors="replace") as source:
        return read_public_key(source.readline(_LONGEST_LINE))
