"""What is changed from the pages of the license pool, by the functions behind the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from litestar import Response, get, post
from litestar.params import FromPath

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager import bulk, inventory, requests
from callpool.manager.change import Change
from callpool.manager.console.page import (
    REFUSALS,
    AnyRequest,
    Page,
    act,
    back,
    change,
    form_of,
    fragment,
    look,
    looked,
    return_to,
)
from callpool.manager.console.pool import (
    bulk_page,
    devices_page,
    orders_page,
    requests_page,
    tenants_page,
    tokens_page,
)
from callpool.manager.console.words import counts, label, number
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.doors import ask
from callpool.manager.tags import check_match, tenant_tag_now
from callpool.manager.web import in_thread
from callpool.wire.tokens import join

_DAY: Final = 86_400.0


def count_of(text: str, what: str, code: str = "bad_count") -> int:
    """Return a count that was typed; raises LicenseError `bad_count`, or as `code` says."""
    plain = text.replace("\u202f", "").replace(" ", "")
    if not plain.isascii() or not plain.isdecimal() or len(plain) > 15:
        raise LicenseError(code, f"{label(what)} is a whole number, 0 or more.")
    return int(plain)


@post("/pool/devices", status_code=200, opt=api("pool.change"), exception_handlers=REFUSALS)
async def add_device(request: AnyRequest) -> Page:
    """Add a device by its serial numbers."""
    typed = await form_of(request)
    name, serials = typed.get("name", ""), typed.get("serials", "").replace(",", " ").split()

    def work(made: Change) -> None:
        inventory.add_device(made, name, serials, typed.get("tenant", ""), typed.get("apply", ""))

    async def page(**refused: Any) -> Page:
        return await devices_page(request, query=_query(typed), **refused)

    return await act(
        request,
        work,
        to=return_to(typed, "/pool"),
        said=f"{name} is listed; a registration token lets it enrol.",
        page=page,
        form="add",
        typed=typed,
        fields={
            "bad_name": "name",
            "device_exists": "name",
            "bad_serial": "serials",
            "duplicate_serial": "serials",
            "serial_still_holds": "serials",
            "unknown_tenant": "tenant",
            "bad_apply": "apply",
        },
    )


def _query(typed: dict[str, str]) -> dict[str, str]:
    """Return the query of the page that a form was on."""
    return dict(parse_qsl(return_to(typed, "/pool").partition("?")[2]))


def wanted_of(typed: dict[str, str]) -> dict[str, Any]:
    """Return the counts of an allocation's form; an empty field stays as it is."""
    return {kind: count_of(typed[kind], kind) for kind in POOL_TYPES if typed.get(kind, "") != ""}


@post("/pool/tenants", status_code=200, opt=api("supply.change"), exception_handlers=REFUSALS)
async def add_tenant(request: AnyRequest) -> Page:
    """Add a tenant with its shares."""
    typed = await form_of(request)
    name = typed.get("name", "")

    def work(made: Change) -> None:
        inventory.add_tenant(made, name, shares_of(typed))

    return await act(
        request,
        work,
        to=return_to(typed, "/pool/tenants"),
        said=f"Tenant {name} is added.",
        page=lambda **refused: tenants_page(request, **refused),
        form="add",
        typed=typed,
        fields={"bad_name": "name", "tenant_exists": "name", "": POOL_TYPES[0]},
    )


def shares_of(typed: dict[str, str]) -> dict[str, int | None]:
    """Return the shares of a form: None, bounded by the pool alone, where the field is empty."""
    return {
        kind: count_of(typed[kind], kind) if typed[kind] else None
        for kind in POOL_TYPES
        if kind in typed
    }


@post(
    "/pool/tenants/{name:str}/shares",
    status_code=200,
    opt=api("supply.change"),
    exception_handlers=REFUSALS,
)
async def set_shares(request: AnyRequest, name: FromPath[str]) -> Page:
    """Set a tenant's shares."""
    typed = await form_of(request)

    def work(made: Change) -> None:
        if typed.get("etag"):
            tenant = inventory.tenant_by_name(made, name)
            check_match(typed["etag"], tenant_tag_now(made.tx, tenant), f"Tenant {name}")
        inventory.set_shares(made, name, shares_of(typed))

    return await act(
        request,
        work,
        to=return_to(typed, "/pool/tenants"),
        said=f"The shares of tenant {name} are set.",
        page=lambda **refused: tenants_page(request, **refused),
        form=f"shares-{name}",
        typed=typed,
        fields={"": POOL_TYPES[0]},
    )


@post("/pool/orders", status_code=200, opt=api("supply.change"), exception_handlers=REFUSALS)
async def import_order(request: AnyRequest) -> Page:
    """Import an order file: its text."""
    manager: Manager = request.app.state.manager
    typed = await form_of(request)
    envelope = typed.get("file", "").strip().encode()
    return await act(
        request,
        lambda made: manager.import_order(made, envelope),
        to="/pool/orders",
        said=lambda order: f"Order {order.order_id} is imported: {counts(order.counts.to_dict())}.",
        page=lambda **refused: orders_page(request, **refused),
        form="import",
        typed=typed,
        fields={"": "file"},
    )


@post(
    "/pool/requests/{name:str}/withdraw",
    status_code=200,
    opt=api("pool.change"),
    exception_handlers=REFUSALS,
)
async def withdraw(request: AnyRequest, name: FromPath[str]) -> Page:
    """Withdraw a device's request."""
    typed = await form_of(request)
    return await act(
        request,
        lambda made: requests.cancel(made, inventory.device_by_name(made, name)),
        to=return_to(typed, "/pool/requests"),
        said=f"The request of {name} is withdrawn; what was taken for it stays free.",
        page=lambda **refused: requests_page(request, **refused),
        form=f"withdraw-{name}",
    )


@post("/pool/bulk", status_code=200, opt=api("pool.change"), exception_handlers=REFUSALS)
async def bulk_change(request: AnyRequest) -> Page:
    """Preview a bulk file, or carry it out."""
    typed = await form_of(request)
    text, wait = typed.get("file", ""), typed.get("wait") == "yes"

    async def page(**refused: Any) -> Page:
        return await bulk_page(request, **refused)

    def work(made: Change) -> bulk.BulkDone:
        return bulk.carry_out(made, rows, wait=wait)

    try:
        rows = bulk.read_csv(text)
        if typed.get("do") != "apply":
            said = looked(await look(request, work))
            return await bulk_page(request, preview=said, text=text, wait=wait)
        done = await change(request, work)
    except CallpoolError as error:
        return await page(refused=error, form="bulk", typed=typed, fields={"": "file"})
    waits = f" Waiting: {', '.join(done.waiting)}." if done.waiting else ""
    notes = f" {' '.join(done.notes)}" if done.notes else ""
    rows_done = f"{number(done.rows)} row{'s' if done.rows != 1 else ''}"
    return back("/pool", f"{rows_done} carried out.{waits}{notes}")


@get("/pool/bulk.csv", opt=api("pool.read"), exception_handlers=REFUSALS)
async def bulk_export(request: AnyRequest) -> Response[bytes]:
    """Give every device as it stands: a template for a bulk change."""
    rows = await in_thread(lambda: ask(request, lambda tx, now: bulk.export(tx)))
    return Response(
        content=bulk.write_csv(rows).encode(),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="callpool-pool.csv"'},
    )


@post("/pool/tokens", status_code=200, opt=api("pool.change"), exception_handlers=REFUSALS)
async def make_token(request: AnyRequest) -> Page:
    """Make a registration token; it is shown this once."""
    manager: Manager = request.app.state.manager
    typed = await form_of(request)
    fields = {"unknown_tenant": "tenant", "bad_count": "uses", "": "days"}
    try:
        uses, days = uses_and_days(typed)
        check_token(uses, days)
        number_of, secret = await change(
            request,
            lambda made: inventory.make_token(
                made, uses=uses, seconds=days * _DAY, tenant=typed.get("tenant", "")
            ),
        )
    except CallpoolError as error:
        return await tokens_page(request, refused=error, form="make", typed=typed, fields=fields)
    token = join(secret, manager.identity.anchor.public.kid)
    return await tokens_page(request, made={"id": number_of, "token": token})


def uses_and_days(typed: Mapping[str, str]) -> tuple[int, int]:
    """Return what a token's form asks for; raises LicenseError `bad_count`, `bad_request`."""
    uses = count_of(typed.get("uses", ""), "uses")
    return uses, count_of(typed.get("days", ""), "days", code="bad_request")


def check_token(uses: int, days: int) -> None:
    """Refuse a token that is for too much; raises LicenseError `bad_request`."""
    if not 1 <= uses <= 10_000 or not 1 <= days <= 365:
        raise LicenseError("bad_request", "A token is for 1 to 10000 uses within at most 365 days.")


@post(
    "/pool/tokens/{number:int}/revoke",
    status_code=200,
    opt=api("pool.change"),
    exception_handlers=REFUSALS,
)
async def revoke_token(request: AnyRequest, number: FromPath[int]) -> Page:
    """Revoke a registration token."""
    return await act(
        request,
        lambda made: inventory.revoke_token(made, number),
        to="/pool/tokens",
        said=f"Token {number} is revoked.",
        page=lambda **refused: tokens_page(request, **refused),
        form="revoke",
    )


@post("/pool/bulk/preview", status_code=200, opt=api("pool.change"), exception_handlers=REFUSALS)
async def bulk_preview(request: AnyRequest) -> Page:
    """Say what a bulk file would do, while it is being typed."""
    typed = await form_of(request)

    def work(made: Change) -> bulk.BulkDone:
        return bulk.carry_out(made, rows, wait=typed.get("wait") == "yes")

    try:
        rows = bulk.read_csv(typed.get("file", ""))
        said = looked(await look(request, work))
    except CallpoolError as error:
        return fragment("preview.html.j2", said=[], wrong=error)
    return fragment("preview.html.j2", said=said, wrong=None)


HANDLERS = (
    add_device,
    add_tenant,
    set_shares,
    import_order,
    withdraw,
    bulk_change,
    bulk_export,
    make_token,
    revoke_token,
    bulk_preview,
)
