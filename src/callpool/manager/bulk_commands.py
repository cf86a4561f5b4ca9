"""`callpool pool bulk` and `callpool pool export`, and how a preview is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import msgspec
import typer

from callpool.host.console import console, say
from callpool.licensing.errors import LicenseError
from callpool.manager.client import ManagerClient
from callpool.manager.preview_words import preview_table, sentences

#: Content types by the ending of a file's name.
_TYPES: Final = {".csv": "text/csv", ".json": "application/json"}

Preview = Annotated[bool, typer.Option("--preview", help="Show what it would do; change nothing.")]
Wait = Annotated[bool, typer.Option("--wait", help="Queue what cannot be had at once.")]
Within = Annotated[str, typer.Option("--tenant", help="Refuse devices of any other tenant.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def query(*, preview: bool = False, wait: bool = False, tenant: str = "") -> str:
    """Return the query of a path for a change."""
    said = {name: "true" for name, on in (("preview", preview), ("wait", wait)) if on}
    said |= {"tenant": tenant} if tenant else {}
    return f"?{urlencode(said)}" if said else ""


def say_preview(value: dict[str, Any]) -> None:
    """Print a preview for people: what is counted as a table, the rest in sentences."""
    say("Preview: nothing is changed.")
    table = preview_table(value)
    if table.row_count:
        console.print(table)
    for sentence in sentences(value):
        say(sentence)


def bulk(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="FILE.csv or FILE.json, as `export` writes them.")],
    preview: Preview = False,
    wait: Wait = False,
    within: Within = "",
    as_json: Json = False,
) -> None:
    """Carry out a file of changes, whole or not at all; what gives back comes first."""
    kind = _TYPES.get(file.suffix.lower())
    if kind is None:
        raise LicenseError("bad_bulk_file", "The name of a bulk file ends in .csv or .json.")
    raw = file.read_bytes()
    opened: Callable[[], ManagerClient] = context.obj
    with opened() as client:
        value = client.send_file(
            "/bulk" + query(preview=preview, wait=wait, tenant=within), raw, kind
        )
    if as_json:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
        return
    if preview:
        say_preview(value)
    done = value["answer"] if preview else value
    if not preview:
        say(f"{done['rows']} rows are carried out.")
    for note in done["notes"]:
        say(f"Note: {note}")
    if done["waiting"]:
        say(f"Waiting for licenses: {', '.join(done['waiting'])}.")


def export(
    context: typer.Context,
    form: Annotated[str, typer.Option("--format", help="csv or json.")] = "csv",
) -> None:
    """Print the pool's devices in the form that `bulk` reads."""
    opened: Callable[[], ManagerClient] = context.obj
    with opened() as client:
        sys.stdout.write(client.text(f"/bulk?format={form}").rstrip("\n") + "\n")
