"""The overview, what every page loads, the live signal, and the way in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from litestar import Response, get, post
from litestar.response import Redirect, Stream

from callpool.licensing.errors import CallpoolError
from callpool.manager import alarm_views, restored, views
from callpool.manager.access import BROWSER, Access
from callpool.manager.access_api import cookie_of
from callpool.manager.codes import status_of
from callpool.manager.console import attention, queries
from callpool.manager.console.assets import Asset
from callpool.manager.console.live import Feed
from callpool.manager.console.page import (
    REFUSALS,
    AnyRequest,
    Page,
    Query,
    form_of,
    local,
    plain,
    show,
)
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.guard import principal_of
from callpool.manager.settings import Settings
from callpool.manager.store.tx import Tx
from callpool.manager.web import in_thread, source_of
from callpool.manager.windows import shown as windows

_STREAM: Final = "text/event-stream"
_KEPT: Final = "public, max-age=31536000, immutable"


@get("/", opt=api("pool.read"), exception_handlers=REFUSALS)
async def overview(request: AnyRequest) -> Page:
    """Show how the pool stands, and what needs somebody."""
    manager: Manager = request.app.state.manager
    return await show(
        request,
        "overview.html.j2",
        _overview(principal_of(request).may, manager.settings),
    )


def _overview(may: Callable[[str], bool], settings: Settings) -> Query:
    def query(tx: Tx, now: float) -> dict[str, Any]:
        at = queries.clock(now, settings)
        found_now = queries.attention(tx, at)
        waits = windows(tx, now, [r["device_id"] for r in found_now])
        rows = []
        for r in found_now:
            gravity, code, found = attention.problem_of(r)
            rows.append(
                {
                    **r,
                    "gravity": gravity,
                    "severity": attention.severity(gravity),
                    "code": code,
                    "problem": found,
                    "window": waits.get(r["device_id"]),
                    "serials": r["serials"].split(),
                }
            )
        own = may("alarms.read")
        alarms = [
            {**r, "title": attention.alarm_title(r["code"]), "severity": attention.grave(r["code"])}
            for r in ([] if own else queries.alarm_counts(tx))
        ]
        return {
            "totals": queries.totals(tx, now),
            "reports": settings.usage_seconds,
            "devices": queries.device_count(tx),
            "attention": rows,
            "attention_count": queries.attention_count(tx, at),
            "strangers": queries.strangers(tx),
            "alarms": sorted(alarms, key=lambda a: attention.ORDER.index(a["severity"])),
            "worst_alarms": queries.worst_alarms(tx) if own else [],
            "alarm_counts": alarm_views.counts(tx) if own else {},
            "soon": queries.soon(tx, now, supply=may("supply.read"), smart=may("smart.read")),
            "requests": views.requests(tx),
            "restored": restored.shown(tx),
        }

    return query


@get("/static/{name:path}", opt=api("public"), exception_handlers=REFUSALS)
async def static(request: AnyRequest) -> Response[bytes]:
    """Serve what pages load."""
    assets: dict[str, Asset] = request.app.state.assets
    found = assets.get(str(request.path_params["name"]).lstrip("/"))
    if found is None:
        raise CallpoolError("not_found", "There is nothing at this address.")
    return Response(
        content=found.content, media_type=found.media_type, headers={"Cache-Control": _KEPT}
    )


@get("/live", opt=api("own"))
async def live(request: AnyRequest) -> Stream:
    """Open a page's stream of signals."""
    feed: Feed = request.app.state.feed
    if _STREAM not in request.headers.get("accept", ""):
        # Who does not read streams is told once: that he is signed in, and what time it is.
        return Stream(iter([feed.event("beat")]), media_type=_STREAM)
    access: Access = request.app.state.access
    who = principal_of(request)

    async def still() -> bool:
        return await in_thread(lambda: access.still(who))

    return Stream(feed.stream(still), media_type=_STREAM)


@get("/sign-in", opt=api("public"), exception_handlers=REFUSALS)
async def sign_in_page(request: AnyRequest) -> Page:
    """Show the sign-in."""
    asked = request.query_params
    return plain(
        request,
        "sign_in.html.j2",
        next=local(asked.get("next", "/")),
        over="over" in asked,
        username="",
        wrong="",
    )


@post("/sign-in", status_code=200, opt=api("public"), exception_handlers=REFUSALS)
async def sign_in(request: AnyRequest) -> Page:
    """Sign in by name and password."""
    access: Access = request.app.state.access
    typed = await form_of(request)
    username, to = typed.get("username", ""), local(typed.get("next", "/"))
    try:
        token, _ = await access.sign_in(
            username, typed.get("password", ""), source_of(request), BROWSER
        )
    except CallpoolError as error:
        return plain(
            request,
            "sign_in.html.j2",
            status_of(error),
            next=to,
            over=False,
            username=username,
            wrong=error.sentence,
        )
    made = Redirect(to, status_code=303)
    made.set_cookie(cookie_of(token))
    return made


@post("/sign-out", status_code=200, opt=api("own"), exception_handlers=REFUSALS)
async def sign_out(request: AnyRequest) -> Page:
    """Sign out."""
    access: Access = request.app.state.access
    who = principal_of(request)
    if who.via == BROWSER:
        await in_thread(lambda: access.close_session(who, who.session))
    made = Redirect("/sign-in", status_code=303)
    made.set_cookie(cookie_of(""))
    return made


HANDLERS = (overview, static, live, sign_in_page, sign_in, sign_out)
