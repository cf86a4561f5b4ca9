"""What both doors share: bounded bodies, strict JSON, problem details (RFC 9457), threads."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec
from litestar import MediaType, Request, Response
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException

from callpool.licensing.errors import CallpoolError
from callpool.manager.codes import status_of

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: The longest body that is read, bytes.
MAX_BODY: Final = 256 * 1024
PROBLEM: Final = "application/problem+json"
JSON: Final = "application/json"
_BODY: Final = "callpool_body"

#: Transactions queue on the database's lock; more threads would only wait there.
WORKERS: Final = 8
_POOL: Final = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="callpool")


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread."""
    return await asyncio.get_running_loop().run_in_executor(_POOL, work)


def problem(
    code: str, sentence: str, status: int, *, retry_after: int | None = None
) -> Response[bytes]:
    """Return a problem document with its stable `code`; `retry_after` is in seconds."""
    body = {"type": "about:blank", "title": code, "status": status, "code": code}
    headers = {}
    if status == 401:
        # Not Basic: a browser would ask for the password itself, and send it ever after.
        headers["WWW-Authenticate"] = 'Bearer realm="callpool"'
    if status in (429, 503):
        # Nobody knows how long a disk stays full: whoever asks is at least spread over a while.
        usual = 60 if status == 429 else random.randint(5, 15)  # noqa: S311  no secret
        headers["Retry-After"] = str(usual if retry_after is None else retry_after)
    return Response(
        msgspec.json.encode(body | {"detail": sentence}),
        status_code=status,
        media_type=PROBLEM,
        headers=headers,
    )


def answer(value: Any, status: int = 200) -> Response[bytes]:
    """Return JSON."""
    return Response(msgspec.json.encode(value), status_code=status, media_type=MediaType.JSON)


def refuse(_request: Request[Any, Any, Any], error: CallpoolError) -> Response[bytes]:
    """Turn a typed error into a problem document."""
    return problem(
        error.code,
        error.sentence,
        status_of(error),
        retry_after=getattr(error, "retry_after", None),
    )


def refuse_http(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Turn the framework's own errors (no such path, wrong method) into the same form."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    sentence = {
        404: "There is nothing at this address.",
        405: "This address does not take that method.",
    }.get(error.status_code, "The request cannot be understood.")
    made = problem(code, sentence, error.status_code)
    allow = (error.headers or {}).get("allow")
    if allow:
        made.headers["Allow"] = allow
    return made


def refuse_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer what nobody foresaw: the log has the trace, the caller a code."""
    if isinstance(error, RecursionError):
        return problem("bad_message", "The message is nested too deeply.", 400)
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem("internal_error", "The manager failed; its log says why.", 500)


async def read_body(request: Request[Any, Any, Any], types: Collection[str]) -> bytes:
    """Return the body, at most MAX_BODY bytes, of one of the content types.

    Raises CallpoolError `wrong_content_type` or `body_too_large`.
    """
    said = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if said not in types:
        raise CallpoolError(
            "wrong_content_type", f"The content type here is {' or '.join(sorted(types))}."
        )
    length = request.headers.get("content-length", "")
    body = bytearray()
    if not length.isdecimal() or int(length) <= MAX_BODY:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                break
        else:
            request.scope["state"][_BODY] = bytes(body)
            return bytes(body)
    raise CallpoolError("body_too_large", f"A body has at most {MAX_BODY} bytes.")


def body_read(request: Request[Any, Any, Any]) -> bytes:
    """Return the body as `read_body` has read it, nothing where it has not."""
    found = request.scope["state"].get(_BODY, b"")
    return bytes(found)


def decode(raw: bytes, kind: type[T]) -> T:
    """Read a JSON body; raises CallpoolError `bad_json` or `bad_request`."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise CallpoolError(
            "bad_request", f"The request does not have its form: {error}."
        ) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise CallpoolError("bad_json", "The body is not well-formed JSON.") from error


def source_of(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the address that a request comes from."""
    return request.client.host if request.client else ""
