"""What both doors share: bounded bodies, strict JSON, problem details (RFC 9457), threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec
from litestar import MediaType, Request, Response
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException

from callpool.licensing.errors import CallpoolError, LicenseError, TrustError

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: The longest body that is read, bytes.
MAX_BODY: Final = 256 * 1024
PROBLEM: Final = "application/problem+json"
JSON: Final = "application/json"
_BODY: Final = "callpool_body"

_STATUS: Final = {
    "bad_request": 400,
    "bad_json": 400,
    "bad_count": 400,
    "bad_name": 400,
    "bad_serial": 400,
    "bad_apply": 400,
    "bad_mode": 400,
    "bad_row": 400,
    "half_of_pair": 400,
    "bad_bulk_file": 400,
    "bad_window": 400,
    "bad_document": 400,
    "bad_envelope": 400,
    "bad_message": 400,
    "bad_key": 400,
    "unknown_version": 400,
    "unknown_license_type": 400,
    "bad_credentials": 401,
    "session_expired": 401,
    "not_signed_in": 401,
    "token_refused": 401,
    "not_permitted": 403,
    "foreign_origin": 403,
    "csrf_needed": 403,
    "wrong_password": 403,
    "bad_role": 400,
    "bad_cursor": 400,
    "bad_idempotency_key": 400,
    "idempotency_key_reused": 422,
    "changed_meanwhile": 412,
    "tenant_needed": 400,
    "audit_head_unusable": 503,
    "busy": 503,
    "bad_scope": 400,
    "weak_password": 400,
    "tenants_needed": 400,
    "no_tenants_here": 400,
    "unknown_operator": 404,
    "unknown_session": 404,
    "too_many_sign_ins": 503,
    "unknown_device": 404,
    "unknown_tenant": 404,
    "unknown_serial": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_too_large": 413,
    "wrong_content_type": 415,
    "unknown_token": 404,
    "unknown_account": 404,
    "unknown_virtual_account": 404,
    "unknown_instance": 404,
    "unknown_alert": 404,
    "unknown_entitlement": 400,
    "account_needed": 400,
    "above_maximum": 400,
    "same_virtual_account": 400,
    "not_registered": 403,
    "certificate_revoked": 403,
    "certificate_expired": 403,
    "token_revoked": 403,
    "token_expired": 403,
    "token_used_up": 403,
    "stale_contact": 409,
    "manager_restored": 503,
    "unit_locked": 409,
    "older_report": 409,
    "no_vendor_key": 409,
    "too_many_failures": 429,
    "too_many_streams": 503,
    "database_unusable": 503,
}

# Transactions queue on the database's lock; more threads would only wait there.
_POOL: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="callpool")


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread."""
    return await asyncio.get_running_loop().run_in_executor(_POOL, work)


def status_of(error: CallpoolError) -> int:
    """Return the HTTP status of an error: the code decides, the class where it does not."""
    by_class = 403 if isinstance(error, TrustError) else 409
    return _STATUS.get(
        error.code, by_class if isinstance(error, LicenseError | TrustError) else 500
    )


def problem(code: str, sentence: str, status: int) -> Response[bytes]:
    """Return a problem document with its stable `code`."""
    body = {"type": "about:blank", "title": code, "status": status, "code": code}
    headers = {}
    if status == 401:
        # Not Basic: a browser would ask for the password itself, and send it ever after.
        headers["WWW-Authenticate"] = 'Bearer realm="callpool"'
    if status in (429, 503):
        headers["Retry-After"] = "60" if status == 429 else "5"
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
    return problem(error.code, error.sentence, status_of(error))


def refuse_http(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Turn the framework's own errors (no such path, wrong method) into the same form."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    sentence = {
        404: "There is nothing at this address.",
        405: "This address does not take that method.",
    }.get(error.status_code, "The request cannot be understood.")
    return problem(code, sentence, error.status_code)


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
