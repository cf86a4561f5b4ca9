"""The devices' door: enrolment, contact, hints. Every body is a signed envelope."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, post
from litestar.response import Stream

from callpool.licensing.errors import TrustError
from callpool.manager.contacts import check_skew, contact, signer_of
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.enrolments import enrol, read_request
from callpool.manager.hints import Hub
from callpool.manager.ledger import REPLACED
from callpool.manager.roles import DEVICE
from callpool.manager.store.database import Tx
from callpool.manager.web import in_thread, read_body, source_of
from callpool.wire.envelope import CONTACT, HINTS, read, verify
from callpool.wire.keys import PublicKey
from callpool.wire.messages import (
    CONTACT_PATH,
    CONTENT_TYPE,
    ENROL_PATH,
    HINTS_PATH,
    ContactRequest,
    HintsRequest,
    Message,
    check_bound,
)

AnyRequest = Request[Any, Any, Any]


def check_url(request: AnyRequest, url: str, path: str) -> None:
    """Refuse a request that was signed for another manager: TrustError `wrong_url`.

    The Host header is the sender's word, so it is compared with what this manager is known as.
    """
    bases: frozenset[str] = request.app.state.base_urls
    known = {f"{base}{path}" for base in bases}
    check_bound(url=url if url in known else "", sent_to=url)


def _signed(manager: Manager, envelope: bytes, typ: str, kind: type[Any]) -> tuple[Any, str, str]:
    """Return a request whose signer is an enrolled unit, that unit's serial number, its `kid`."""
    found: list[str] = []

    def key_for(kid: str) -> PublicKey | None:
        signer = manager.database.read(lambda tx: signer_of(tx, kid))
        if signer is None:
            return None
        found.extend((signer[1], kid))
        return signer[0]

    message = read(verify(envelope, typ, key_for), kind)
    assert isinstance(message, Message)  # the callers name such types only
    message.checked()
    return message, found[0], found[1]


@post(ENROL_PATH, status_code=200, opt=api(DEVICE))
async def enrol_door(request: AnyRequest) -> Response[str]:
    """Certify a device's key by registration token."""
    manager: Manager = request.app.state.manager
    envelope = await read_body(request, {CONTENT_TYPE})

    def work() -> str:
        asked, key = read_request(envelope)
        check_url(request, asked.url, ENROL_PATH)
        return manager.change(
            asked.serial,
            source_of(request),
            lambda change: enrol(change, asked, key, manager.identity),
        )

    with request.app.state.metrics.contact("enrol"):
        return Response(await in_thread(work), media_type=CONTENT_TYPE)


@post(CONTACT_PATH, status_code=200, opt=api(DEVICE))
async def contact_door(request: AnyRequest) -> Response[str]:
    """Take a contact and answer with grant, lease and next contact value."""
    manager: Manager = request.app.state.manager
    envelope = await read_body(request, {CONTENT_TYPE})

    def work() -> str:
        asked, signer, kid = _signed(manager, envelope, CONTACT, ContactRequest)
        check_url(request, asked.url, CONTACT_PATH)
        check_bound(url="", sent_to="", serial=asked.serial, signer=signer)
        given = manager.change(
            asked.serial,
            source_of(request),
            lambda change: contact(change, asked, kid, manager.identity, manager.settings),
        )
        if given.refusal is not None:
            raise given.refusal
        return given.reply

    with request.app.state.metrics.contact("contact"):
        return Response(await in_thread(work), media_type=CONTENT_TYPE)


@post(HINTS_PATH, status_code=200, opt=api(DEVICE))
async def hints_door(request: AnyRequest) -> Stream:
    """Open a unit's stream of hints (server-sent events)."""
    manager: Manager = request.app.state.manager
    hub: Hub = request.app.state.hub
    envelope = await read_body(request, {CONTENT_TYPE})

    def work() -> tuple[str, bool]:
        asked, signer, _ = _signed(manager, envelope, HINTS, HintsRequest)
        check_url(request, asked.url, HINTS_PATH)
        check_bound(url="", sent_to="", serial=asked.serial, signer=signer)
        check_skew(asked.time, manager.clock.now().wall)
        return signer, manager.database.read(lambda tx: _waiting(tx, signer))

    serial, waiting = await in_thread(work)
    return Stream(
        hub.open(serial, waiting=waiting),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


def _waiting(tx: Tx, serial: str) -> bool:
    unit = tx.row(
        "SELECT state, locked, hint_seq, hint_seen FROM unit WHERE serial = :serial", serial=serial
    )
    if unit is None or unit["state"] == REPLACED:
        raise TrustError("serial_replaced", f"Serial number {serial} has been replaced by another.")
    if unit["locked"]:
        raise TrustError("unit_locked", f"Serial number {serial} is locked.")
    return bool(unit["hint_seq"] > unit["hint_seen"])


HANDLERS = (enrol_door, contact_door, hints_door)

__all__ = ["HANDLERS", "check_url"]
