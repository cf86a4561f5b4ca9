"""What is read of the audit log: lines by filter, a page at a time, as JSON lines and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from callpool.manager.authority_csv import cell
from callpool.manager.paging import Page, cursor_after, read_cursor
from callpool.manager.store.tx import Row, Tx

#: The columns of CSV; `time` is UTC, as ISO 8601 has it.
COLUMNS: Final = (
    "entry",
    "time",
    "who",
    "role",
    "via",
    "source",
    "cause",
    "outcome",
    "tenant",
    "detail",
    "hash",
)


class Filters(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lines are asked for; an empty text stands for all. Times: seconds since 1970."""

    who: str = ""
    role: str = ""
    cause: str = ""
    outcome: Literal["", "done", "refused"] = ""
    source: str = ""
    tenant: str = ""
    #: From this time on, and up to this one, which is not included.
    since: float = 0.0
    until: float = 1e12
    #: `csv` and `jsonl` give all lines, whatever the limit.
    format: Literal["json", "jsonl", "csv"] = "json"


def page(tx: Tx, asked: Filters) -> dict[str, Any]:
    """Return a page of the audit log, the newest line first; raises LicenseError `bad_cursor`."""
    after = read_cursor(asked.cursor, "entry", [int])
    found = lines(tx, asked, before=after[0] if after else None, limit=asked.limit + 1)
    more = len(found) > asked.limit
    found = found[: asked.limit]
    return {"lines": found, "next": cursor_after("entry", found[-1]["entry"]) if more else None}


def lines(tx: Tx, asked: Filters, *, before: Any, limit: int) -> list[dict[str, Any]]:
    """Return lines of the audit log before line `before`, the newest first."""
    return [
        shown(r)
        for r in tx.rows(
            "SELECT j.*, t.name AS tenant FROM journal j"
            " LEFT JOIN tenant t ON t.tenant_id = j.tenant_id WHERE j.entry < :before"
            " AND (:who = '' OR j.who = :who) AND (:role = '' OR j.role = :role)"
            " AND (:cause = '' OR j.cause = :cause) AND (:outcome = '' OR j.outcome = :outcome)"
            " AND (:source = '' OR j.source = :source) AND (:tenant = '' OR t.name = :tenant)"
            " AND j.at >= :since AND j.at < :until ORDER BY j.entry DESC LIMIT :most",
            **msgspec.structs.asdict(asked) | {"most": limit},
            before=2**62 if before is None else before,
        )
    ]


def shown(r: Row) -> dict[str, Any]:
    """Return one line for people and programs."""
    return {
        "entry": r["entry"],
        "at": r["at"],
        "who": r["who"],
        "role": r["role"],
        "via": r["via"],
        "source": r["source"],
        "cause": r["cause"],
        "outcome": r["outcome"],
        "tenant": r["tenant"],
        "detail": msgspec.json.decode(r["detail"]),
        "hash": r["hash"],
    }


def csv_heading() -> str:
    """Return the line of column names."""
    return _csv((COLUMNS,))


def csv_lines(found: Iterable[Mapping[str, Any]]) -> str:
    """Return lines as CSV (RFC 4180), safe to open in a spreadsheet."""
    return _csv(
        (
            cell(value)
            for value in (
                line["entry"],
                datetime.fromtimestamp(line["at"], UTC).isoformat(timespec="milliseconds"),
                *(line[name] for name in COLUMNS[2:9]),
                msgspec.json.encode(line["detail"]).decode(),
                line["hash"],
            )
        )
        for line in found
    )


def json_lines(found: Iterable[Mapping[str, Any]]) -> str:
    """Return lines as JSON, one object a line."""
    return "".join(msgspec.json.encode(line).decode() + "\n" for line in found)


def _csv(rows: Iterable[Iterable[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    return out.getvalue()
