"""The one guard: who asks, whether he may, and whether it is he who asks and not his browser.

A change that a browser is made to send by another site is refused three times: the session's
cookie is SameSite=Strict, an Origin that is not ours is refused whatever the credentials, and a
browser's session has to send back the value that only our pages know.
"""

from __future__ import annotations

import hmac
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager.access import COOKIE, Access, Principal
from callpool.manager.declare import Declared, declared
from callpool.manager.roles import DEVICE, PERMISSIONS, PUBLIC
from callpool.manager.web import in_thread, source_of

#: Where a browser's session sends back its value: a header, or a field of a form.
CSRF_HEADER: Final = "x-csrf-token"
CSRF_FIELD: Final = "csrf"
_FORM: Final = "application/x-www-form-urlencoded"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_PRINCIPAL: Final = "principal"
_LONGEST_FORM: Final = 256 * 1024


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Return who asks, on a route that needs a permission."""
    found = connection.scope["state"][_PRINCIPAL]
    assert isinstance(found, Principal)  # the guard has put it there
    return found


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let a request in, or refuse it.

    Raises CallpoolError as `Access.caller`, `foreign_origin`, `csrf_needed`, `not_permitted`.
    """
    method = str(connection.scope.get("method", "GET"))
    if method == "OPTIONS":
        return  # answered by the framework: which methods there are
    needs = declared(handler).needs
    if needs == DEVICE:
        return
    if method not in _SAFE:
        _check_origin(connection)
    if needs == PUBLIC:
        return
    access: Access = connection.app.state.access
    principal = await access.caller(
        connection.headers.get("authorization", ""),
        connection.cookies.get(COOKIE, ""),
        source_of(connection),
    )
    if principal.csrf and method not in _SAFE:
        await _check_csrf(connection, principal)
    connection.scope["state"][_PRINCIPAL] = principal
    if not principal.may(needs):
        path = str(connection.scope["path"])
        await in_thread(lambda: access.refused(principal, method=method, path=path, needs=needs))
        raise CallpoolError("not_permitted", _sentence(principal, needs))
    _check_query(connection, declared(handler))


def _check_query(connection: ASGIConnection[Any, Any, Any, Any], route: Declared) -> None:
    """Refuse a parameter that the route does not know: a mistyped filter would show too much.

    Only where the answer is declared: what a page does with its address is its own affair.
    """
    if route.answer is None:
        return
    for name in connection.query_params:
        if name not in route.parameters:
            raise LicenseError("bad_request", f"There is no filter named {name[:40]!r} here.")


def _sentence(principal: Principal, needs: str) -> str:
    what = PERMISSIONS[needs]
    if principal.scopes is not None:
        return f"This token may not: it takes {needs} ({what}), within its scopes and its owner."
    return f"The role {principal.role} may not: it takes {needs} ({what})."


def _check_origin(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    origin = connection.headers.get("origin")
    fetched = connection.headers.get("sec-fetch-site", "same-origin")
    if origin is None and fetched in ("same-origin", "none"):
        return
    bases: frozenset[str] = connection.app.state.base_urls
    host = connection.headers.get("host", "")
    ours = {f"https://{host}"} | {f"https://{urlsplit(base).netloc}" for base in bases}
    if origin not in ours or fetched not in ("same-origin", "none"):
        raise CallpoolError("foreign_origin", "Another site made the browser send this.")


async def _check_csrf(connection: ASGIConnection[Any, Any, Any, Any], principal: Principal) -> None:
    said = connection.headers.get(CSRF_HEADER, "")
    kind = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not said and kind == _FORM and isinstance(connection, Request):
        said = await _field(connection)
    if not hmac.compare_digest(said.encode(), principal.csrf.encode()):
        raise CallpoolError(
            "csrf_needed", f"A change by a browser's session needs the header {CSRF_HEADER}."
        )


async def _field(request: Request[Any, Any, Any]) -> str:
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > _LONGEST_FORM:
        return ""
    # The body stays with the request: the handler reads it again.
    found = parse_qs((await request.body()).decode(errors="replace"))
    return found.get(CSRF_FIELD, [""])[0]
