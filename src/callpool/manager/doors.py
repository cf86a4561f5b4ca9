"""How every operators' route does its work: `do` for a change, `show` for a question.

The guard has let the caller in; what he sees is narrowed by his scope in the transaction itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response

from callpool.licensing.errors import LicenseError
from callpool.manager.access import Principal
from callpool.manager.change import Change
from callpool.manager.core import Manager
from callpool.manager.guard import principal_of
from callpool.manager.preview import preview
from callpool.manager.store.database import Tx
from callpool.manager.web import JSON, answer, decode, in_thread, read_body

T = TypeVar("T")
AnyRequest = Request[Any, Any, Any]
Answer = Response[bytes]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of request bodies: a field that is not known is refused."""


async def do(
    request: AnyRequest,
    work: Callable[[Change], T],
    *,
    then: Callable[[T], Any],
    status: int = 200,
    previews: bool = False,
) -> Answer:
    """Run a change for the operator who asks.

    With `previews` the request may ask by `?preview=true` what the change would do. Raises
    LicenseError `bad_request` where it asks for a preview that there is not.
    """
    look = flag_of(request, "preview")
    if look and not previews:
        raise LicenseError("bad_request", "This change cannot be previewed.")
    manager: Manager = request.app.state.manager
    who = principal_of(request)

    def recorded(change: Change) -> T:
        before = change.lines
        result = work(change)
        if change.lines == before:
            # Nothing is changed unseen, whatever the change itself writes down.
            change.journal("changed", method=request.method, path=request.url.path[:200])
        return result

    def run() -> Answer:
        if look:
            return answer(preview(manager, who.username, who.source, work, then, who.acting))
        made = manager.change(who.username, who.source, recorded, acting=who.acting)
        return answer(then(made), status)

    return await in_thread(run)


async def show(request: AnyRequest, query: Callable[[Tx, float], Any]) -> Answer:
    """Answer an operator's question; `query` is given the manager's time."""
    return await in_thread(lambda: answer(ask(request, query)))


def ask(request: AnyRequest, query: Callable[[Tx, float], T]) -> T:
    """Run an operator's question, in a thread."""
    manager: Manager = request.app.state.manager
    manager.sweep()
    now = manager.clock.now().wall
    return manager.database.read(lambda tx: query(tx, now), principal_of(request).scope)


def who_asks(request: AnyRequest) -> Principal:
    """Return the operator who asks."""
    return principal_of(request)


async def body_of(request: AnyRequest, kind: type[T]) -> T:
    """Return the request's JSON body; raises CallpoolError as `web.read_body` and `decode`."""
    return decode(await read_body(request, {JSON}), kind)


def query_of(request: AnyRequest, kind: type[T]) -> T:
    """Return the query's parameters; raises LicenseError `bad_request`."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise LicenseError("bad_request", f"{name[:40]!r} is given twice.")
        given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise LicenseError("bad_request", f"The query is not in order: {error}.") from error


def flag_of(request: AnyRequest, name: str) -> bool:
    """Return a flag of the query, false by default; raises LicenseError `bad_request`."""
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise LicenseError("bad_request", f"{name} is true or false.")
    return bool(text == "true")


def whole_of(request: AnyRequest, name: str, otherwise: int | None) -> int | None:
    """Return a whole number of the query; raises LicenseError `bad_request`."""
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if not text.isdecimal() or len(text) > 15:
        raise LicenseError("bad_request", f"{name} is a whole number.")
    return int(text)
