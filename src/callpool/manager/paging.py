"""Pages of a list: how many, from where on. A cursor is opaque: what comes after a row.

It holds the values that the list is sorted by, the last of them unique, so that a page goes on at
the same place whatever is added or removed before it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from callpool.licensing.errors import LicenseError

#: Rows of a page, where none is asked for and at most.
PAGE: Final = 50
MOST: Final = 1_000

Limit = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
Cursor = Annotated[str, msgspec.Meta(max_length=1_000)]
Value = str | int | float | None


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
        if value is not None and not isinstance(value, kind):
            raise _bad()
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _bad()
    return values[1:]


def _bad() -> LicenseError:
    return LicenseError(
        "bad_cursor", "The cursor is not one of this list in this order; begin with the first page."
    )
