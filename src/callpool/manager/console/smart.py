"""The smart inventory: licenses, instances, tokens, alerts and the event log of the authority."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec
from litestar import get, post
from litestar.params import FromPath

from callpool.licensing.capacity import LICENSE_TYPES
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager import authority, authority_views
from callpool.manager.authority_alerts import DISMISSABLE
from callpool.manager.authority_moves import move_instance
from callpool.manager.authority_views import (
    AlertQuery,
    EventQuery,
    InstanceQuery,
    SmartQuery,
)
from callpool.manager.change import Change
from callpool.manager.console.page import (
    REFUSALS,
    AnyRequest,
    Page,
    act,
    asked_of,
    change,
    form_of,
    read_query,
    return_to,
    show,
)
from callpool.manager.console.pool_actions import count_of, uses_and_days
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.paging import MOST
from callpool.manager.resend import renew
from callpool.manager.store.tx import Tx
from callpool.wire.tokens import join

T = TypeVar("T")

_ALL: Final = SmartQuery(limit=MOST)
_READ: Final[dict[str, Any]] = {"opt": api("smart.read"), "exception_handlers": REFUSALS}
_CHANGE: Final[dict[str, Any]] = {
    "status_code": 200,
    "opt": api("smart.change"),
    "exception_handlers": REFUSALS,
}


def _virtual(tx: Tx) -> list[tuple[str, str]]:
    """Return every virtual account, as a form names it and as people read it."""
    return [
        (f"{a['name']}/{v}", f"{a['name']} / {v}")
        for a in authority_views.accounts(tx)
        for v in a["virtual_accounts"]
    ]


def _split(text: str) -> tuple[str, str]:
    account, _, name = text.partition("/")
    return account, name


async def _page(
    request: AnyRequest, template: str, query: Callable[[Tx, float], dict[str, Any]], **refused: Any
) -> Page:
    def ask(tx: Tx, now: float) -> dict[str, Any]:
        return {"virtual": _virtual(tx), **query(tx, now)}

    return await show(request, template, ask, **refused)


async def licenses_page(request: AnyRequest, **refused: Any) -> Page:
    """Show accounts, and what each virtual account has."""
    asked = asked_of(request, SmartQuery)
    return await _page(
        request,
        "smart.html.j2",
        lambda tx, now: {
            "accounts": authority_views.accounts(tx),
            "account_options": [(a["name"], a["name"]) for a in authority_views.accounts(tx)],
            "tag_options": [(t.name, t.label) for t in LICENSE_TYPES.values() if not t.pooled],
            "product_key": tx.meta("product_key"),
            "entitlements": authority_views.entitlements(tx, _ALL)["entitlements"],
            **authority_views.orders(tx, now, asked),
            "next_link": _next("/smart", asked),
        },
        **refused,
    )


async def instances_page(request: AnyRequest, **refused: Any) -> Page:
    """Show product instances."""
    asked = asked_of(request, InstanceQuery)

    def query(tx: Tx, now: float) -> dict[str, Any]:
        found = authority_views.instances(tx, asked)
        return {**found, "all": asked.all, "next_link": _next("/smart/instances", asked)}

    return await _page(request, "instances.html.j2", query, **refused)


async def tokens_page(request: AnyRequest, *, made: Any = None, **refused: Any) -> Page:
    """Show the registration tokens; `made` is one that was just made."""
    asked = asked_of(request, SmartQuery)

    def query(tx: Tx, now: float) -> dict[str, Any]:
        found = authority_views.tokens(tx, now, asked)
        return {**found, "made": made, "next_link": _next("/smart/tokens", asked)}

    return await _page(request, "smart_tokens.html.j2", query, **refused)


async def alerts_page(request: AnyRequest, **refused: Any) -> Page:
    """Show the alerts."""
    asked = asked_of(request, AlertQuery)

    def query(tx: Tx, now: float) -> dict[str, Any]:
        return {
            **authority_views.alerts(tx, asked),
            "all": asked.all,
            "dismissable": DISMISSABLE,
            "next_link": _next("/smart/alerts", asked),
        }

    return await _page(request, "alerts.html.j2", query, **refused)


def _next(path: str, asked: SmartQuery) -> Callable[[str], str]:
    """Return how to lead to the page of a list that begins at a cursor."""
    kept = {
        name: str(value)
        for name, value in msgspec.structs.asdict(asked).items()
        if value and name not in ("cursor", "limit")
    }
    return lambda cursor: f"{path}?{urlencode({**kept, 'cursor': cursor})}"


@get("/smart", **_READ)
async def licenses(request: AnyRequest) -> Page:
    """Show licenses and accounts."""
    return await licenses_page(request)


@get("/smart/instances", **_READ)
async def instances(request: AnyRequest) -> Page:
    """Show product instances."""
    return await instances_page(request)


@get("/smart/tokens", **_READ)
async def tokens(request: AnyRequest) -> Page:
    """Show registration tokens."""
    return await tokens_page(request)


@get("/smart/alerts", **_READ)
async def alerts(request: AnyRequest) -> Page:
    """Show alerts."""
    return await alerts_page(request)


@get("/smart/events", **_READ)
async def events(request: AnyRequest) -> Page:
    """Show the event log by filters; the same filters lead to its CSV."""
    given = {k: v for k, v in request.query_params.items() if v}
    days: dict[str, str] = {n: given.pop(n) for n in ("since", "until") if n in given}
    times = {name: str(at) for name, at in times_of(days).items()}
    asked = read_query({**given, **times}, EventQuery)
    kept: dict[str, str] = {
        name: given[name]
        for name in ("account", "virtual_account", "kind", "instance", "tag")
        if name in given
    }

    def query(tx: Tx, now: float) -> dict[str, Any]:
        found = authority_views.events(tx, asked)
        kinds = [r["kind"] for r in tx.rows("SELECT DISTINCT kind FROM smart_event ORDER BY kind")]
        older = urlencode({**kept, **days, "cursor": found["next"] or ""})
        return {
            "events": found["events"],
            "kinds": kinds,
            "filters": {**kept, **days},
            "csv": f"/api/v1/smart/events?{urlencode({**kept, **times, 'format': 'csv'})}",
            "older": f"/smart/events?{older}" if found["next"] else None,
        }

    return await _page(request, "events.html.j2", query)


def times_of(days: Mapping[str, str]) -> dict[str, float]:
    """Return `since` and `until` (UTC days, both included) as seconds since 1970.

    Raises LicenseError `bad_request`.
    """
    out = {}
    for name, text in days.items():
        try:
            at = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
        except ValueError as error:
            raise LicenseError("bad_request", f"{text[:20]!r} is no day, as 2026-01-31.") from error
        out[name] = at + (86_400.0 if name == "until" else 0.0)
    return out


async def _act(
    request: AnyRequest,
    work: Callable[[Change], T],
    said: Callable[[T], str] | str,
    page: Callable[..., Any],
    form: str,
    typed: Mapping[str, str],
    to: str,
    fields: Mapping[str, str] | None = None,
) -> Page:
    return await act(
        request,
        work,
        to=return_to(typed, to),
        said=said,
        page=lambda **refused: page(request, **refused),
        form=form,
        typed=typed,
        fields=fields,
    )


@post("/smart/accounts", **_CHANGE)
async def add_account(request: AnyRequest) -> Page:
    """Add an account, with its virtual account `default`."""
    typed = await form_of(request)
    name = typed.get("name", "")
    said = f"Account {name} is added, with its virtual account {authority.DEFAULT}."
    return await _act(
        request, lambda made: authority.add_account(made, name), said, licenses_page, "account",
        typed, "/smart", {"": "name"},
    )  # fmt: skip


@post("/smart/virtual-accounts", **_CHANGE)
async def add_virtual(request: AnyRequest) -> Page:
    """Add a virtual account."""
    typed = await form_of(request)
    name, account = typed.get("name", ""), typed.get("account", "")
    return await _act(
        request, lambda made: authority.add_virtual_account(made, account, name),
        f"Virtual account {name} is added.", licenses_page, "virtual", typed, "/smart",
        {"unknown_account": "account", "": "name"},
    )  # fmt: skip


@post("/smart/orders", **_CHANGE)
async def import_order(request: AnyRequest) -> Page:
    """Import an order file into a virtual account."""
    manager: Manager = request.app.state.manager
    typed = await form_of(request)
    account, name = _split(typed.get("virtual", ""))
    envelope = typed.get("file", "").strip().encode()
    return await _act(
        request,
        lambda made: manager.import_smart_order(made, envelope, account, name),
        lambda done: f"Order {done[0].order_id} is imported into {done[1]} / {done[2]}.",
        licenses_page, "import", typed, "/smart",
        {"unknown_account": "virtual", "unknown_virtual_account": "virtual", "": "file"},
    )  # fmt: skip


@post("/smart/transfers", **_CHANGE)
async def transfer(request: AnyRequest) -> Page:
    """Move licenses between two virtual accounts of one account."""
    typed = await form_of(request)
    account, source = _split(typed.get("source", ""))
    target = _split(typed.get("target", ""))[1]
    tag = typed.get("tag", "")

    def work(made: Change) -> None:
        authority.transfer(
            made, account, tag, count_of(typed.get("count", ""), "count"), source, target, ""
        )

    return await _act(
        request, work, f"{typed.get('count')} {tag} are moved from {source} to {target}.",
        licenses_page, "transfer", typed, "/smart",
        {"same_virtual_account": "target", "unknown_virtual_account": "target", "": "count"},
    )  # fmt: skip


@post("/smart/tokens", **_CHANGE)
async def make_token(request: AnyRequest) -> Page:
    """Make a registration token; it is shown this once."""
    manager: Manager = request.app.state.manager
    typed = await form_of(request)
    account, name = _split(typed.get("virtual", ""))
    try:
        uses, days = uses_and_days(typed)
        number, secret = await change(
            request,
            lambda made: authority.make_token(
                made,
                account,
                name,
                description=typed.get("description", ""),
                days=days,
                uses=uses,
                export_allowed=typed.get("export") == "yes",
            ),
        )
    except CallpoolError as error:
        fields = {"bad_count": "uses", "bad_request": "days", "": "virtual"}
        return await tokens_page(request, refused=error, form="make", typed=typed, fields=fields)
    token = join(secret, manager.identity.anchor.public.kid)
    return await tokens_page(request, made={"id": number, "token": token})


@post("/smart/tokens/{number:int}/revoke", **_CHANGE)
async def revoke_token(request: AnyRequest, number: FromPath[int]) -> Page:
    """Revoke a registration token."""
    typed = await form_of(request)
    return await _act(
        request, lambda made: authority.revoke_token(made, number), f"Token {number} is revoked.",
        tokens_page, "revoke", typed, "/smart/tokens",
    )  # fmt: skip


@post("/smart/alerts/{number:int}/dismiss", **_CHANGE)
async def dismiss(request: AnyRequest, number: FromPath[int]) -> Page:
    """Dismiss an alert about what has happened."""
    typed = await form_of(request)
    return await _act(
        request, lambda made: authority.dismiss(made, number), f"Alert {number} is dismissed.",
        alerts_page, "dismiss", typed, "/smart/alerts",
    )  # fmt: skip


@post("/smart/instances/{name:str}/renew", **_CHANGE)
async def renew_instance(request: AnyRequest, name: FromPath[str]) -> Page:
    """Ask an instance to renew its authorization at once."""
    typed = await form_of(request)
    return await _act(
        request, lambda made: renew(made, name), f"{name} is asked to renew its authorization.",
        instances_page, f"do-{name}", typed, "/smart/instances",
    )  # fmt: skip


@post("/smart/instances/{name:str}/move", **_CHANGE)
async def move(request: AnyRequest, name: FromPath[str]) -> Page:
    """Move an instance to another virtual account."""
    typed = await form_of(request)
    target = _split(typed.get("virtual", ""))[1]
    return await _act(
        request, lambda made: move_instance(made, name, target), f"{name} is moved to {target}.",
        instances_page, f"do-{name}", typed, "/smart/instances", {"": "virtual"},
    )  # fmt: skip


@post("/smart/instances/{name:str}/remove", **_CHANGE)
async def remove(request: AnyRequest, name: FromPath[str]) -> Page:
    """Take an instance off the list, or revoke its certificate; its id is typed."""
    typed = await form_of(request)
    revoked = typed.get("how") == "revoke"

    def work(made: Change) -> None:
        if typed.get("confirm") != name:
            raise LicenseError("not_confirmed", f"Type {name} to do that; nothing was done.")
        (authority.revoke_instance if revoked else authority.remove_instance)(made, name)

    said = "has its ID certificate revoked" if revoked else "is removed; it has to register again"
    return await _act(
        request, work, f"{name} {said}.", instances_page, f"remove-{name}", typed,
        "/smart/instances", {"": "confirm"},
    )  # fmt: skip


HANDLERS = (
    licenses,
    instances,
    tokens,
    alerts,
    events,
    add_account,
    add_virtual,
    import_order,
    transfer,
    make_token,
    revoke_token,
    dismiss,
    renew_instance,
    move,
    remove,
)
