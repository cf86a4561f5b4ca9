"""How the console says times, spans, counts and causes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from callpool.licensing.alarm_table import Severity
from callpool.licensing.capacity import LICENSE_TYPES

_STEPS: Final = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"))


def when(seconds: float) -> str:
    """Return a time (seconds since 1970) for people, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def stamp(seconds: float) -> str:
    """Return a time as ISO 8601 has it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: float) -> str:
    """Return a duration in its largest whole unit; a minute is the smallest that is counted."""
    for size, name in _STEPS:
        count = int(seconds // size)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''}"
    return "less than a minute"


def relative(at: float, now: float) -> str:
    """Return a time as it lies from `now`."""
    if at > now:
        return f"in {span(at - now)}"
    return f"{span(now - at)} ago" if now - at >= 60.0 else "just now"


def number(count: int | float | None) -> str:
    """Return a count with its thousands set apart; nothing where there is none."""
    if count is None:
        return "–"
    return f"{count:,}".replace(",", "\u202f")


def counts(given: Mapping[str, int]) -> str:
    """Return counts per license type."""
    said = [f"{number(n)} {LICENSE_TYPES[k].unit}" for k, n in given.items() if n]
    return ", ".join(said) or "none"


def label(kind: str) -> str:
    """Return what a license type is called."""
    return LICENSE_TYPES[kind].label if kind in LICENSE_TYPES else kind


def severity(number: int) -> str:
    """Return the word for a severity."""
    return Severity(number).name.lower()


def cause(text: str) -> str:
    """Return the cause of a journal line for people."""
    return text.replace("_", " ")


def detail(given: Mapping[str, Any]) -> str:
    """Return the details of a journal line for people."""
    said = [] if "message" not in given else [str(given["message"])]
    return "; ".join(
        [*said, *(f"{k.replace('_', ' ')} {_value(v)}" for k, v in given.items() if _tells(k, v))]
    )


def _tells(key: str, value: Any) -> bool:
    # What was left as it was tells nothing; nor does a key's fingerprint, to people.
    return value is not None and value not in ("", []) and key not in ("message", "kid")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        pairs = (
            f"{_value(v)} {label(k)}" if k in LICENSE_TYPES else f"{k} {_value(v)}"
            for k, v in value.items()
        )
        return ", ".join(pairs) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_value(v) for v in value)
    if value is None:
        return "not bounded"
    if isinstance(value, int | float) and value > 1e9:
        return when(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
