"""The operators' door: /api/v1, JSON in and out, problem details for what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import delete, get, patch, post, put
from litestar.params import FromPath

from callpool.licensing.capacity import MAX_COUNT
from callpool.licensing.errors import LicenseError
from callpool.licensing.order import PurchaseOrder
from callpool.manager import device_views, inventory, pools, requests, views
from callpool.manager.change import Change
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.device_views import DeviceQuery
from callpool.manager.doors import (
    Answer,
    AnyRequest,
    Body,
    body_of,
    do,
    flag_of,
    query_of,
    show,
)
from callpool.manager.paging import Page
from callpool.manager.shapes import pool
from callpool.manager.shapes.base import Named, Numbered, Secret
from callpool.manager.tags import device_tag_now, tenant_tag_now
from callpool.manager.web import read_body
from callpool.wire.messages import CONTENT_TYPE
from callpool.wire.tokens import join

#: What an order file may be sent as.
ORDER_TYPES: Final = frozenset({CONTENT_TYPE, "text/plain", "application/octet-stream"})
_DAY: Final = 86_400.0
_MOST_TOKEN_DAYS: Final = 365
_MOST_TOKEN_USES: Final = 10_000


class TenantBody(Body, frozen=True, kw_only=True):
    """A new tenant; a share of None is bounded by the pool alone."""

    name: str
    shares: dict[str, Any] = msgspec.field(default_factory=dict)


class DeviceBody(Body, frozen=True, kw_only=True):
    """A new device: one serial number, or the two of an HA pair."""

    name: str
    serials: list[str]
    tenant: str = inventory.DEFAULT_TENANT
    apply: str = "restart"


class DevicePatch(Body, frozen=True, kw_only=True):
    """What is to change of a device."""

    tenant: str | None = None
    apply: str | None = None
    mode: str | None = None


class WaitQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a change of allocations is asked for."""

    #: Queue what cannot be had at once.
    wait: Literal["false", "true"] = "false"
    #: Refuse devices of any other tenant.
    tenant: str = ""


#: A count of licenses, and null for a share that the pool alone bounds.
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
Wanted = dict[str, Count]
Shares = dict[str, Count | None]


class ReplaceBody(Body, frozen=True, kw_only=True):
    """Serial number `by` takes the place of `serial`."""

    serial: str
    by: str
    old_is_off: bool = False


class RevokeBody(Body, frozen=True, kw_only=True):
    """Why an identity is revoked; kept in the journal."""

    reason: str = ""


class TokenBody(Body, frozen=True, kw_only=True):
    """A registration token for `uses` enrolments within `days`."""

    uses: int = 1
    days: float = 7.0
    #: The tenant whose serial numbers alone it enrols; empty for all that its maker sees.
    tenant: str = ""


@get("/api/v1/pool", opt=api("pool.read", answer=pool.Pool))
async def show_pool(request: AnyRequest) -> Answer:
    """Show the pool; of more than 1,000 devices the first 1,000 by name, and how many there are."""
    return await show(request, views.whole_pool)


@get("/api/v1/orders", opt=api("supply.read", query=views.OrderQuery, answer=pool.OrderPage))
async def show_orders(request: AnyRequest) -> Answer:
    """List imported orders, the one that ends last first."""
    asked = query_of(request, views.OrderQuery)
    return await show(request, lambda tx, now: views.order_page(tx, now, asked))


@post(
    "/api/v1/orders",
    status_code=201,
    opt=api("supply.change", answer=pool.OrderDocument, files=ORDER_TYPES, previews=True),
)
async def add_order(request: AnyRequest) -> Answer:
    """Import an order file."""
    manager: Manager = request.app.state.manager
    envelope = await read_body(request, ORDER_TYPES)
    return await do(
        request,
        lambda change: manager.import_order(change, envelope),
        then=PurchaseOrder.to_payload,
        status=201,
        previews=True,
    )


@get("/api/v1/tenants", opt=api("pool.read", query=views.TenantQuery, answer=pool.TenantPage))
async def show_tenants(request: AnyRequest) -> Answer:
    """List tenants and their shares."""
    asked = query_of(request, views.TenantQuery)
    return await show(request, lambda tx, now: views.tenant_page(tx, asked))


@get("/api/v1/tenants/{name:str}", opt=api("pool.read", answer=pool.Tenant, tagged=True))
async def show_tenant(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Show one tenant and its shares."""
    return await show(request, lambda tx, now: views.tenant(tx, name), tagged=True)


@post(
    "/api/v1/tenants",
    status_code=201,
    opt=api("supply.change", answer=Named, body=TenantBody, previews=True),
)
async def add_tenant(request: AnyRequest) -> Answer:
    """Add a tenant."""
    body = await body_of(request, TenantBody)
    return await do(
        request,
        lambda change: inventory.add_tenant(change, body.name, body.shares),
        then=lambda _: {"name": body.name},
        status=201,
        previews=True,
    )


@put(
    "/api/v1/tenants/{name:str}",
    opt=api("supply.change", answer=pool.TenantChanged, body=Shares, previews=True, matches=True),
)
async def change_tenant(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Set a tenant's shares: {type: count or null}."""
    shares = await body_of(request, dict[str, Any])
    return await do(
        request,
        lambda change: inventory.set_shares(change, name, shares),
        then=lambda _: {"name": name, "shares": shares},
        previews=True,
        tag=_tenant_tag(name),
    )


@get("/api/v1/devices", opt=api("pool.read", query=DeviceQuery, answer=pool.DevicePage))
async def show_devices(request: AnyRequest) -> Answer:
    """List devices, as the pool shows them."""
    asked = query_of(request, DeviceQuery)
    return await show(request, lambda tx, now: device_views.page(tx, now, asked))


@get("/api/v1/devices/{name:str}", opt=api("pool.read", answer=pool.Device, tagged=True))
async def show_device(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Show one device with its units."""
    return await show(request, lambda tx, now: device_views.device(tx, now, name), tagged=True)


@post(
    "/api/v1/devices",
    status_code=201,
    opt=api("pool.change", answer=pool.DeviceAdded, body=DeviceBody, previews=True),
)
async def add_device(request: AnyRequest) -> Answer:
    """Add a device by its serial numbers."""
    body = await body_of(request, DeviceBody)
    return await do(
        request,
        lambda change: inventory.add_device(
            change, body.name, body.serials, body.tenant, body.apply
        ),
        then=lambda _: {"name": body.name, "serials": body.serials},
        status=201,
        previews=True,
    )


@patch(
    "/api/v1/devices/{name:str}",
    opt=api("pool.change", answer=Named, body=DevicePatch, previews=True, matches=True),
)
async def change_device(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Change a device's tenant, way to apply, or mode."""
    body = await body_of(request, DevicePatch)
    return await do(
        request,
        lambda change: inventory.change_device(
            change, name, tenant=body.tenant, apply=body.apply, mode=body.mode
        ),
        then=lambda _: {"name": name},
        previews=True,
        tag=_device_tag(name),
    )


@delete(
    "/api/v1/devices/{name:str}",
    status_code=200,
    opt=api("pool.change", answer=Named, previews=True, matches=True),
)
async def remove_device(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Remove a device; what it may still use stays held until it confirms or its lease ends."""
    return await do(
        request,
        lambda change: inventory.remove_device(change, name),
        then=lambda _: {"name": name},
        previews=True,
        tag=_device_tag(name),
    )


@put(
    "/api/v1/devices/{name:str}/allocation",
    opt=api(
        "pool.change",
        answer=pool.Allocated,
        body=Wanted,
        query=WaitQuery,
        previews=True,
        matches=True,
    ),
)
async def set_allocation(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Set what a device is to have: {type: count}; with `?wait=true` queue what cannot be had.

    With `?tenant=` it has to be a device of that tenant.
    """
    counts = await body_of(request, dict[str, Any])
    wait, within = flag_of(request, "wait"), request.query_params.get("tenant", "")

    def work(change: Change) -> tuple[list[str], bool]:
        device = inventory.device_by_name(change, name, within)
        if wait:
            return requests.allocate_or_wait(change, device, counts)
        return pools.allocate(change, device, counts), False

    return await do(
        request,
        work,
        then=lambda done: {
            "name": name,
            "allocation": counts,
            "notes": done[0],
            "waiting": done[1],
        },
        previews=True,
        tag=_device_tag(name, within),
    )


@get("/api/v1/requests", opt=api("pool.read", query=views.RequestQuery, answer=pool.RequestPage))
async def show_requests(request: AnyRequest) -> Answer:
    """List the requests that wait, the longest waiting first."""
    asked = query_of(request, views.RequestQuery)
    return await show(request, lambda tx, now: views.request_page(tx, asked))


@delete(
    "/api/v1/devices/{name:str}/request",
    status_code=200,
    opt=api("pool.change", answer=Named, previews=True, matches=True),
)
async def cancel_request(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Cancel a device's request."""
    return await do(
        request,
        lambda change: requests.cancel(change, inventory.device_by_name(change, name)),
        then=lambda _: {"name": name},
        previews=True,
        tag=_device_tag(name),
    )


@post(
    "/api/v1/devices/{name:str}/replace",
    status_code=200,
    opt=api(
        "pool.change", answer=pool.SerialReplaced, body=ReplaceBody, previews=True, matches=True
    ),
)
async def replace_serial(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Let one serial number take the place of another."""
    body = await body_of(request, ReplaceBody)
    return await do(
        request,
        lambda change: inventory.replace_serial(
            change, name, body.serial, body.by, old_is_off=body.old_is_off
        ),
        then=lambda _: {"name": name, "serial": body.by},
        previews=True,
        tag=_device_tag(name),
    )


@post(
    "/api/v1/units/{serial:str}/unlock",
    status_code=200,
    opt=api("pool.change", answer=pool.Unlocked),
)
async def unlock(request: AnyRequest, serial: FromPath[str]) -> Answer:
    """Void a unit's identity and return a token by which one machine goes on as it."""
    manager: Manager = request.app.state.manager
    kid = manager.identity.anchor.public.kid
    return await do(
        request,
        lambda change: inventory.unlock(change, serial),
        then=lambda made: {"serial": serial, "token": join(made[1], kid), "id": made[0]},
    )


@post(
    "/api/v1/units/{serial:str}/revoke",
    status_code=200,
    opt=api("pool.change", answer=pool.Revoked, body=RevokeBody),
)
async def revoke(request: AnyRequest, serial: FromPath[str]) -> Answer:
    """Revoke the identity of a unit that is lost or stolen: it gets no lease any more."""
    body = await body_of(request, RevokeBody)
    return await do(
        request,
        lambda change: inventory.revoke(change, serial, body.reason),
        then=lambda _: {"serial": serial},
    )


@get("/api/v1/tokens", opt=api("pool.read", query=Page, answer=pool.RegistrationTokenPage))
async def show_tokens(request: AnyRequest) -> Answer:
    """List registration tokens, the newest first."""
    asked = query_of(request, Page)
    return await show(request, lambda tx, now: views.token_page(tx, now, asked))


@post("/api/v1/tokens", status_code=201, opt=api("pool.change", answer=Secret, body=TokenBody))
async def add_token(request: AnyRequest) -> Answer:
    """Make a registration token; it is shown this once."""
    manager: Manager = request.app.state.manager
    body = await body_of(request, TokenBody)
    if not 1 <= body.uses <= _MOST_TOKEN_USES or not 0 < body.days <= _MOST_TOKEN_DAYS:
        raise LicenseError(
            "bad_request",
            f"A token is for 1 to {_MOST_TOKEN_USES} uses within at most {_MOST_TOKEN_DAYS} days.",
        )
    kid = manager.identity.anchor.public.kid
    return await do(
        request,
        lambda change: inventory.make_token(
            change, uses=body.uses, seconds=body.days * _DAY, tenant=body.tenant
        ),
        then=lambda made: {"id": made[0], "token": join(made[1], kid)},
        status=201,
    )


@delete("/api/v1/tokens/{number:int}", status_code=200, opt=api("pool.change", answer=Numbered))
async def revoke_token(request: AnyRequest, number: FromPath[int]) -> Answer:
    """Revoke a registration token."""
    return await do(
        request,
        lambda change: inventory.revoke_token(change, number),
        then=lambda _: {"id": number},
    )


@get("/api/v1/journal", opt=api("pool.read", query=views.JournalQuery, answer=pool.JournalPage))
async def show_journal(request: AnyRequest) -> Answer:
    """Show the pool's journal, the newest entry first."""
    asked = query_of(request, views.JournalQuery)
    return await show(request, lambda tx, now: views.journal_page(tx, asked))


def _device_tag(name: str, within: str = "") -> Callable[[Change], tuple[str, str]]:
    def tag(change: Change) -> tuple[str, str]:
        device = inventory.device_by_name(change, name, within)
        return f"Device {name}", device_tag_now(change.tx, device)

    return tag


def _tenant_tag(name: str) -> Callable[[Change], tuple[str, str]]:
    def tag(change: Change) -> tuple[str, str]:
        found = inventory.tenant_by_name(change, name)
        return f"Tenant {name}", tenant_tag_now(change.tx, found)

    return tag


HANDLERS = (
    show_pool,
    show_orders,
    add_order,
    show_tenants,
    show_tenant,
    add_tenant,
    change_tenant,
    show_devices,
    show_device,
    add_device,
    change_device,
    remove_device,
    set_allocation,
    show_requests,
    cancel_request,
    replace_serial,
    unlock,
    revoke,
    show_tokens,
    add_token,
    revoke_token,
    show_journal,
)
