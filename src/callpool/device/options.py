"""What the device's commands share: where the device is, JSON or words, where a token is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from callpool.device.settings import read_token
from callpool.wire.tokens import split

Directory = Annotated[Path, typer.Option("--dir", help="The device's directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, errors with their code.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="A file with the registration token; - for standard input.")
]


def token_from(file: Path | None) -> str:
    """Return the token from a file or CALLPOOL_TOKEN, empty for none; raises TrustError."""
    if file is None:
        text = os.environ.get("CALLPOOL_TOKEN", "")
    elif str(file) == "-":
        text = typer.get_text_stream("stdin").read()
    else:
        text = read_token(file)
    if text.strip():
        split(text)
    return text.strip()
