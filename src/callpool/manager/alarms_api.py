"""The operators' door to alarms: active, history, acknowledged, and how far targets are told."""

from __future__ import annotations

import msgspec
from litestar import get, post
from litestar.params import FromPath

from callpool.manager import alarm_views
from callpool.manager.alarm_state import load_kept
from callpool.manager.alarm_views import ActiveQuery, AlarmQuery
from callpool.manager.alarms import acknowledge
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest, Body, body_of, do, query_of, show
from callpool.manager.shapes import alarms as shapes


class AcknowledgeBody(Body, frozen=True, kw_only=True):
    """Whoever acknowledges may say why."""

    note: str = ""


@get("/api/v1/alarms", opt=api("alarms.read", query=ActiveQuery, answer=shapes.AlarmPage))
async def show_active(request: AnyRequest) -> Answer:
    """List active alarms, the newest first."""
    asked = query_of(request, ActiveQuery)
    return await show(request, lambda tx, now: {"time": now, **alarm_views.active(tx, asked)})


@get("/api/v1/alarms/history", opt=api("alarms.read", query=AlarmQuery, answer=shapes.EventPage))
async def show_history(request: AnyRequest) -> Answer:
    """List raises, changes and clears, the newest first."""
    asked = query_of(request, AlarmQuery)
    return await show(request, lambda tx, now: {"time": now, **alarm_views.history(tx, asked)})


@get("/api/v1/alarms/links", opt=api("alarms.read", answer=shapes.Links))
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


@post(
    "/api/v1/alarms/{number:int}/acknowledge",
    status_code=200,
    opt=api("alarms.change", body=AcknowledgeBody, answer=shapes.Acknowledged),
)
async def acknowledge_alarm(request: AnyRequest, number: FromPath[int]) -> Answer:
    """Note that an operator has seen an active alarm."""
    body = await body_of(request, AcknowledgeBody)
    return await do(
        request,
        lambda change: (change.who, acknowledge(change, number, body.note)),
        then=lambda done: {"id": number, "acknowledged_by": done[0]},
    )


HANDLERS = (show_active, show_history, show_links, acknowledge_alarm)
