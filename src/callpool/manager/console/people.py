"""Operators, one's own account, and the audit log."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import urlencode

import msgspec
from litestar import get, post
from litestar.params import FromPath

from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager import audit_verify, audit_views, operators
from callpool.manager.access import Access, Principal
from callpool.manager.access_api import sessions_of
from callpool.manager.change import Change
from callpool.manager.console.page import (
    REFUSALS,
    AnyRequest,
    Page,
    act,
    asked_of,
    back,
    change,
    form_of,
    read_query,
    show,
)
from callpool.manager.console.pool_actions import count_of
from callpool.manager.console.smart import times_of
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.guard import principal_of
from callpool.manager.paging import MOST
from callpool.manager.paging import Page as Paged
from callpool.manager.passwords import check_password, hashed_aside
from callpool.manager.roles import ROLES, SCOPES, VIEWER
from callpool.manager.store.tx import Tx
from callpool.manager.web import in_thread

_ALL: Final = Paged(limit=MOST)
_CHANGE: Final[dict[str, Any]] = {
    "status_code": 200,
    "opt": api("operators.change"),
    "exception_handlers": REFUSALS,
}
_OWN: Final[dict[str, Any]] = {
    "status_code": 200,
    "opt": api("own"),
    "exception_handlers": REFUSALS,
}


async def operators_page(request: AnyRequest, *, made: Any = None, **refused: Any) -> Page:
    """Show the operators; `made` is a password that was just made."""

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        return {
            "operators": [
                operators.shown(tx, r) for r in tx.rows("SELECT * FROM operator ORDER BY username")
            ],
            "tokens": operators.api_tokens(tx, now, _ALL)["api_tokens"],
            "roles": [(name, name.replace("_", " ")) for name in ROLES],
            "viewer": VIEWER,
            "made": made,
            "here": "/operators",
        }

    return await show(request, "operators.html.j2", ask, **refused)


@get("/operators", opt=api("operators.read"), exception_handlers=REFUSALS)
async def show_operators(request: AnyRequest) -> Page:
    """Show the operators."""
    return await operators_page(request)


def _tenants(text: str) -> list[str]:
    return text.replace(",", " ").split()


@post("/operators", **_CHANGE)
async def add_operator(request: AnyRequest) -> Page:
    """Add an operator; his password is made, and shown this once."""
    typed = await form_of(request)
    username = typed.get("username", "")
    password = secrets.token_urlsafe(18)
    kept = await hashed_aside(password)
    try:
        await change(
            request,
            lambda made: operators.add_operator(
                made, username, kept, typed.get("role", ""), _tenants(typed.get("tenants", ""))
            ),
        )
    except CallpoolError as error:
        fields = {"bad_role": "role", "bad_name": "username", "operator_exists": "username"}
        return await operators_page(
            request, refused=error, form="add", typed=typed, fields={**fields, "": "tenants"}
        )
    return await operators_page(request, made={"username": username, "password": password})


@post("/operators/{username:str}/change", **_CHANGE)
async def change_operator(request: AnyRequest, username: FromPath[str]) -> Page:
    """Change an operator's role and tenants, or let him in no more."""
    typed = await form_of(request)

    def work(made: Change) -> None:
        operators.change_operator(
            made,
            username,
            role=typed.get("role"),
            tenants=_tenants(typed.get("tenants", "")),
            disabled=typed.get("disabled") == "yes",
        )

    return await act(
        request,
        work,
        to="/operators",
        said=f"{username} is changed.",
        page=lambda **refused: operators_page(request, **refused),
        form=f"change-{username}",
        typed=typed,
        fields={"bad_role": "role", "last_administrator": "role", "": "tenants"},
    )


@post("/operators/{username:str}/password", **_CHANGE)
async def new_password(request: AnyRequest, username: FromPath[str]) -> Page:
    """Make an operator a new password, shown this once; his sessions end."""
    password = secrets.token_urlsafe(18)
    kept = await hashed_aside(password)
    try:
        await change(request, lambda made: operators.set_password(made, username, kept))
    except CallpoolError as error:
        return await operators_page(request, refused=error, form=f"change-{username}")
    return await operators_page(request, made={"username": username, "password": password})


@post("/operators/{username:str}/sessions", **_CHANGE)
async def end_sessions(request: AnyRequest, username: FromPath[str]) -> Page:
    """End all sessions of an operator."""

    def work(made: Change) -> int:
        operators.operator_row(made.tx, username)
        ended = operators.end_sessions(made, username)
        made.journal("sessions_ended", username=username, count=ended)
        return ended

    return await act(
        request,
        work,
        to="/operators",
        said=lambda ended: f"{ended} session{'s' if ended != 1 else ''} of {username} ended.",
        page=lambda **refused: operators_page(request, **refused),
        form=f"change-{username}",
    )


@post("/operators/{username:str}/remove", **_CHANGE)
async def remove_operator(request: AnyRequest, username: FromPath[str]) -> Page:
    """Remove an operator; his name is typed to say that it is meant."""
    typed = await form_of(request)

    def work(made: Change) -> None:
        if typed.get("confirm") != username:
            raise LicenseError("not_confirmed", f"Type {username} to remove him; nothing was done.")
        operators.remove_operator(made, username)

    return await act(
        request,
        work,
        to="/operators",
        said=f"{username} is removed.",
        page=lambda **refused: operators_page(request, **refused),
        form=f"remove-{username}",
        typed=typed,
        fields={"": "confirm"},
    )


@post("/operators/tokens/{number:int}/revoke", **_CHANGE)
async def revoke_any_token(request: AnyRequest, number: FromPath[int]) -> Page:
    """Revoke anybody's API token."""
    return await act(
        request,
        lambda made: operators.revoke_api_token(made, number),
        to="/operators",
        said=f"API token {number} is revoked.",
        page=lambda **refused: operators_page(request, **refused),
        form="token",
    )


async def account_page(request: AnyRequest, *, made: Any = None, **refused: Any) -> Page:
    """Show one's own account; `made` is an API token that was just made."""
    who = principal_of(request)

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        return {
            "tenants": operators.tenants_of(tx, who.username),
            "sessions": sessions_of(tx, now, who),
            "tokens": operators.api_tokens(tx, now, _ALL, who.username)["api_tokens"],
            "scopes": [name for name, opens in SCOPES.items() if opens & ROLES[who.role]],
            "made": made,
            "here": "/account",
        }

    return await show(request, "account.html.j2", ask, **refused)


@get("/account", opt=api("own"), exception_handlers=REFUSALS)
async def account(request: AnyRequest) -> Page:
    """Show one's own account."""
    return await account_page(request)


async def _prove(access: Access, who: Principal, password: str) -> None:
    """Refuse a wrong old password: LicenseError `wrong_password`."""
    try:
        await access.by_password(who.username, password, who.source, via="check")
    except CallpoolError as error:
        if error.code != "bad_credentials":
            raise
        raise LicenseError("wrong_password", "The old password is wrong.") from error


@post("/account/password", **_OWN)
async def change_password(request: AnyRequest) -> Page:
    """Change one's own password; one's other sessions end."""
    access: Access = request.app.state.access
    who = principal_of(request)
    typed = await form_of(request)
    new = typed.get("new_password", "")
    try:
        if new != typed.get("again_password"):
            raise LicenseError("passwords_differ", "The two new passwords differ.")
        check_password(new, who.username)
        await _prove(access, who, typed.get("old_password", ""))
        kept = await hashed_aside(new)
        await change(
            request, lambda made: operators.set_password(made, who.username, kept, keep=who.session)
        )
    except CallpoolError as error:
        fields = {"wrong_password": "old_password", "passwords_differ": "again_password"}
        return await account_page(
            request, refused=error, form="password", fields={**fields, "": "new_password"}
        )
    return back("/account", "The password is changed; your other sessions have ended.")


@post("/account/tokens", **_OWN)
async def make_api_token(request: AnyRequest) -> Page:
    """Make an API token of one's own; it is shown this once."""
    who = principal_of(request)
    typed = await form_of(request)
    scopes = [name for name in SCOPES if typed.get(f"scope_{name}") == "yes"]
    try:
        days = count_of(typed.get("days", ""), "days")
        number, token, expires = await change(
            request,
            lambda made: operators.make_api_token(
                made, who.username, typed.get("name", ""), scopes, float(days)
            ),
        )
    except CallpoolError as error:
        fields = {"bad_name": "name", "bad_scope": "scope", "": "days"}
        return await account_page(request, refused=error, form="token", typed=typed, fields=fields)
    return await account_page(request, made={"id": number, "token": token, "expires": expires})


@post("/account/tokens/{number:int}/revoke", **_OWN)
async def revoke_api_token(request: AnyRequest, number: FromPath[int]) -> Page:
    """Revoke one of one's own API tokens."""
    who = principal_of(request)
    return await act(
        request,
        lambda made: operators.revoke_api_token(made, number, who.username),
        to="/account",
        said=f"API token {number} is revoked.",
        page=lambda **refused: account_page(request, **refused),
        form="token",
    )


@post("/account/sessions/end", **_OWN)
async def end_other_sessions(request: AnyRequest) -> Page:
    """End all of one's sessions but this one."""
    who = principal_of(request)

    def work(made: Change) -> int:
        ended = operators.end_sessions(made, who.username, keep=who.session)
        made.journal("sessions_ended", username=who.username, count=ended)
        return ended

    return await act(
        request,
        work,
        to="/account",
        said=lambda ended: f"{ended} other session{'s' if ended != 1 else ''} ended.",
        page=lambda **refused: account_page(request, **refused),
        form="sessions",
    )


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines of the audit log; days are UTC."""

    who: str = ""
    role: str = ""
    cause: str = ""
    outcome: Literal["", "done", "refused"] = ""
    source: str = ""
    tenant: str = ""
    since: str = ""
    until: str = ""
    cursor: str = ""


async def audit_page(request: AnyRequest, *, verified: Any = None, **refused: Any) -> Page:
    """Show the audit log; `verified` is what verifying it has found."""
    asked = asked_of(request, AuditQuery)
    days = {name: getattr(asked, name) for name in ("since", "until") if getattr(asked, name)}
    plain = {
        name: value
        for name, value in msgspec.structs.asdict(asked).items()
        if value and name not in ("since", "until", "cursor")
    }
    times = times_of(days)
    said = {name: str(at) for name, at in times.items()}
    filters = read_query({**plain, **said, "cursor": asked.cursor}, audit_views.Filters)

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        found = audit_views.page(tx, filters)
        return {
            "lines": found["lines"],
            "asked": asked,
            "roles": list(ROLES),
            "causes": _causes(tx),
            "export": {
                form: f"/api/v1/audit?{urlencode({**plain, **times, 'format': form})}"
                for form in ("csv", "jsonl")
            },
            "older": f"/audit?{urlencode({**plain, **days, 'cursor': found['next']})}"
            if found["next"]
            else None,
            "verified": verified,
        }

    return await show(request, "audit.html.j2", ask, **refused)


def _causes(tx: Tx) -> list[str]:
    """Return the causes that there are: a walk from one to the next along their index."""
    found: list[str] = []
    while True:
        following = tx.value(
            "SELECT min(cause) FROM journal WHERE cause > :last", last=found[-1] if found else ""
        )
        if following is None:
            return found
        found.append(following)


@get("/audit", opt=api("audit.read"), exception_handlers=REFUSALS)
async def audit(request: AnyRequest) -> Page:
    """Show the audit log."""
    return await audit_page(request)


@post("/audit/verify", status_code=200, opt=api("audit.read"), exception_handlers=REFUSALS)
async def verify(request: AnyRequest) -> Page:
    """Verify the whole audit log."""
    manager: Manager = request.app.state.manager
    found: Mapping[str, Any] = await in_thread(
        lambda: msgspec.to_builtins(audit_verify.verify(manager, ()))
    )
    return await audit_page(request, verified=found)


HANDLERS = (
    show_operators,
    add_operator,
    change_operator,
    new_password,
    end_sessions,
    remove_operator,
    revoke_any_token,
    account,
    change_password,
    make_api_token,
    revoke_api_token,
    end_other_sessions,
    audit,
    verify,
)
