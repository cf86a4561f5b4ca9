"""The operators' door to the authority: /api/v1/smart, in the form of `operator_api`."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any, Final

from litestar import delete, get, post
from litestar.params import FromPath
from litestar.response import Stream

from callpool.licensing.errors import LicenseError
from callpool.manager import authority, authority_views
from callpool.manager.authority_alerts import KINDS
from callpool.manager.authority_csv import event_lines, heading
from callpool.manager.authority_moves import move_instance as move
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.doors import (
    Answer,
    AnyRequest,
    Body,
    ask,
    body_of,
    do,
    show,
    whole_of,
)
from callpool.manager.operator_api import ORDER_TYPES
from callpool.manager.web import in_thread, read_body
from callpool.wire.tokens import join

_FILTERS: Final = frozenset({"account", "virtual_account", "all", "kind", "instance", "tag"})
_PAGES: Final = frozenset({"limit", "before", "since", "until", "format"})
_CSV: Final = "text/csv"
#: The most events in one JSON answer, and in one read for CSV.
_PAGE: Final = 1000


class AccountBody(Body, frozen=True, kw_only=True):
    """A new account."""

    name: str


class VirtualAccountBody(Body, frozen=True, kw_only=True):
    """A new virtual account; the account may be left out where there is only one."""

    name: str
    account: str = ""


class SmartTokenBody(Body, frozen=True, kw_only=True):
    """A registration token of a virtual account."""

    account: str = ""
    virtual_account: str = ""
    description: str = ""
    days: float = 30.0
    uses: int = 1
    export_allowed: bool = False


class TransferBody(Body, frozen=True, kw_only=True):
    """Licenses to move; those that end last where no order is named."""

    tag: str
    count: int
    source: str
    target: str
    account: str = ""
    order_id: str = ""


class MoveBody(Body, frozen=True, kw_only=True):
    """Where an instance goes."""

    virtual_account: str


def filters_of(request: AnyRequest, *more: str) -> dict[str, str]:
    """Return the query's filters; raises LicenseError `bad_request` for one that is unknown."""
    given = {name: str(value) for name, value in request.query_params.items()}
    for name in given:
        if name not in _FILTERS | set(more):
            raise LicenseError("bad_request", f"There is no filter named {name[:40]!r}.")
    return given


@get("/api/v1/smart", opt=api("smart.read"))
async def show_smart(request: AnyRequest) -> Answer:
    """Show licenses, instances and open alerts of all accounts."""
    return await show(request, lambda tx, now: authority_views.overview(tx))


@get("/api/v1/smart/accounts", opt=api("smart.read"))
async def show_accounts(request: AnyRequest) -> Answer:
    """List accounts and their virtual accounts."""
    return await show(request, lambda tx, now: {"accounts": authority_views.accounts(tx)})


@post("/api/v1/smart/accounts", status_code=201, opt=api("smart.change"))
async def add_account(request: AnyRequest) -> Answer:
    """Add an account, with its virtual account `default`."""
    body = await body_of(request, AccountBody)
    return await do(
        request,
        lambda change: authority.add_account(change, body.name),
        then=lambda _: {"name": body.name, "virtual_accounts": [authority.DEFAULT]},
        status=201,
    )


@post("/api/v1/smart/virtual-accounts", status_code=201, opt=api("smart.change"))
async def add_virtual_account(request: AnyRequest) -> Answer:
    """Add a virtual account."""
    body = await body_of(request, VirtualAccountBody)
    return await do(
        request,
        lambda change: authority.add_virtual_account(change, body.account, body.name),
        then=lambda _: {"name": body.name},
        status=201,
    )


@get("/api/v1/smart/tokens", opt=api("smart.read"))
async def show_tokens(request: AnyRequest) -> Answer:
    """List registration tokens, without their secrets."""
    filters = filters_of(request)
    return await show(request, lambda tx, now: {"tokens": authority_views.tokens(tx, now, filters)})


@post("/api/v1/smart/tokens", status_code=201, opt=api("smart.change"))
async def add_token(request: AnyRequest) -> Answer:
    """Make a registration token; it is shown this once."""
    manager: Manager = request.app.state.manager
    body = await body_of(request, SmartTokenBody)
    kid = manager.identity.anchor.public.kid
    return await do(
        request,
        lambda change: authority.make_token(
            change,
            body.account,
            body.virtual_account,
            description=body.description,
            days=body.days,
            uses=body.uses,
            export_allowed=body.export_allowed,
        ),
        then=lambda made: {"id": made[0], "token": join(made[1], kid)},
        status=201,
    )


@delete("/api/v1/smart/tokens/{number:int}", status_code=200, opt=api("smart.change"))
async def revoke_token(request: AnyRequest, number: FromPath[int]) -> Answer:
    """Revoke a registration token."""
    return await do(
        request,
        lambda change: authority.revoke_token(change, number),
        then=lambda _: {"id": number},
    )


@get("/api/v1/smart/entitlements", opt=api("smart.read"))
async def show_entitlements(request: AnyRequest) -> Answer:
    """Show Purchased, In use and Balance."""
    filters = filters_of(request)
    return await show(
        request, lambda tx, now: {"entitlements": authority_views.entitlements(tx, filters)}
    )


@get("/api/v1/smart/orders", opt=api("smart.read"))
async def show_orders(request: AnyRequest) -> Answer:
    """List imported orders and where their licenses are."""
    filters = filters_of(request)
    return await show(request, lambda tx, now: {"orders": authority_views.orders(tx, now, filters)})


@post("/api/v1/smart/orders", status_code=201, opt=api("smart.change"))
async def add_order(request: AnyRequest) -> Answer:
    """Import an order file into `?account=` and `?virtual_account=`."""
    manager: Manager = request.app.state.manager
    filters = filters_of(request)
    envelope = await read_body(request, ORDER_TYPES)
    return await do(
        request,
        lambda change: manager.import_smart_order(
            change, envelope, filters.get("account", ""), filters.get("virtual_account", "")
        ),
        then=lambda done: done[0].to_payload() | {"account": done[1], "virtual_account": done[2]},
        status=201,
    )


@post("/api/v1/smart/transfers", status_code=201, opt=api("smart.change"))
async def transfer(request: AnyRequest) -> Answer:
    """Move licenses between two virtual accounts of one account."""
    body = await body_of(request, TransferBody)
    return await do(
        request,
        lambda change: authority.transfer(
            change, body.account, body.tag, body.count, body.source, body.target, body.order_id
        ),
        then=lambda _: {
            "tag": body.tag,
            "count": body.count,
            "source": body.source,
            "target": body.target,
        },
        status=201,
    )


@get("/api/v1/smart/instances", opt=api("smart.read"))
async def show_instances(request: AnyRequest) -> Answer:
    """List product instances; `?all=1` with those that have left."""
    filters = filters_of(request)
    return await show(
        request, lambda tx, now: {"instances": authority_views.instances(tx, filters)}
    )


@delete("/api/v1/smart/instances/{name:str}", status_code=200, opt=api("smart.change"))
async def remove_instance(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Take an instance, by its id or serial number, off the list: it has to register again."""
    return await do(
        request,
        lambda change: authority.remove_instance(change, name),
        then=lambda row: {"instance_id": row["instance_id"], "serial": row["serial"]},
    )


@post("/api/v1/smart/instances/{name:str}/revoke", status_code=200, opt=api("smart.change"))
async def revoke_instance(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Revoke the ID certificate of an instance, by its id or serial number."""
    return await do(
        request,
        lambda change: authority.revoke_instance(change, name),
        then=lambda row: {"instance_id": row["instance_id"], "serial": row["serial"]},
    )


@post("/api/v1/smart/instances/{name:str}/move", status_code=200, opt=api("smart.change"))
async def move_instance(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Move an instance, by its id or serial number, to another virtual account."""
    body = await body_of(request, MoveBody)
    return await do(
        request,
        lambda change: move(change, name, body.virtual_account),
        then=lambda row: {"account": row["account"], "virtual_account": row["name"]},
    )


@get("/api/v1/smart/alerts", opt=api("smart.read"))
async def show_alerts(request: AnyRequest) -> Answer:
    """List open alerts; `?all=1` with ended ones, `?kind=`."""
    filters = filters_of(request)
    if filters.get("kind", KINDS[0]) not in KINDS:
        raise LicenseError("bad_request", f"An alert's kind is one of {', '.join(KINDS)}.")
    return await show(request, lambda tx, now: {"alerts": authority_views.alerts(tx, filters)})


@delete("/api/v1/smart/alerts/{number:int}", status_code=200, opt=api("smart.change"))
async def dismiss_alert(request: AnyRequest, number: FromPath[int]) -> Answer:
    """Dismiss an alert about what has happened."""
    return await do(
        request, lambda change: authority.dismiss(change, number), then=lambda _: {"id": number}
    )


@get("/api/v1/smart/events", opt=api("smart.read"))
async def show_events(request: AnyRequest) -> Answer | Stream:
    """Show the event log, newest first: `?limit=` up to 1000, `?before=`, and filters.

    As CSV with `Accept: text/csv` or `?format=csv`: then all of it where no limit is given.
    """
    filters = filters_of(request, *_PAGES)
    for name in ("since", "until"):
        _check_time(name, filters.get(name, "0"))
    limit, before = whole_of(request, "limit", None), whole_of(request, "before", None)
    accepted = request.headers.get("accept", "").partition(",")[0].partition(";")[0].strip()
    form = filters.get("format") or ("csv" if accepted == _CSV else "json")
    if form not in ("csv", "json"):
        raise LicenseError("bad_request", f"The format is csv or json, not {form[:40]!r}.")
    if form == "json":
        return await show(
            request,
            lambda tx, now: {
                "events": authority_views.events(tx, min(limit or 100, _PAGE), before, filters)
            },
        )
    manager: Manager = request.app.state.manager

    def allowed() -> None:
        # What is wrong with a filter is said before the first line.
        ask(request, lambda tx, now: authority_views.events(tx, 1, before, filters))

    await in_thread(allowed)
    return Stream(
        _csv(manager, limit, before, filters),
        media_type=f"{_CSV}; charset=utf-8; header=present",
        headers={"Content-Disposition": 'attachment; filename="callpool-events.csv"'},
    )


async def _csv(
    manager: Manager, limit: int | None, before: int | None, filters: dict[str, str]
) -> AsyncIterator[str]:
    """Yield the event log page by page: the log only grows, at its other end."""
    yield heading()
    left = limit if limit is not None else 2**62
    while left > 0:
        size, first = min(left, _PAGE), before

        def page(size: int = size, first: int | None = first) -> list[dict[str, Any]]:
            return manager.database.read(
                lambda tx: authority_views.events(tx, size, first, filters)
            )

        found = await in_thread(page)
        yield event_lines(found)
        left -= size
        if len(found) < size:
            return
        before = found[-1]["id"]


def _check_time(name: str, text: str) -> None:
    try:
        good = math.isfinite(float(text))
    except ValueError:
        good = False
    if not good:
        raise LicenseError("bad_request", f"{name} is a time in seconds since 1970.")


HANDLERS = (
    show_smart,
    show_accounts,
    add_account,
    add_virtual_account,
    show_tokens,
    add_token,
    revoke_token,
    show_entitlements,
    show_orders,
    add_order,
    transfer,
    show_instances,
    remove_instance,
    revoke_instance,
    move_instance,
    show_alerts,
    dismiss_alert,
    show_events,
)
