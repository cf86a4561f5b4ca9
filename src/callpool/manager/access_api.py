"""The operators' door to access: sign in and out, one's own password, operators, API tokens."""

from __future__ import annotations

import secrets
from typing import Any

from litestar import Response, delete, get, patch, post, put
from litestar.datastructures import Cookie
from litestar.params import FromPath

from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager import operators
from callpool.manager.access import BEARER, BROWSER, COOKIE, Access, Principal
from callpool.manager.change import Change
from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest, Body, body_of, do, query_of, show
from callpool.manager.guard import principal_of
from callpool.manager.operators import OperatorQuery
from callpool.manager.paging import Page
from callpool.manager.passwords import check_password, hashed_aside
from callpool.manager.roles import VIEWER, allowed
from callpool.manager.shapes import access as forms
from callpool.manager.shapes.base import Numbered
from callpool.manager.store.tx import Tx
from callpool.manager.web import answer, in_thread, source_of


class SessionBody(Body, frozen=True, kw_only=True):
    """Sign in: by bearer token, or as a browser does, by cookie."""

    username: str
    password: str
    browser: bool = False


class PasswordBody(Body, frozen=True, kw_only=True):
    """Change one's own password."""

    old: str
    new: str


class OperatorBody(Body, frozen=True, kw_only=True):
    """A new operator; where no password is given one is made, and shown once."""

    username: str
    role: str = VIEWER
    tenants: tuple[str, ...] = ()
    password: str = ""


class OperatorPatch(Body, frozen=True, kw_only=True):
    """What is to change of an operator."""

    role: str | None = None
    tenants: tuple[str, ...] | None = None
    disabled: bool | None = None


class NewPasswordBody(Body, frozen=True, kw_only=True):
    """An operator's new password, set by an administrator; made and shown where it is empty."""

    password: str = ""


class ApiTokenBody(Body, frozen=True, kw_only=True):
    """A new API token of one's own."""

    name: str
    scopes: list[str]
    days: float = 90.0


def cookie_of(token: str) -> Cookie:
    """Return a browser session's cookie; an empty token removes it."""
    return Cookie(
        key=COOKIE,
        value=token,
        path="/",
        secure=True,
        httponly=True,
        samesite="strict",
        max_age=None if token else 0,
    )


def shown(who: Principal, tenants: list[str]) -> dict[str, Any]:
    """Return who somebody is, and what he may do."""
    return {
        "username": who.username,
        "role": who.role,
        "tenants": tenants,
        "via": who.via,
        "permissions": sorted(allowed(who.role, who.scopes)),
        "expires": who.expires or None,
        "csrf": who.csrf or None,
    }


@post(
    "/api/v1/sessions",
    status_code=201,
    opt=api("public", answer=forms.SignedIn, body=SessionBody, once=False),
)
async def open_session(request: AnyRequest) -> Answer:
    """Sign in: returns a bearer token, or sets a browser's cookie."""
    access: Access = request.app.state.access
    body = await body_of(request, SessionBody)
    kind = BROWSER if body.browser else BEARER
    token, who = await access.sign_in(body.username, body.password, source_of(request), kind)
    said = {"username": who.username, "role": who.role, "expires": who.expires}
    if not body.browser:
        return answer(said | {"token": token}, 201)
    made = answer(said | {"csrf": who.csrf}, 201)
    made.set_cookie(cookie_of(token))
    return made


@get("/api/v1/me", opt=api("own", answer=forms.Me))
async def show_me(request: AnyRequest) -> Answer:
    """Show who I am, and what I may do."""
    who = principal_of(request)
    return await show(request, lambda tx, now: shown(who, operators.tenants_of(tx, who.username)))


@get("/api/v1/sessions", opt=api("own", answer=forms.Sessions))
async def show_sessions(request: AnyRequest) -> Answer:
    """List my sessions."""
    who = principal_of(request)
    return await show(request, lambda tx, now: {"sessions": sessions_of(tx, now, who)})


def sessions_of(tx: Tx, now: float, who: Principal) -> list[dict[str, Any]]:
    """Return one's own sessions, the newest first."""
    return [
        {
            "id": r["hash"][:16],
            "kind": r["kind"],
            "source": r["source"],
            "made_at": r["made_at"],
            "seen_at": r["seen_at"],
            "expires": r["expires"],
            "current": r["hash"] == who.session,
        }
        for r in tx.rows(
            "SELECT * FROM session WHERE username = :name AND expires > :now ORDER BY made_at DESC",
            name=who.username,
            now=now,
        )
    ]


@delete(
    "/api/v1/sessions/{session:str}",
    status_code=200,
    opt=api("own", answer=forms.SignedOut, once=False),
)
async def close_session(request: AnyRequest, session: FromPath[str]) -> Answer:
    """Sign out (`current`), or end another of my sessions."""
    access: Access = request.app.state.access
    who = principal_of(request)

    def run() -> Response[bytes]:
        found = who.session if session == "current" else _named(access, who, session)
        if not found:
            raise LicenseError("unknown_session", "There is no such session of yours.")
        access.close_session(who, found)
        made = answer({"signed_out": True})
        if who.via == BROWSER and found == who.session:
            made.set_cookie(cookie_of(""))
        return made

    return await in_thread(run)


def _named(access: Access, who: Principal, session: str) -> str:
    if len(session) != 16 or not session.isalnum():
        return ""
    return str(
        access.manager.database.read(
            lambda tx: tx.value(
                "SELECT hash FROM session WHERE username = :name AND substr(hash, 1, 16) = :id",
                name=who.username,
                id=session,
            )
        )
        or ""
    )


@put("/api/v1/me/password", opt=api("own", answer=forms.PasswordChanged, body=PasswordBody))
async def change_password(request: AnyRequest) -> Answer:
    """Change my password; my other sessions end."""
    access: Access = request.app.state.access
    who = principal_of(request)
    body = await body_of(request, PasswordBody)
    check_password(body.new, who.username)
    try:
        await access.by_password(who.username, body.old, who.source, via="check")
    except CallpoolError as error:
        if error.code != "bad_credentials":
            raise
        raise LicenseError("wrong_password", "The old password is wrong.") from error
    kept = await hashed_aside(body.new)
    return await do(
        request,
        lambda c: operators.set_password(c, who.username, kept, keep=who.session),
        then=lambda _: {"changed": True},
    )


@get("/api/v1/operators", opt=api("operators.read", answer=forms.OperatorPage, query=OperatorQuery))
async def show_operators(request: AnyRequest) -> Answer:
    """List the operators."""
    asked = query_of(request, OperatorQuery)
    return await show(request, lambda tx, now: operators.page(tx, asked))


@post(
    "/api/v1/operators",
    status_code=201,
    opt=api("operators.change", answer=forms.OperatorAdded, body=OperatorBody),
)
async def add_operator(request: AnyRequest) -> Answer:
    """Add an operator."""
    body = await body_of(request, OperatorBody)
    password, kept = await _new_password(body.password, body.username)
    return await do(
        request,
        lambda c: operators.add_operator(c, body.username, kept, body.role, body.tenants),
        then=lambda _: {"username": body.username, "role": body.role, "password": password},
        status=201,
    )


async def _new_password(given: str, username: str) -> tuple[str | None, str]:
    """Return a password to show, None where it was given, and its hash."""
    password = check_password(given, username) if given else secrets.token_urlsafe(18)
    return None if given else password, await hashed_aside(password)


@patch(
    "/api/v1/operators/{username:str}",
    opt=api("operators.change", answer=forms.Operator, body=OperatorPatch),
)
async def change_operator(request: AnyRequest, username: FromPath[str]) -> Answer:
    """Change an operator's role, tenants, or let him in no more."""
    body = await body_of(request, OperatorPatch)

    def work(change: Change) -> dict[str, Any]:
        operators.change_operator(
            change, username, role=body.role, tenants=body.tenants, disabled=body.disabled
        )
        return operators.shown(change.tx, operators.operator_row(change.tx, username))

    return await do(request, work, then=lambda found: found)


@put(
    "/api/v1/operators/{username:str}/password",
    opt=api("operators.change", answer=forms.PasswordSet, body=NewPasswordBody),
)
async def set_password(request: AnyRequest, username: FromPath[str]) -> Answer:
    """Set an operator's password; his sessions end."""
    body = await body_of(request, NewPasswordBody)
    password, kept = await _new_password(body.password, username)
    return await do(
        request,
        lambda c: operators.set_password(c, username, kept),
        then=lambda _: {"username": username, "password": password},
    )


@delete(
    "/api/v1/operators/{username:str}",
    status_code=200,
    opt=api("operators.change", answer=forms.OperatorNamed),
)
async def remove_operator(request: AnyRequest, username: FromPath[str]) -> Answer:
    """Remove an operator with his sessions and tokens."""
    return await do(
        request,
        lambda c: operators.remove_operator(c, username),
        then=lambda _: {"username": username},
    )


@delete(
    "/api/v1/operators/{username:str}/sessions",
    status_code=200,
    opt=api("operators.change", answer=forms.SessionsEnded),
)
async def end_sessions(request: AnyRequest, username: FromPath[str]) -> Answer:
    """End all sessions of an operator."""

    def work(change: Change) -> int:
        operators.operator_row(change.tx, username)
        ended = operators.end_sessions(change, username)
        change.journal("sessions_ended", username=username, count=ended)
        return ended

    return await do(request, work, then=lambda ended: {"username": username, "ended": ended})


@get("/api/v1/api-tokens", opt=api("own", answer=forms.ApiTokenPage, query=Page))
async def show_api_tokens(request: AnyRequest) -> Answer:
    """List my API tokens, without their secrets."""
    who = principal_of(request)
    asked = query_of(request, Page)
    return await show(request, lambda tx, now: operators.api_tokens(tx, now, asked, who.username))


@post(
    "/api/v1/api-tokens",
    status_code=201,
    opt=api("own", answer=forms.ApiTokenMade, body=ApiTokenBody),
)
async def add_api_token(request: AnyRequest) -> Answer:
    """Make an API token of mine; it is shown this once."""
    who = principal_of(request)
    body = await body_of(request, ApiTokenBody)
    return await do(
        request,
        lambda c: operators.make_api_token(c, who.username, body.name, body.scopes, body.days),
        then=lambda made: {"id": made[0], "token": made[1], "expires": made[2]},
        status=201,
    )


@delete("/api/v1/api-tokens/{number:int}", status_code=200, opt=api("own", answer=Numbered))
async def revoke_api_token(request: AnyRequest, number: FromPath[int]) -> Answer:
    """Revoke one of my API tokens."""
    who = principal_of(request)
    return await do(
        request,
        lambda c: operators.revoke_api_token(c, number, who.username),
        then=lambda _: {"id": number},
    )


@get("/api/v1/all-api-tokens", opt=api("operators.read", answer=forms.ApiTokenPage, query=Page))
async def show_all_api_tokens(request: AnyRequest) -> Answer:
    """List everybody's API tokens, without their secrets."""
    asked = query_of(request, Page)
    return await show(request, lambda tx, now: operators.api_tokens(tx, now, asked))


@delete(
    "/api/v1/all-api-tokens/{number:int}",
    status_code=200,
    opt=api("operators.change", answer=Numbered),
)
async def revoke_any_api_token(request: AnyRequest, number: FromPath[int]) -> Answer:
    """Revoke anybody's API token."""
    return await do(
        request,
        lambda c: operators.revoke_api_token(c, number),
        then=lambda _: {"id": number},
    )


HANDLERS = (
    open_session,
    show_me,
    show_sessions,
    close_session,
    change_password,
    show_operators,
    add_operator,
    change_operator,
    set_password,
    remove_operator,
    end_sessions,
    show_api_tokens,
    add_api_token,
    revoke_api_token,
    show_all_api_tokens,
    revoke_any_api_token,
)
