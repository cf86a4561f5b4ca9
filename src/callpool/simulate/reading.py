"""How every script of a simulation is read: its bounds, and why it is refused, by place."""

from __future__ import annotations

import json
from typing import Final, TypeVar

import msgspec

from callpool.licensing.errors import LicenseError

T = TypeVar("T")

#: The longest simulation, in days: a hundred years.
MAX_DAYS: Final = 36525.0
#: The most events in a script.
MAX_EVENTS: Final = 100_000
#: The longest script, in bytes.
MAX_SCRIPT: Final = 16 * 1024 * 1024


def refused(place: str, reason: str) -> LicenseError:
    """Return the error for a script that is refused at `place`."""
    return LicenseError("bad_script", f"The script is refused at {place}: {reason}")


def read_strictly(raw: bytes, form: type[T]) -> T:
    """Read JSON as `form`; raises LicenseError `bad_script` with the place and the reason."""
    if len(raw) > MAX_SCRIPT:
        raise LicenseError("bad_script", f"The script is longer than {MAX_SCRIPT} bytes.")
    try:
        return msgspec.json.decode(raw, type=form)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        raise refused(place.strip("`") or "$", f"{what}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LicenseError(
            "bad_script", f"The script is no JSON{_position(raw)}: {error}."
        ) from error


def _position(raw: bytes) -> str:
    """Return where JSON stops being JSON, for people; empty where that cannot be told."""
    try:
        json.loads(raw)
    except json.JSONDecodeError as error:
        return f" at line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        return ""
    return ""
