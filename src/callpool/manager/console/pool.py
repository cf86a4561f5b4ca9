"""The pages of the license pool: devices, tenants, requests, orders, bulk, advice, tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlencode

import msgspec
from litestar import get

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.errors import CallpoolError
from callpool.licensing.usage import DAY, aligned
from callpool.manager import bulk, usage_views, views
from callpool.manager.console import devices, queries
from callpool.manager.console.devices import DeviceQuery
from callpool.manager.console.page import REFUSALS, AnyRequest, Page, asked_of, read_query, show
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.inventory import DEFAULT_TENANT
from callpool.manager.paging import Page as Paged
from callpool.manager.store.tx import Tx
from callpool.manager.usage_views import Query as UsageQuery

_KINDS: Final = ", ".join(f"'{name}'" for name in POOL_TYPES)
#: What of the address of the devices' page starts the form that adds one.
_PREFILLED: Final = ("name", "serials", "tenant_is")


def link_with(address: str, **changed: str) -> str:
    """Return an address with parameters set, or taken out where they are empty."""
    path, _, query = address.partition("?")
    kept = {k: v for k, v in parse_qsl(query) if k not in changed}
    kept |= {k: v for k, v in changed.items() if v}
    return f"{path}?{urlencode(kept)}" if kept else path


async def devices_page(
    request: AnyRequest,
    *,
    refused: CallpoolError | None = None,
    form: str = "",
    fields: Mapping[str, str] | None = None,
    typed: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
) -> Page:
    """Show the devices; `query` stands for the address where a form was sent elsewhere."""
    manager: Manager = request.app.state.manager
    given = dict(query if query is not None else request.query_params)
    start = {name: given.pop(name, "") for name in _PREFILLED}
    asked = _read(given)
    here = f"/pool?{urlencode(given)}" if given else "/pool"

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        return {
            "asked": asked,
            "start": start,
            "here": here,
            "shows": devices.SHOWS,
            "types": POOL_TYPES,
            "link": lambda **changed: link_with(here, cursor="", edit="", **changed),
            "edit_link": lambda name: link_with(here, edit=name),
            "next_link": lambda cursor: link_with(here, cursor=cursor, edit=""),
            "totals": queries.totals(tx, now),
            "strangers": queries.strangers(tx),
            "default_tenant": _first_tenant(tx),
            **devices.page(tx, queries.clock(now, manager.settings), asked),
        }

    return await show(
        request, "devices.html.j2", ask, refused=refused, form=form, fields=fields, typed=typed
    )


def _read(given: Mapping[str, str]) -> DeviceQuery:
    """Return what is asked for; the first license type where one is named that there is not."""
    asked = read_query(given, DeviceQuery)
    return asked if asked.type in POOL_TYPES else msgspec.structs.replace(asked, type=POOL_TYPES[0])


def _first_tenant(tx: Tx) -> str:
    """Return the tenant that a new device is offered."""
    if tx.scope.whole:
        return DEFAULT_TENANT
    return str(
        tx.value("SELECT name FROM tenant WHERE TRUE AND MINE(tenant_id) ORDER BY name LIMIT 1")
        or ""
    )


@get("/pool", opt=api("pool.read"), exception_handlers=REFUSALS)
async def pool(request: AnyRequest) -> Page:
    """Show the devices of the pool."""
    return await devices_page(request)


class TenantsQuery(views.TenantQuery, frozen=True, kw_only=True):
    """Which tenants, and which one's shares are being changed."""

    edit: str = ""


async def tenants_page(request: AnyRequest, **refused: Any) -> Page:
    """Show the tenants with their shares and what they use."""
    asked = asked_of(request, TenantsQuery)

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        found = views.tenant_page(tx, asked)
        names = msgspec.json.encode([t["name"] for t in found["tenants"]]).decode()
        use = {
            (r["name"], r["type"]): {**r, "peak": max(r["peak"], r["in_use"])}
            for r in tx.rows(
                "SELECT t.name, c.type, sum(c.in_use) AS in_use,"  # noqa: S608  license types
                " sum(c.pool_in_use) AS pool_in_use,"
                " coalesce((SELECT max(peak) FROM tenant_peak p WHERE p.tenant_id = t.tenant_id"
                " AND p.type = c.type AND p.at >= :day), 0) AS peak"
                " FROM tenant t JOIN device_count c ON c.tenant_id = t.tenant_id"
                f" AND c.type IN ({_KINDS}) WHERE t.name IN TEXTS(:names)"
                " AND MINE(t.tenant_id)"
                " GROUP BY t.tenant_id, t.name, c.type",
                names=names,
                day=aligned(now, DAY),
            )
        }
        listed = {
            r["name"]: r["devices"]
            for r in tx.rows(
                "SELECT t.name, count(n.device_id) AS devices FROM tenant t LEFT JOIN device_now n"
                " ON n.tenant_id = t.tenant_id WHERE t.name IN TEXTS(:names)"
                " AND MINE(t.tenant_id) GROUP BY t.name",
                names=names,
            )
        }
        return {
            "asked": asked,
            "tenants": found["tenants"],
            "next": found["next"],
            "use": use,
            "listed": listed,
            "here_with": lambda **changed: link_with("/pool/tenants", q=asked.q, **changed),
        }

    return await show(request, "tenants.html.j2", ask, **refused)


@get("/pool/tenants", opt=api("pool.read"), exception_handlers=REFUSALS)
async def tenants(request: AnyRequest) -> Page:
    """Show the tenants."""
    return await tenants_page(request)


async def requests_page(request: AnyRequest, **refused: Any) -> Page:
    """Show who waits for what."""
    return await show(
        request, "requests.html.j2", lambda tx, now: {"requests": views.requests(tx)}, **refused
    )


@get("/pool/requests", opt=api("pool.read"), exception_handlers=REFUSALS)
async def waiting(request: AnyRequest) -> Page:
    """Show the requests that wait."""
    return await requests_page(request)


async def orders_page(request: AnyRequest, **refused: Any) -> Page:
    """Show the imported orders."""
    asked = asked_of(request, views.OrderQuery)

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        return {
            **views.order_page(tx, now, asked),
            "product_key": tx.meta("product_key"),
            "next_link": lambda cursor: link_with("/pool/orders", cursor=cursor),
        }

    return await show(request, "orders.html.j2", ask, **refused)


@get("/pool/orders", opt=api("supply.read"), exception_handlers=REFUSALS)
async def orders(request: AnyRequest) -> Page:
    """Show the orders."""
    return await orders_page(request)


async def bulk_page(
    request: AnyRequest, *, preview: Any = None, text: str = "", wait: bool = False, **refused: Any
) -> Page:
    """Show the bulk change: `text` as it was given, and what it would do."""
    typed = refused.get("typed") or {}

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        return {
            "preview": preview,
            "text": typed.get("file", text),
            "wait": typed.get("wait", "yes" if wait else "") == "yes",
            "most_rows": bulk.MAX_ROWS,
            "columns": bulk.FIELDS,
        }

    return await show(request, "bulk.html.j2", ask, **refused)


@get("/pool/bulk", opt=api("pool.change"), exception_handlers=REFUSALS)
async def bulk_form(request: AnyRequest) -> Page:
    """Show the form of a bulk change."""
    return await bulk_page(request)


class AdviceQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whom advice is asked about."""

    tenant: str = ""
    type: str = ""
    days: Literal["7", "28", "60"] = "7"
    after: str = ""


@get("/pool/advice", opt=api("pool.read"), exception_handlers=REFUSALS)
async def advice(request: AnyRequest) -> Page:
    """Show who can spare licenses and who is short."""
    asked = asked_of(request, AdviceQuery)
    kind = asked.type if asked.type in POOL_TYPES else ""

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        query = UsageQuery(
            start=now - int(asked.days) * DAY, end=now, tenant=asked.tenant, type=kind,
            after=asked.after,
        )  # fmt: skip
        # Of very many devices only a tenant at a time is judged: every hour of each is read.
        many = not asked.tenant and queries.device_count(tx) > usage_views.MOST_DEVICES
        found = None if many else usage_views.advice(tx, query, now)
        return {"asked": asked, "found": found, "types": POOL_TYPES}

    return await show(request, "advice.html.j2", ask)


async def tokens_page(request: AnyRequest, *, made: Any = None, **refused: Any) -> Page:
    """Show registration tokens; `made` is one that was just made."""
    asked = asked_of(request, Paged)

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        return {
            **views.token_page(tx, now, asked),
            "made": made,
            "own": "" if tx.scope.whole else _first_tenant(tx),
            "next_link": lambda cursor: link_with("/pool/tokens", cursor=cursor),
        }

    return await show(request, "tokens.html.j2", ask, **refused)


@get("/pool/tokens", opt=api("pool.read"), exception_handlers=REFUSALS)
async def tokens(request: AnyRequest) -> Page:
    """Show the registration tokens of the pool."""
    return await tokens_page(request)


@get("/pool/journal", opt=api("pool.read"), exception_handlers=REFUSALS)
async def journal(request: AnyRequest) -> Page:
    """Show the pool's journal."""
    asked = asked_of(request, views.JournalQuery)

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        return {
            **views.journal_page(tx, asked),
            "asked": asked,
            "next_link": lambda cursor: link_with(
                "/pool/journal", who=asked.who, cause=asked.cause, tenant=asked.tenant,
                cursor=cursor,
            ),
        }  # fmt: skip

    return await show(request, "journal.html.j2", ask)


HANDLERS = (pool, tenants, waiting, orders, bulk_form, advice, tokens, journal)
