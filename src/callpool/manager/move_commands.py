"""`callpool manager backup`, `restore` and `migrate-to`: on the manager's own machine."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from callpool.host.console import say
from callpool.licensing.errors import CallpoolError
from callpool.manager import moves
from callpool.manager.settings import Layout
from callpool.manager.store.postgresql import checked

Directory = Annotated[Path, typer.Option("--dir", help="The manager's directory.")]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def backup(
    directory: Directory,
    target: Annotated[Path, typer.Argument(help="A new file, or a directory for it.")],
) -> None:
    """Write a backup of the database, while the manager runs; keys and journal stay apart."""
    layout = Layout(directory)
    file, rows = moves.backup(layout, target, time.time(), _progress)
    say(f"{file}: {rows} rows.")
    say(f"Not in it: the keys in {layout.identity} (copy them once, and guard them) and the grant")
    say("journal, which must stay newer than any backup.")


def restore(directory: Directory, file: Annotated[Path, typer.Argument(help="A backup.")]) -> None:
    """Put a backup in the place of the database; the manager must not run."""
    header = moves.restore(Layout(directory), file, _progress)
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(header.made_at))
    say(f"Restored as it was at {made}, every row checked.")
    say("Start the manager: it gives nothing anew until it has learned what was given since.")


def url_from(url: str, file: Path | None) -> str:
    """Return the URL of a database; a password comes by a file or standard input only.

    Raises CallpoolError `bad_database_url`, `password_shown`, OSError.
    """
    if file is not None:
        return checked(file.read_text()).render_as_string(hide_password=False)
    if url == "-":
        return checked(sys.stdin.readline()).render_as_string(hide_password=False)
    found = checked(url)
    if found.password:
        raise CallpoolError(
            "password_shown",
            "A password on the command line is seen by everyone on this machine: give the URL "
            "by --url-file FILE, or `-` for standard input; and change the password.",
        )
    return found.render_as_string(hide_password=False)


def migrate_to(
    directory: Directory,
    url: Annotated[
        str,
        typer.Argument(help="postgresql+psycopg://USER@HOST/DATABASE, or - for standard input."),
    ] = "",
    url_file: Annotated[
        Path | None, typer.Option(help="A file with the URL and its password.")
    ] = None,
) -> None:
    """Move from SQLite to an empty PostgreSQL database, whole or not at all."""
    layout = Layout(directory)
    rows = moves.migrate_to(layout, url_from(url, url_file), _progress)
    say(f"{rows} rows are in the new database, each compared; {layout.database_url} names it.")
    say(f"{layout.database} is as it was: remove it once the manager runs well.")


def add_to(app: typer.Typer) -> None:
    """Put the commands into `callpool manager`."""
    app.command()(backup)
    app.command()(restore)
    app.command("migrate-to")(migrate_to)
