"""What every command of `callpool` shares: counts from words, plain output, honest exits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from rich.console import Console

from callpool.licensing.capacity import SBC_SESSIONS, Capacity, check_count, check_type
from callpool.licensing.errors import CallpoolError, LicenseError

#: Where people read; tables and progress go here.
console = Console()


def say(text: str) -> None:
    """Print one line for people, as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def count_from(text: str, what: str) -> int:
    """Return a whole count typed by a person; raises LicenseError `bad_count`."""
    try:
        value: object = int(text)
    except ValueError:
        value = text
    return check_count(value, what)


def counts_from(words: Sequence[str]) -> Capacity:
    """Read `TYPE=COUNT` words; a bare count means SBC sessions.

    Raises LicenseError `unknown_license_type`, `bad_count` or `repeated_license_type`.
    """
    counts: dict[str, int] = {}
    for word in words:
        name, equals, count = word.partition("=")
        if not equals:
            name, count = SBC_SESSIONS, word
        if check_type(name) in counts:
            raise LicenseError("repeated_license_type", f"{name} is given twice.")
        counts[name] = count_from(count, name)
    return Capacity.of(counts)


def run(app: Callable[..., Any], arguments: Sequence[str] | None = None) -> int:
    """Run a Typer app and return its exit status: 0, 1 with one sentence on stderr, 2 for usage.

    With `--json` among the arguments an error is printed as JSON with its stable code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(words)
    except CallpoolError as error:
        return _fail(error.code, error.sentence, as_json="--json" in words)
    except SystemExit as done:  # Typer's own way out: 0, a command's status, 2 for usage
        return done.code if isinstance(done.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except PermissionError as error:
        return _fail("not_permitted", f"{error.filename}: permission denied.", False)
    except FileNotFoundError as error:
        return _fail("no_such_file", f"{error.filename}: there is no such file.", False)
    except OSError as error:
        return _fail("system_error", f"{error}", False)
    return 0


def _fail(code: str, sentence: str, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(msgspec.json.encode({"code": code, "detail": sentence}).decode() + "\n")
    sys.stderr.write(f"callpool: {sentence} [{code}]\n")
    return 1
