"""The operators' door to the authority: /api/v1/smart, in the form of `operator_api`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath
from litestar.response import Stream

from callpool.licensing.errors import LicenseError
from callpool.manager import authority, authority_views
from callpool.manager.authority_alerts import EVENTS, KINDS
from callpool.manager.authority_csv import event_lines, heading
from callpool.manager.authority_moves import move_instance as move
from callpool.manager.authority_views import (
    AlertQuery,
    EventQuery,
    InstanceQuery,
    SmartQuery,
)
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.doors import (
    Answer,
    AnyRequest,
    Body,
    ask,
    body_of,
    do,
    query_of,
    show,
)
from callpool.manager.operator_api import ORDER_TYPES
from callpool.manager.paging import MOST
from callpool.manager.shapes import smart
from callpool.manager.shapes.base import Named, Numbered, Secret
from callpool.manager.web import in_thread, read_body
from callpool.wire.tokens import join

_CSV: Final = "text/csv"


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


class IntoQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the licenses of an order go; needed where there are several accounts."""

    account: str = ""
    virtual_account: str = ""


class MoveBody(Body, frozen=True, kw_only=True):
    """Where an instance goes."""

    virtual_account: str


@get("/api/v1/smart", opt=api("smart.read", answer=smart.Overview))
async def show_smart(request: AnyRequest) -> Answer:
    """Show licenses, instances and open alerts of all accounts."""
    return await show(request, lambda tx, now: authority_views.overview(tx))


@get("/api/v1/smart/accounts", opt=api("smart.read", answer=smart.Accounts))
async def show_accounts(request: AnyRequest) -> Answer:
    """List accounts and their virtual accounts."""
    return await show(request, lambda tx, now: {"accounts": authority_views.accounts(tx)})


@post(
    "/api/v1/smart/accounts",
    status_code=201,
    opt=api("smart.change", answer=smart.Account, body=AccountBody),
)
async def add_account(request: AnyRequest) -> Answer:
    """Add an account, with its virtual account `default`."""
    body = await body_of(request, AccountBody)
    return await do(
        request,
        lambda change: authority.add_account(change, body.name),
        then=lambda _: {"name": body.name, "virtual_accounts": [authority.DEFAULT]},
        status=201,
    )


@post(
    "/api/v1/smart/virtual-accounts",
    status_code=201,
    opt=api("smart.change", answer=Named, body=VirtualAccountBody),
)
async def add_virtual_account(request: AnyRequest) -> Answer:
    """Add a virtual account."""
    body = await body_of(request, VirtualAccountBody)
    return await do(
        request,
        lambda change: authority.add_virtual_account(change, body.account, body.name),
        then=lambda _: {"name": body.name},
        status=201,
    )


@get("/api/v1/smart/tokens", opt=api("smart.read", query=SmartQuery, answer=smart.SmartTokenPage))
async def show_tokens(request: AnyRequest) -> Answer:
    """List registration tokens, without their secrets."""
    asked = query_of(request, SmartQuery)
    return await show(request, lambda tx, now: authority_views.tokens(tx, now, asked))


@post(
    "/api/v1/smart/tokens",
    status_code=201,
    opt=api("smart.change", answer=Secret, body=SmartTokenBody),
)
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


@delete(
    "/api/v1/smart/tokens/{number:int}", status_code=200, opt=api("smart.change", answer=Numbered)
)
async def revoke_token(request: AnyRequest, number: FromPath[int]) -> Answer:
    """Revoke a registration token."""
    return await do(
        request,
        lambda change: authority.revoke_token(change, number),
        then=lambda _: {"id": number},
    )


@get(
    "/api/v1/smart/entitlements",
    opt=api("smart.read", query=SmartQuery, answer=smart.EntitlementPage),
)
async def show_entitlements(request: AnyRequest) -> Answer:
    """Show Purchased, In use and Balance."""
    asked = query_of(request, SmartQuery)
    return await show(request, lambda tx, now: authority_views.entitlements(tx, asked))


@get("/api/v1/smart/orders", opt=api("smart.read", query=SmartQuery, answer=smart.SmartOrderPage))
async def show_orders(request: AnyRequest) -> Answer:
    """List imported orders and where their licenses are."""
    asked = query_of(request, SmartQuery)
    return await show(request, lambda tx, now: authority_views.orders(tx, now, asked))


@post(
    "/api/v1/smart/orders",
    status_code=201,
    opt=api("smart.change", query=IntoQuery, answer=smart.SmartOrderImported, files=ORDER_TYPES),
)
async def add_order(request: AnyRequest) -> Answer:
    """Import an order file into `?account=` and `?virtual_account=`."""
    manager: Manager = request.app.state.manager
    into = query_of(request, IntoQuery)
    envelope = await read_body(request, ORDER_TYPES)
    return await do(
        request,
        lambda change: manager.import_smart_order(
            change, envelope, into.account, into.virtual_account
        ),
        then=lambda done: done[0].to_payload() | {"account": done[1], "virtual_account": done[2]},
        status=201,
    )


@post(
    "/api/v1/smart/transfers",
    status_code=201,
    opt=api("smart.change", answer=smart.Transferred, body=TransferBody),
)
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


@get(
    "/api/v1/smart/instances", opt=api("smart.read", query=InstanceQuery, answer=smart.InstancePage)
)
async def show_instances(request: AnyRequest) -> Answer:
    """List product instances; `?all=1` with those that have left."""
    asked = query_of(request, InstanceQuery)
    return await show(request, lambda tx, now: authority_views.instances(tx, asked))


@delete(
    "/api/v1/smart/instances/{name:str}",
    status_code=200,
    opt=api("smart.change", answer=smart.InstanceChanged),
)
async def remove_instance(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Take an instance, by its id or serial number, off the list: it has to register again."""
    return await do(
        request,
        lambda change: authority.remove_instance(change, name),
        then=lambda row: {"instance_id": row["instance_id"], "serial": row["serial"]},
    )


@post(
    "/api/v1/smart/instances/{name:str}/revoke",
    status_code=200,
    opt=api("smart.change", answer=smart.InstanceChanged),
)
async def revoke_instance(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Revoke the ID certificate of an instance, by its id or serial number."""
    return await do(
        request,
        lambda change: authority.revoke_instance(change, name),
        then=lambda row: {"instance_id": row["instance_id"], "serial": row["serial"]},
    )


@post(
    "/api/v1/smart/instances/{name:str}/move",
    status_code=200,
    opt=api("smart.change", answer=smart.VirtualAccountNamed, body=MoveBody),
)
async def move_instance(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Move an instance, by its id or serial number, to another virtual account."""
    body = await body_of(request, MoveBody)
    return await do(
        request,
        lambda change: move(change, name, body.virtual_account),
        then=lambda row: {"account": row["account"], "virtual_account": row["name"]},
    )


@get("/api/v1/smart/alerts", opt=api("smart.read", query=AlertQuery, answer=smart.AlertPage))
async def show_alerts(request: AnyRequest) -> Answer:
    """List open alerts; `?all=1` with ended ones, `?kind=`."""
    asked = query_of(request, AlertQuery)
    _check_kind(asked.kind, "An alert", KINDS)
    return await show(request, lambda tx, now: authority_views.alerts(tx, asked))


@delete(
    "/api/v1/smart/alerts/{number:int}", status_code=200, opt=api("smart.change", answer=Numbered)
)
async def dismiss_alert(request: AnyRequest, number: FromPath[int]) -> Answer:
    """Dismiss an alert about what has happened."""
    return await do(
        request, lambda change: authority.dismiss(change, number), then=lambda _: {"id": number}
    )


@get(
    "/api/v1/smart/events",
    opt=api("smart.read", query=EventQuery, also=(_CSV,), answer=smart.EventPage),
)
async def show_events(request: AnyRequest) -> Answer | Stream:
    """Show the event log, the newest first.

    As CSV with `Accept: text/csv` or `?format=csv`: then all of it where no limit is given.
    """
    asked = query_of(request, EventQuery)
    _check_kind(asked.kind, "An event", EVENTS)
    accepted = request.headers.get("accept", "").partition(",")[0].partition(";")[0].strip()
    form = asked.format or ("csv" if accepted == _CSV else "json")
    if form == "json":
        shown = msgspec.structs.replace(asked, limit=min(asked.limit, MOST))
        return await show(request, lambda tx, now: authority_views.events(tx, shown))
    # What is wrong with a filter is said before the first line.
    first = msgspec.structs.replace(asked, limit=1)
    await in_thread(lambda: ask(request, lambda tx, now: authority_views.events(tx, first)))
    limit = asked.limit if "limit" in request.query_params else None
    return Stream(
        _csv(request, limit, asked),
        media_type=f"{_CSV}; charset=utf-8; header=present",
        headers={"Content-Disposition": 'attachment; filename="callpool-events.csv"'},
    )


async def _csv(request: AnyRequest, limit: int | None, asked: EventQuery) -> AsyncIterator[str]:
    """Yield the event log page by page: the log only grows, at its other end."""
    yield heading()
    left = limit if limit is not None else 2**62
    while left > 0:
        wanted = msgspec.structs.replace(asked, limit=min(left, MOST))

        def page(wanted: EventQuery = wanted) -> dict[str, Any]:
            return ask(request, lambda tx, now: authority_views.events(tx, wanted))

        found = await in_thread(page)
        yield event_lines(found["events"])
        left -= wanted.limit
        if found["next"] is None:
            return
        asked = msgspec.structs.replace(asked, cursor=found["next"])


def _check_kind(kind: str, what: str, kinds: Sequence[str]) -> None:
    if kind and kind not in kinds:
        raise LicenseError(
            "unknown_kind", f"{what}'s kind is one of {', '.join(kinds)}; not {kind[:40]!r}."
        )


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
