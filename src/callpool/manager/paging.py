"""Pages of a list: how many, from where on. A cursor is opaque: what comes after a row.

It holds the values that the list is sorted by, the last of them unique, so that a page goes on at
the same place whatever is added or removed before it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from callpool.licensing.errors import LicenseError
from callpool.manager.store.tx import Row, Tx

#: Rows of a page, where none is asked for and at most.
PAGE: Final = 50
MOST: Final = 1_000

Limit = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
#: A whole number of the query that the database can hold.
Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Cursor = Annotated[str, msgspec.Meta(max_length=1_000)]
Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a list is sorted by; never NULL."""

    #: Its name in the statement, and in the rows that it returns.
    name: str
    read: str
    kind: type


#: The columns of each order, the last of them unique.
Sorts = Mapping[str, tuple[Column, ...]]


class Page(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a list's query."""

    limit: Limit = PAGE
    #: `next` of the page before; empty for the first page.
    cursor: Cursor = ""


def cursor_after(sort: str, *values: Value) -> str:
    """Return the cursor of what comes after a row, in a list sorted by `sort`."""
    raw = msgspec.json.encode([sort, *values])
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def read_cursor(cursor: str, sort: str, kinds: Sequence[type]) -> list[Value] | None:
    """Return the values of a cursor, None for the first page.

    Raises LicenseError `bad_cursor`: it is none, or of a list that was sorted otherwise.
    """
    if not cursor:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values = msgspec.json.decode(raw, type=list[Value])
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError) as error:
        raise _bad() from error
    if len(values) != len(kinds) + 1 or values[0] != sort:
        raise _bad()
    for value, kind in zip(values[1:], kinds, strict=True):
        if not isinstance(value, (int, float) if kind is float else kind):
            raise _bad()
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _bad()
    return values[1:]


def _bad() -> LicenseError:
    return LicenseError(
        "bad_cursor", "The cursor is not one of this list in this order; begin with the first page."
    )


def page_rows(
    tx: Tx,
    statement: str,
    sorts: Sorts,
    asked: Page,
    sort: str,
    values: Mapping[str, Any],
) -> tuple[list[Row], str | None]:
    """Return a page of rows and the cursor of the next, None at the end.

    `statement` ends in its WHERE, to which what comes after the cursor is added; `sort` names one
    of `sorts`, downwards where `-` stands before it. The work is the database's: it reads no more
    rows than the page has, where an index has that order.
    Raises LicenseError `bad_cursor`.
    """
    columns = sorts[sort.removeprefix("-")]
    down = sort.startswith("-")
    after = read_cursor(asked.cursor, sort, [c.kind for c in columns])
    names = ", ".join(c.name for c in columns)
    given = dict(values)
    if after is not None:
        marks = ", ".join(f":after_{n}" for n in range(len(columns)))
        statement += f" AND ({names}) {'<' if down else '>'} ({marks})"
        given |= {f"after_{n}": value for n, value in enumerate(after)}
    order = ", ".join(f"{c.name} DESC" if down else c.name for c in columns)
    rows = tx.rows(f"{statement} ORDER BY {order} LIMIT :page", page=asked.limit + 1, **given)
    if len(rows) <= asked.limit:
        return rows, None
    last = rows[asked.limit - 1]
    return rows[: asked.limit], cursor_after(sort, *(last[c.read] for c in columns))
