"""The operators' door to the authority: /api/v1/smart, in the form of `operator_api`."""

from __future__ import annotations

from typing import Final

from litestar import delete, get, post

from callpool.licensing.errors import LicenseError
from callpool.manager import authority, authority_views
from callpool.manager.access import Access
from callpool.manager.core import Manager
from callpool.manager.operator_api import (
    ORDER_TYPES,
    Answer,
    AnyRequest,
    Body,
    body_of,
    do,
    show,
    signed_in,
    whole_of,
)
from callpool.manager.web import answer, in_thread, read_body, source_of
from callpool.wire.tokens import join

_FILTERS: Final = frozenset({"account", "virtual_account", "all", "kind", "instance", "tag"})
_PAGES: Final = frozenset({"limit", "before"})


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


def filters_of(request: AnyRequest, *more: str) -> dict[str, str]:
    """Return the query's filters; raises LicenseError `bad_request` for one that is unknown."""
    given = {name: str(value) for name, value in request.query_params.items()}
    for name in given:
        if name not in _FILTERS | set(more):
            raise LicenseError("bad_request", f"There is no filter named {name[:40]!r}.")
    return given


@get("/api/v1/smart")
async def show_smart(request: AnyRequest) -> Answer:
    """Show licenses, instances and open alerts of all accounts."""
    return await show(request, lambda tx, now: authority_views.overview(tx))


@get("/api/v1/smart/accounts")
async def show_accounts(request: AnyRequest) -> Answer:
    """List accounts and their virtual accounts."""
    return await show(request, lambda tx, now: {"accounts": authority_views.accounts(tx)})


@post("/api/v1/smart/accounts", status_code=201)
async def add_account(request: AnyRequest) -> Answer:
    """Add an account, with its virtual account `default`."""
    body = await body_of(request, AccountBody)
    return await do(
        request,
        lambda change: authority.add_account(change, body.name),
        then=lambda _: {"name": body.name, "virtual_accounts": [authority.DEFAULT]},
        status=201,
    )


@post("/api/v1/smart/virtual-accounts", status_code=201)
async def add_virtual_account(request: AnyRequest) -> Answer:
    """Add a virtual account."""
    body = await body_of(request, VirtualAccountBody)
    return await do(
        request,
        lambda change: authority.add_virtual_account(change, body.account, body.name),
        then=lambda _: {"name": body.name},
        status=201,
    )


@get("/api/v1/smart/tokens")
async def show_tokens(request: AnyRequest) -> Answer:
    """List registration tokens, without their secrets."""
    filters = filters_of(request)
    return await show(request, lambda tx, now: {"tokens": authority_views.tokens(tx, now, filters)})


@post("/api/v1/smart/tokens", status_code=201)
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


@delete("/api/v1/smart/tokens/{number:int}", status_code=200)
async def revoke_token(request: AnyRequest, number: int) -> Answer:
    """Revoke a registration token."""
    return await do(
        request,
        lambda change: authority.revoke_token(change, number),
        then=lambda _: {"id": number},
    )


@get("/api/v1/smart/entitlements")
async def show_entitlements(request: AnyRequest) -> Answer:
    """Show Purchased, In use and Balance."""
    filters = filters_of(request)
    return await show(
        request, lambda tx, now: {"entitlements": authority_views.entitlements(tx, filters)}
    )


@get("/api/v1/smart/orders")
async def show_orders(request: AnyRequest) -> Answer:
    """List imported orders and where their licenses are."""
    filters = filters_of(request)
    return await show(request, lambda tx, now: {"orders": authority_views.orders(tx, now, filters)})


@post("/api/v1/smart/orders", status_code=201)
async def add_order(request: AnyRequest) -> Answer:
    """Import an order file into `?account=` and `?virtual_account=`."""
    manager: Manager = request.app.state.manager
    access: Access = request.app.state.access
    header, source = request.headers.get("authorization", ""), source_of(request)
    filters = filters_of(request)
    envelope = await read_body(request, ORDER_TYPES)

    def run() -> Answer:
        who = signed_in(access, header, source)
        order, account, name = manager.import_smart_order(
            who, source, envelope, filters.get("account", ""), filters.get("virtual_account", "")
        )
        return answer(order.to_payload() | {"account": account, "virtual_account": name}, 201)

    return await in_thread(run)


@post("/api/v1/smart/transfers", status_code=201)
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


@get("/api/v1/smart/instances")
async def show_instances(request: AnyRequest) -> Answer:
    """List product instances; `?all=1` with those that have left."""
    filters = filters_of(request)
    return await show(
        request, lambda tx, now: {"instances": authority_views.instances(tx, filters)}
    )


@delete("/api/v1/smart/instances/{name:str}", status_code=200)
async def remove_instance(request: AnyRequest, name: str) -> Answer:
    """Take an instance, by its id or serial number, off the list: it has to register again."""
    return await do(
        request,
        lambda change: authority.remove_instance(change, name),
        then=lambda row: {"instance_id": row["instance_id"], "serial": row["serial"]},
    )


@post("/api/v1/smart/instances/{name:str}/revoke", status_code=200)
async def revoke_instance(request: AnyRequest, name: str) -> Answer:
    """Revoke the ID certificate of an instance, by its id or serial number."""
    return await do(
        request,
        lambda change: authority.revoke_instance(change, name),
        then=lambda row: {"instance_id": row["instance_id"], "serial": row["serial"]},
    )


@get("/api/v1/smart/alerts")
async def show_alerts(request: AnyRequest) -> Answer:
    """List open alerts; `?all=1` with ended ones, `?kind=`."""
    filters = filters_of(request)
    return await show(request, lambda tx, now: {"alerts": authority_views.alerts(tx, filters)})


@delete("/api/v1/smart/alerts/{number:int}", status_code=200)
async def dismiss_alert(request: AnyRequest, number: int) -> Answer:
    """Dismiss an alert about what has happened."""
    return await do(
        request, lambda change: authority.dismiss(change, number), then=lambda _: {"id": number}
    )


@get("/api/v1/smart/events")
async def show_events(request: AnyRequest) -> Answer:
    """Show the event log, newest first: `?limit=` up to 1000, `?before=`, and filters."""
    filters = filters_of(request, *_PAGES)
    limit, before = whole_of(request, "limit", 100), whole_of(request, "before", None)
    return await show(
        request,
        lambda tx, now: {
            "events": authority_views.events(tx, min(limit or 100, 1000), before, filters)
        },
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
    show_alerts,
    dismiss_alert,
    show_events,
)
