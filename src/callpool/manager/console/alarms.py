"""The manager's alarms: what is active, seen by whom, and what has been."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath

from callpool.manager import alarm_views
from callpool.manager.alarm_views import ActiveQuery, AlarmQuery
from callpool.manager.alarms import acknowledge
from callpool.manager.console.page import (
    REFUSALS,
    AnyRequest,
    Page,
    act,
    asked_of,
    form_of,
    return_to,
    show,
)
from callpool.manager.console.pool import link_with
from callpool.manager.declare import api
from callpool.manager.store.tx import Tx


def _link(path: str, asked: AlarmQuery) -> Any:
    kept = {
        k: str(v)
        for k, v in msgspec.structs.asdict(asked).items()
        if v and k not in ("cursor", "limit", "since")
    }
    return lambda cursor: link_with(path, **kept, cursor=cursor)


async def alarms_page(request: AnyRequest, **refused: Any) -> Page:
    """Show the alarms that are active."""
    asked = asked_of(request, ActiveQuery)

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        found = alarm_views.active(tx, asked)
        return {**found, "asked": asked, "next_link": _link("/alarms", asked)}

    return await show(request, "alarms.html.j2", ask, **refused)


@get("/alarms", opt=api("alarms.read"), exception_handlers=REFUSALS)
async def active(request: AnyRequest) -> Page:
    """Show the alarms that are active."""
    return await alarms_page(request)


@get("/alarms/history", opt=api("alarms.read"), exception_handlers=REFUSALS)
async def history(request: AnyRequest) -> Page:
    """Show what was raised, changed and cleared."""
    asked = asked_of(request, AlarmQuery)

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        found = alarm_views.history(tx, asked)
        return {**found, "asked": asked, "next_link": _link("/alarms/history", asked)}

    return await show(request, "alarms.html.j2", ask)


@post(
    "/alarms/{number:int}/acknowledge",
    status_code=200,
    opt=api("alarms.change"),
    exception_handlers=REFUSALS,
)
async def seen(request: AnyRequest, number: FromPath[int]) -> Page:
    """Note that somebody has seen an alarm."""
    typed = await form_of(request)
    return await act(
        request,
        lambda made: acknowledge(made, number, typed.get("note", "")),
        to=return_to(typed, "/alarms"),
        said=f"Alarm {number} is acknowledged.",
        page=lambda **refused: alarms_page(request, **refused),
        form=f"seen-{number}",
        typed=typed,
    )


HANDLERS = (active, history, seen)
