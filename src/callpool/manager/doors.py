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
from callpool.manager.idempotency import HEADER, REPLAYED, Again, Asked
from callpool.manager.idempotency import asked as asked_for
from callpool.manager.preview import preview
from callpool.manager.store.tx import Tx
from callpool.manager.tags import check_match
from callpool.manager.web import JSON, answer, body_read, decode, in_thread, read_body

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
    tag: Callable[[Change], tuple[str, str]] | None = None,
) -> Answer:
    """Run a change for the operator who asks, once for each idempotency key.

    With `previews` the request may ask by `?preview=true` what the change would do. `tag` returns
    the name and the tag of what is changed: an `If-Match` that does not fit refuses the change.
    Raises LicenseError `bad_request` (a preview that there is not), `bad_idempotency_key`,
    CallpoolError `idempotency_key_reused`, `changed_meanwhile`.
    """
    look = flag_of(request, "preview")
    if look and not previews:
        raise LicenseError("bad_request", "This change cannot be previewed.")
    manager: Manager = request.app.state.manager
    who = principal_of(request)
    asked = None if look else _asked(request, who)
    match = request.headers.get("if-match", "")

    def recorded(change: Change) -> bytes:
        if asked is not None:
            asked.before(change)
        result = checked(change)
        if not change.lines:
            # Nothing is changed unseen, whatever the change itself writes down.
            change.journal("changed", method=request.method, path=request.url.path[:200])
        raw = msgspec.json.encode(then(result))
        if asked is not None:
            asked.after(change, status, raw)
        return raw

    def checked(change: Change) -> T:
        if match and tag is not None:
            what, now = tag(change)
            check_match(match, now, what)
        return work(change)

    def run() -> Answer:
        if look:
            return answer(preview(manager, who.username, who.source, checked, then, who.acting))
        try:
            raw = manager.change(who.username, who.source, recorded, acting=who.acting)
        except Again as again:
            return Response(
                again.body,
                status_code=again.status,
                media_type=JSON,
                headers={REPLAYED: "true"},
            )
        return Response(raw, status_code=status, media_type=JSON)

    return await in_thread(run)


def _asked(request: AnyRequest, who: Principal) -> Asked | None:
    key = request.headers.get(HEADER)
    if key is None:
        return None
    return asked_for(
        who.username,
        key,
        request.method.encode(),
        request.scope["raw_path"],
        request.scope["query_string"],
        request.headers.get("content-type", "").encode(),
        body_read(request),
    )


async def show(
    request: AnyRequest, query: Callable[[Tx, float], Any], *, tagged: bool = False
) -> Answer:
    """Answer an operator's question; `query` is given the manager's time.

    Where it is `tagged` the answer's `etag` stands in a header as well, for `If-Match`.
    """

    def run() -> Answer:
        found = ask(request, query)
        made = answer(found)
        if tagged:
            made.headers["ETag"] = found["etag"]
        return made

    return await in_thread(run)


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
