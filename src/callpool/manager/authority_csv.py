"""The event log as CSV (RFC 4180), safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

#: The columns; `time` is UTC, as ISO 8601 has it.
COLUMNS: Final = (
    "id",
    "time",
    "who",
    "source",
    "kind",
    "account",
    "virtual_account",
    "instance",
    "tag",
    "message",
)
#: What makes a spreadsheet take a cell for a formula (OWASP, "CSV injection").
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")


def cell(value: object) -> str:
    """Return a value as text that no spreadsheet takes for a formula: `'` stands before it."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def heading() -> str:
    """Return the line of column names."""
    return _lines((COLUMNS,))


def event_lines(events: Iterable[Mapping[str, Any]]) -> str:
    """Return one line an event, as `authority_views.events` has them."""
    return _lines(
        (
            cell(value)
            for value in (
                event["id"],
                datetime.fromtimestamp(event["at"], UTC).isoformat(timespec="seconds"),
                *(event[name] for name in COLUMNS[2:]),
            )
        )
        for event in events
    )


def _lines(rows: Iterable[Iterable[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    return out.getvalue()
