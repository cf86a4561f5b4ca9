"""The operators' door to use: its course and what it says."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from litestar import get

from callpool.licensing.capacity import check_type
from callpool.licensing.errors import LicenseError
from callpool.licensing.usage import DAY
from callpool.manager import usage_views
from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest, show
from callpool.manager.shapes import usage
from callpool.manager.usage_views import STEPS, Query

#: The window where none is asked for.
_DAYS: Final = 7


Seconds = Annotated[float, msgspec.Meta(ge=0, lt=1e10)]


class AdviceQuery(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"start": "from"}
):
    """Whose use, and within which time: seconds since 1970, or `since` so many seconds back."""

    tenant: str = ""
    device: str = ""
    type: str = ""
    start: Seconds | None = None
    to: Seconds | None = None
    since: Seconds | None = None
    #: Only devices whose names come after this one.
    after: str = ""


class CourseQuery(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"start": "from"}
):
    """Whose use, within which time, and in which steps."""

    tenant: str = ""
    device: str = ""
    type: str = ""
    start: Seconds | None = None
    to: Seconds | None = None
    since: Seconds | None = None
    by: Literal["minute", "hour", "day"] = "hour"


def asked_of(request: AnyRequest, now: float, *, pooled: bool = False) -> Query:
    """Read what is asked from the address.

    Raises LicenseError `bad_request` (a time that is none, an empty window, an unknown step) or
    `unknown_license_type`.
    """
    asked = request.query_params
    start, end = _time(asked.get("from"), "from"), _time(asked.get("to"), "to")
    end = now if end is None else end
    if start is None:
        back = _time(asked.get("since"), "since")
        start = end - (_DAYS * DAY if back is None else back)
    if start >= end:
        raise LicenseError("bad_request", "'from' lies before 'to'.")
    name, by = asked.get("type", ""), asked.get("by", "hour")
    if by not in STEPS:
        raise LicenseError("bad_request", f"'by' is one of {', '.join(STEPS)}.")
    return Query(
        start=start,
        end=end,
        tenant=asked.get("tenant", ""),
        device=asked.get("device", ""),
        type=check_type(name, pooled=pooled) if name else "",
        by=by,
        after=asked.get("after", ""),
    )


def _time(text: str | None, name: str) -> float | None:
    if text is None:
        return None
    whole, point, part = text.partition(".")
    digits = text.isascii() and whole.isdecimal() and (not point or part.isdecimal())
    if not digits or len(whole) > 10:
        raise LicenseError("bad_request", f"{name!r} is a number of seconds.")
    return float(text)


@get("/api/v1/usage", opt=api("pool.read", answer=usage.Course, query=CourseQuery))
async def show_usage(request: AnyRequest) -> Answer:
    """Show the course of use by minute, hour or day."""
    return await show(request, lambda tx, now: usage_views.course(tx, asked_of(request, now)))


@get("/api/v1/usage/advice", opt=api("pool.read", answer=usage.Advice, query=AdviceQuery))
async def show_advice(request: AnyRequest) -> Answer:
    """Tell who can spare licenses and who is short."""
    return await show(
        request,
        lambda tx, now: usage_views.advice(tx, asked_of(request, now, pooled=True), now),
    )


HANDLERS = (show_usage, show_advice)
