"""The operators' door to alarms: active, history, acknowledged, and how far targets are told."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, get, post

from callpool.licensing.alarm_table import Severity
from callpool.licensing.errors import LicenseError
from callpool.manager import alarm_views
from callpool.manager.alarm_state import load_kept
from callpool.manager.alarm_views import MOST, PAGE, AlarmQuery
from callpool.manager.alarms import acknowledge
from callpool.manager.core import Manager
from callpool.manager.operator_api import Answer, Body, body_of, do, flag_of, show, whole_of

AnyRequest = Request[Any, Any, Any]

_FILTERS: Final = frozenset(
    {"device", "tenant", "severity", "since", "expected", "before", "limit"}
)


class AcknowledgeBody(Body, frozen=True, kw_only=True):
    """Whoever acknowledges may say why."""

    note: str = ""


def query_of(request: AnyRequest, *more: str) -> AlarmQuery:
    """Read what is asked from the address; raises LicenseError `bad_request`."""
    asked = request.query_params
    for name in asked:
        if name not in _FILTERS and name not in more:
            raise LicenseError("bad_request", f"There is no filter {name[:40]!r} here.")
    severity = asked.get("severity", "cleared")
    names = [s.name.lower() for s in Severity]
    if severity not in names:
        raise LicenseError("bad_request", f"'severity' is one of {', '.join(names)}.")
    limit = whole_of(request, "limit", PAGE) or PAGE
    before = whole_of(request, "before", None)
    return AlarmQuery(
        device=asked.get("device", ""),
        tenant=asked.get("tenant", ""),
        severity=Severity[severity.upper()],
        since=float(whole_of(request, "since", 0) or 0),
        expected=flag_of(request, "expected") if "expected" in asked else None,
        acknowledged=flag_of(request, "acknowledged") if "acknowledged" in asked else None,
        before=AlarmQuery().before if before is None else before,
        limit=min(limit, MOST),
    )


@get("/api/v1/alarms")
async def show_active(request: AnyRequest) -> Answer:
    """List active alarms, the newest first."""
    query = query_of(request, "acknowledged")
    return await show(request, lambda tx, now: {"time": now, **alarm_views.active(tx, query)})


@get("/api/v1/alarms/history")
async def show_history(request: AnyRequest) -> Answer:
    """List raises, changes and clears, the newest first."""
    query = query_of(request)
    return await show(request, lambda tx, now: {"time": now, **alarm_views.history(tx, query)})


@get("/api/v1/alarms/links")
async def show_links(request: AnyRequest) -> Answer:
    """Tell how far each target was told, and what the SNMP receiver has counted."""
    manager: Manager = request.app.state.manager
    return await show(
        request,
        lambda tx, now: {
            "targets": alarm_views.targets(tx),
            "snmp": msgspec.to_builtins(load_kept(manager.layout.alarm_state)),
        },
    )


@post("/api/v1/alarms/{number:int}/acknowledge", status_code=200)
async def acknowledge_alarm(request: AnyRequest, number: int) -> Answer:
    """Note that an operator has seen an active alarm."""
    body = await body_of(request, AcknowledgeBody)
    return await do(
        request,
        lambda change: (change.who, acknowledge(change, number, body.note)),
        then=lambda done: {"id": number, "acknowledged_by": done[0]},
    )


HANDLERS = (show_active, show_history, show_links, acknowledge_alarm)
