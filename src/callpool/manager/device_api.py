"""The devices' door: enrolment, contact, hints. Every body is a signed envelope."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from litestar import Request, Response, post
from litestar.response import Stream

from callpool.licensing.errors import CallpoolError, LicenseError, TrustError
from callpool.manager import steady
from callpool.manager.contacts import check_skew, contact, locked, signers_of
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.enrolments import enrol, read_request
from callpool.manager.hints import Hub
from callpool.manager.ledger import REPLACED
from callpool.manager.overload import AT_WORK, Caller, ContactRoom
from callpool.manager.roles import DEVICE
from callpool.manager.steady import Asked
from callpool.manager.store.tx import Tx
from callpool.manager.together import Together
from callpool.manager.web import in_thread, read_body, source_of
from callpool.wire.envelope import CONTACT, HINTS, Sealed, read, verify
from callpool.wire.keys import PublicKey
from callpool.wire.messages import (
    CONTACT_PATH,
    CONTENT_TYPE,
    ENROL_PATH,
    HINTS_PATH,
    ContactRequest,
    EnrolRequest,
    HintsRequest,
    Message,
    check_bound,
)

AnyRequest = Request[Any, Any, Any]

#: Contacts that are at work at once: one batch, and the next.
AT_DESK: Final = 2 * steady.MOST


def check_url(request: AnyRequest, url: str, path: str) -> None:
    """Refuse a request that was signed for another manager: TrustError `wrong_url`.

    The Host header is the sender's word, so it is compared with what this manager is known as.
    """
    bases: frozenset[str] = request.app.state.base_urls
    known = {f"{base}{path}" for base in bases}
    check_bound(url=url if url in known else "", sent_to=url)


def _signed(
    manager: Manager, envelope: bytes, typ: str, kind: type[Any]
) -> tuple[Any, Caller, str]:
    """Return a request whose signer is an enrolled unit, that unit, its `kid`."""
    found: list[tuple[Caller, str]] = []

    def key_for(kid: str) -> PublicKey | None:
        signer = manager.database.glance(lambda tx: signers_of(tx, [kid])).get(kid)
        if signer is None:
            return None
        found.append((Caller(name=signer[1], lease_end=signer[2]), kid))
        return signer[0]

    message = read(verify(envelope, typ, key_for), kind)
    assert isinstance(message, Message)  # the callers name such types only
    message.checked()
    return message, *found[0]


@post(ENROL_PATH, status_code=200, opt=api(DEVICE))
async def enrol_door(request: AnyRequest) -> Response[str]:
    """Certify a device's key by registration token."""
    manager: Manager = request.app.state.manager
    envelope = await read_body(request, {CONTENT_TYPE})

    def check() -> tuple[Caller, tuple[EnrolRequest, PublicKey]]:
        asked, key = read_request(envelope)
        check_url(request, asked.url, ENROL_PATH)
        # Signed by a key that it brought itself: whoever holds a lease goes before it.
        return Caller(name=f"enrol:{key.kid}", lease_end=math.inf), (asked, key)

    def work(found: tuple[EnrolRequest, PublicKey]) -> str:
        asked, key = found
        return manager.change(
            asked.serial,
            source_of(request),
            lambda change: enrol(change, asked, key, manager.identity),
        )

    room: ContactRoom = request.app.state.room
    with request.app.state.metrics.contact("enrol"):
        return Response(await room.serve(check, work), media_type=CONTENT_TYPE)


class ContactDesk:
    """Takes contacts: those that are steady together, any other by itself."""

    def __init__(self, manager: Manager, base_urls: frozenset[str]) -> None:
        """Take contacts for a manager that is known by `base_urls`."""
        self._manager = manager
        self._urls = frozenset(f"{base}{CONTACT_PATH}" for base in base_urls)
        most = min(AT_DESK, manager.settings.contacts_waiting)
        self._room = ContactRoom(
            manager.settings.contacts_waiting,
            at_work=most,
            wall=lambda: manager.clock.now().wall,
        )
        self._opened = Together(self._open, most=steady.MOST)
        self._taken = Together(self._take, most=steady.MOST)
        self._both = Together(self._open_and_take, most=steady.MOST)
        self._others = asyncio.Semaphore(min(AT_WORK, most))

    async def contact(self, envelope: bytes, source: str) -> str:
        """Return the reply to a contact; raises CallpoolError where there is none."""

        async def check() -> tuple[Caller, Asked]:
            return await self._opened(envelope)

        async def work(asked: Asked) -> str:
            return await self._taken(asked) or await alone(asked)

        async def both() -> str:
            asked, reply = await self._both(envelope)
            return reply or await alone(asked)

        async def alone(asked: Asked) -> str:
            async with self._others:
                return await in_thread(lambda: self._alone(asked, source))

        return await self._room.attend(check, work, both)

    def _open(self, envelopes: Sequence[bytes]) -> list[tuple[Caller, Asked] | Exception]:
        """Return each contact, verified, and who it is of."""
        sealed: list[Sealed | Exception] = []
        for envelope in envelopes:
            try:
                sealed.append(Sealed(envelope, CONTACT))
            except CallpoolError as error:
                sealed.append(error)
        kids = sorted({s.kid for s in sealed if isinstance(s, Sealed)})
        known = self._manager.database.glance(lambda tx: signers_of(tx, kids)) if kids else {}
        found: list[tuple[Caller, Asked] | Exception] = []
        for it in sealed:
            try:
                found.append(self._verified(it, known))
            except Exception as error:  # its own trouble, and nobody else's of the batch
                found.append(error)
        return found

    def _verified(
        self, sealed: Sealed | Exception, known: Mapping[str, tuple[PublicKey, str, float]]
    ) -> tuple[Caller, Asked]:
        if isinstance(sealed, Exception):
            raise sealed
        key, serial, lease_end = known.get(sealed.kid, (None, "", 0.0))
        asked = read(sealed.opened(key), ContactRequest)
        asked.checked()
        # The Host header is the sender's word: see `check_url`.
        check_bound(url=asked.url if asked.url in self._urls else "", sent_to=asked.url)
        check_bound(url="", sent_to="", serial=asked.serial, signer=serial)
        return Caller(name=serial, lease_end=lease_end), Asked(asked, sealed.kid)

    def _open_and_take(self, envelopes: Sequence[bytes]) -> list[tuple[Asked, str] | Exception]:
        """Return each contact, verified, and its reply where it is steady."""
        opened = self._open(envelopes)
        asked = [it[1] for it in opened if not isinstance(it, Exception)]
        replies = iter(self._take(asked) if asked else ())
        return [it if isinstance(it, Exception) else (it[1], next(replies)) for it in opened]

    def _take(self, asked: Sequence[Asked]) -> list[str]:
        manager = self._manager
        try:
            return manager.contacts(
                lambda change: steady.take(change, asked, manager.identity, manager.settings)
            )
        except LicenseError:  # what one of them says the database does not take: each by itself
            return [""] * len(asked)

    def _alone(self, asked: Asked, source: str) -> str:
        manager = self._manager
        given = manager.contact(
            asked.request.serial,
            source,
            lambda change: contact(
                change, asked.request, asked.kid, manager.identity, manager.settings
            ),
        )
        if given.refusal is not None:
            raise given.refusal
        return given.reply


@post(CONTACT_PATH, status_code=200, opt=api(DEVICE))
async def contact_door(request: AnyRequest) -> Response[str]:
    """Take a contact and answer with grant, lease and next contact value."""
    envelope = await read_body(request, {CONTENT_TYPE})
    desk: ContactDesk = request.app.state.desk
    with request.app.state.metrics.contact("contact"):
        return Response(await desk.contact(envelope, source_of(request)), media_type=CONTENT_TYPE)


@post(HINTS_PATH, status_code=200, opt=api(DEVICE))
async def hints_door(request: AnyRequest) -> Stream:
    """Open a unit's stream of hints (server-sent events)."""
    manager: Manager = request.app.state.manager
    hub: Hub = request.app.state.hub
    envelope = await read_body(request, {CONTENT_TYPE})

    def work() -> tuple[str, bool]:
        asked, signer, _ = _signed(manager, envelope, HINTS, HintsRequest)
        check_url(request, asked.url, HINTS_PATH)
        check_bound(url="", sent_to="", serial=asked.serial, signer=signer.name)
        check_skew(asked.time, manager.clock.now().wall)
        return signer.name, manager.database.read(lambda tx: _waiting(tx, signer.name))

    room: ContactRoom = request.app.state.room
    with room.arriving():
        serial, waiting = await in_thread(work)
    return Stream(
        hub.open(serial, waiting=waiting),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


def _waiting(tx: Tx, serial: str) -> bool:
    unit = tx.row(
        "SELECT serial, state, locked, hint_seq, hint_seen FROM unit WHERE serial = :serial",
        serial=serial,
    )
    if unit is None or unit["state"] == REPLACED:
        raise TrustError("serial_replaced", f"Serial number {serial} has been replaced by another.")
    if unit["locked"]:
        raise locked(unit)
    return bool(unit["hint_seq"] > unit["hint_seen"])


HANDLERS = (enrol_door, contact_door, hints_door)

__all__ = ["HANDLERS", "check_url"]
