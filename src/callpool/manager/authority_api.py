"""The smart devices' door: registration, authorization, renewal, deregistration, hints.

Every body is a signed envelope, both ways. A request that is verified and refused is answered
by a signed refusal, with the HTTP status of its code; one that cannot be verified gets a
problem document, which proves nothing to anybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from litestar import Request, Response, post
from litestar.params import FromPath
from litestar.response import Stream

from callpool.licensing.errors import CallpoolError, LicenseError, TrustError
from callpool.manager.authority_contacts import (
    COUNTING,
    Given,
    authorize,
    check_listed,
    deregister,
    instance_of,
    key_of,
    renew_id,
)
from callpool.manager.authority_instances import read_register, register
from callpool.manager.change import Change
from callpool.manager.codes import status_of
from callpool.manager.contacts import check_skew
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.device_api import check_url
from callpool.manager.hints import Hub, instance_stream
from callpool.manager.identity import Identity
from callpool.manager.overload import Caller, ContactRoom
from callpool.manager.roles import DEVICE
from callpool.manager.store.tx import Row
from callpool.manager.web import in_thread, read_body, source_of
from callpool.wire.envelope import read, sign, verify
from callpool.wire.keys import PublicKey
from callpool.wire.messages import CONTENT_TYPE, check_bound
from callpool.wire.smart_messages import (
    AUTHORIZE_PATH,
    DEREGISTER_PATH,
    REGISTER_PATH,
    RENEW_ID_PATH,
    SMART_AUTHORIZE,
    SMART_DEREGISTER,
    SMART_HINTS,
    SMART_HINTS_PATH,
    SMART_REFUSAL,
    SMART_RENEW_ID,
    AuthorizeRequest,
    DeregisterRequest,
    InstanceRequest,
    Refusal,
    RegisterRequest,
    RenewIdRequest,
    SmartHintsRequest,
    SmartRequest,
)

AnyRequest = Request[Any, Any, Any]
Work = Callable[[Change, Any, str, Identity], Given]

#: The longest nonce and contact value that are read.
_LONGEST: Final = 128


def _refusal(
    manager: Manager, request: SmartRequest, error: CallpoolError, instance: Row | None
) -> Response[str]:
    """Return a signed refusal; `instance` is None in the answer to a registration."""
    now = manager.clock.now().wall
    book = manager.identity.key_book()
    known = book.serial if instance is None else instance["keys_known"]
    body = Refusal(
        nonce=request.nonce,
        serial=request.serial,
        time=now,
        code=error.code,
        detail=error.sentence,
        counts=error.code in COUNTING,
        anchor=manager.identity.anchor.public.text if instance is None else "",
        key_set=book.envelope if instance is None else "",
    )
    return Response(
        sign(manager.identity.signer(known, now), SMART_REFUSAL, body),
        status_code=status_of(error),
        media_type=CONTENT_TYPE,
    )


def _check_form(request: SmartRequest) -> None:
    contact = request.contact if isinstance(request, InstanceRequest) else ""
    if not 0 < len(request.nonce) <= _LONGEST or len(contact) > _LONGEST:
        raise TrustError("bad_message", f"A nonce has 1 to {_LONGEST} characters.")


def _signed(
    manager: Manager, envelope: bytes, typ: str, kind: type[SmartRequest]
) -> tuple[SmartRequest, Row, str]:
    """Return a request, the instance whose ID key signed it, and that key's `kid`."""
    found: list[tuple[Row, str]] = []

    def key_for(kid: str) -> PublicKey | None:
        instance = manager.database.read(lambda tx: instance_of(tx, kid))
        if instance is None:
            return None
        found.append((instance, kid))
        return key_of(instance)

    try:
        request = read(verify(envelope, typ, key_for), kind)
    except TrustError as error:
        if error.code != "unknown_signer":
            raise
        # It cannot be signed, for nobody knows who asks; whoever reads it knows what to do.
        raise TrustError(
            error.code,
            "No product instance was ever registered here by this device's key, or the authority "
            "was restored from a backup made before; register the device again, with --force.",
        ) from error
    request.checked()
    _check_form(request)
    return request, *found[0]


def _check_bound(http: AnyRequest, request: SmartRequest, path: str, instance: Row | None) -> None:
    check_url(http, request.url, path)
    if instance is not None:
        check_bound(url="", sent_to="", serial=request.serial, signer=instance["serial"])


@post(REGISTER_PATH, status_code=200, opt=api(DEVICE))
async def register_door(request: AnyRequest) -> Response[str]:
    """Register a product instance by the token of a virtual account."""
    manager: Manager = request.app.state.manager
    envelope = await read_body(request, {CONTENT_TYPE})

    def check() -> tuple[Caller, tuple[RegisterRequest, PublicKey]]:
        asked, key = read_register(envelope)
        _check_form(asked)
        return Caller(name=f"enrol:{key.kid}", lease_end=math.inf), (asked, key)

    def work(found: tuple[RegisterRequest, PublicKey]) -> Response[str]:
        asked, key = found
        try:
            _check_bound(request, asked, REGISTER_PATH, None)
            reply = manager.change(
                asked.serial[:32],
                source_of(request),
                lambda change: register(change, asked, key, manager.identity),
            )
        except (LicenseError, TrustError) as error:
            outcome.code = error.code
            return _refusal(manager, asked, error, None)
        return Response(reply, media_type=CONTENT_TYPE)

    room: ContactRoom = request.app.state.room
    with request.app.state.metrics.contact("smart_register") as outcome:
        return await room.serve(check, work)


async def _door(
    request: AnyRequest, path: FromPath[str], typ: str, kind: type[InstanceRequest], do: Work
) -> Response[str]:
    manager: Manager = request.app.state.manager
    envelope = await read_body(request, {CONTENT_TYPE})

    def check() -> tuple[Caller, tuple[Any, Row, str]]:
        asked, instance, kid = _signed(manager, envelope, typ, kind)
        return _caller(manager, instance), (asked, instance, kid)

    def work(found: tuple[Any, Row, str]) -> Response[str]:
        asked, instance, kid = found
        try:
            _check_bound(request, asked, path, instance)
            given = manager.change(
                asked.serial,
                source_of(request),
                lambda change: do(change, asked, kid, manager.identity),
            )
        except (LicenseError, TrustError) as error:
            outcome.code = error.code
            return _refusal(manager, asked, error, instance)
        if given.refusal is not None:
            outcome.code = given.refusal.code
            return _refusal(manager, asked, given.refusal, instance)
        return Response(given.reply, media_type=CONTENT_TYPE)

    room: ContactRoom = request.app.state.room
    door = path.rpartition("/")[2].replace("-", "_")
    with request.app.state.metrics.contact(f"smart_{door}") as outcome:
        return await room.serve(check, work)


def _caller(manager: Manager, instance: Row) -> Caller:
    """Return who asks; an authorization's end stands for the lease's."""
    ends = manager.database.read(
        lambda tx: tx.value(
            "SELECT min(expires_at) FROM smart_authorization WHERE instance_id = :instance",
            instance=instance["instance_id"],
        )
    )
    return Caller(name=instance_stream(instance["instance_id"]), lease_end=float(ends or 0.0))


@post(AUTHORIZE_PATH, status_code=200, opt=api(DEVICE))
async def authorize_door(request: AnyRequest) -> Response[str]:
    """Judge what is configured: in compliance or out of it."""
    return await _door(request, AUTHORIZE_PATH, SMART_AUTHORIZE, AuthorizeRequest, authorize)


@post(RENEW_ID_PATH, status_code=200, opt=api(DEVICE))
async def renew_id_door(request: AnyRequest) -> Response[str]:
    """Give a new ID certificate."""
    return await _door(request, RENEW_ID_PATH, SMART_RENEW_ID, RenewIdRequest, renew_id)


@post(DEREGISTER_PATH, status_code=200, opt=api(DEVICE))
async def deregister_door(request: AnyRequest) -> Response[str]:
    """Take an instance off the list."""
    return await _door(request, DEREGISTER_PATH, SMART_DEREGISTER, DeregisterRequest, deregister)


@post(SMART_HINTS_PATH, status_code=200, opt=api(DEVICE))
async def smart_hints_door(request: AnyRequest) -> Stream | Response[str]:
    """Open an instance's stream of hints (server-sent events)."""
    manager: Manager = request.app.state.manager
    hub: Hub = request.app.state.hub
    envelope = await read_body(request, {CONTENT_TYPE})

    def work() -> Row | Response[str]:
        asked, instance, _ = _signed(manager, envelope, SMART_HINTS, SmartHintsRequest)
        try:
            _check_bound(request, asked, SMART_HINTS_PATH, instance)
            now = manager.clock.now().wall
            check_listed(instance, now)
            check_skew(asked.time, now)
        except (LicenseError, TrustError) as error:
            return _refusal(manager, asked, error, instance)
        return instance

    room: ContactRoom = request.app.state.room
    with room.arriving():
        found = await in_thread(work)
    if isinstance(found, Response):
        return found
    return Stream(
        hub.open(
            instance_stream(found["instance_id"]), waiting=found["hint_seq"] > found["hint_seen"]
        ),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


HANDLERS = (register_door, authorize_door, renew_id_door, deregister_door, smart_hints_door)
