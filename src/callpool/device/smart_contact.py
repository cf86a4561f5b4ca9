"""Contacts with the authority, as values: the request that is signed, and what an answer says.

Nothing here does I/O. An answer that is not believed raises and changes nothing; a signed
refusal is an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from callpool.device.smart_record import (
    SignedAuthorization,
    SmartPending,
    SmartRecord,
    authorization_of,
    dates_of,
)
from callpool.device.status import SOFTWARE
from callpool.device.trust import KeyRing, certificate_request, check_certificate
from callpool.licensing.errors import TrustError
from callpool.licensing.instant import SKEW_REFUSED
from callpool.licensing.smart import Event
from callpool.licensing.smart_events import UNANSWERED, Asking, Contact, Occurrence
from callpool.wire import smart_messages as wire
from callpool.wire.envelope import read, sign, unverified
from callpool.wire.keys import PublicKey, SigningKey
from callpool.wire.messages import new_nonce

#: Contact -> where it goes, its envelope's type, and the reply to it.
DOORS: Final[Mapping[Contact, tuple[str, str, type[Any]]]] = {
    Contact.REGISTER: (wire.REGISTER_PATH, wire.SMART_REGISTER, wire.RegisterReply),
    Contact.AUTHORIZE: (wire.AUTHORIZE_PATH, wire.SMART_AUTHORIZE, wire.AuthorizeReply),
    Contact.RENEW_ID: (wire.RENEW_ID_PATH, wire.SMART_RENEW_ID, wire.RenewIdReply),
    Contact.DEREGISTER: (wire.DEREGISTER_PATH, wire.SMART_DEREGISTER, wire.DeregisterReply),
}

#: Refusals of a registration after which the same token is of no use.
FINAL: Final = frozenset(
    {
        "unknown_token",
        "token_expired",
        "token_revoked",
        "token_used_up",
        "already_registered",
        "registered_elsewhere",
        "no_account",
        "wrong_anchor",
        "bad_token",
        "bad_request",
    }
)


def request(
    record: SmartRecord,
    asking: Asking,
    *,
    address: Callable[[str], str],
    serial: str,
    identity: SigningKey,
    time: float,
    token: str,
    count: int,
    maximum: int,
) -> SmartPending:
    """Sign the request for `asking` at `time` (seconds since 1970).

    `address` returns the full address of a path; `token` is the secret part of a registration
    token, for a registration; `count` the calls a second that are asked for, `maximum` the most
    that the device can carry.
    """
    path, typ, _ = DOORS[asking.contact]
    nonce = new_nonce()
    bound: dict[str, Any] = {"url": address(path), "nonce": nonce, "serial": serial, "time": time}
    known: dict[str, Any] = {"instance_id": record.instance_id, "contact": record.contact}
    agent = record.agent
    body: wire.SmartRequest
    match asking.contact:
        case Contact.REGISTER:
            body = wire.RegisterRequest(
                **bound,
                token=token,
                public_key=identity.public.text,
                request=certificate_request(identity, serial),
                force=record.force,
                name=serial,
                software=SOFTWARE,
            )
        case Contact.AUTHORIZE:
            body = wire.AuthorizeRequest(
                **bound,
                **known,
                tag=wire.CPS_TAG,
                count=count,
                maximum=maximum,
                held_version=agent.seen_version,
                reason=asking.reason,
                state=agent.effective.value,
                software=SOFTWARE,
            )
        case Contact.RENEW_ID:
            body = wire.RenewIdRequest(
                **bound,
                **known,
                request=certificate_request(identity, serial),
            )
        case Contact.DEREGISTER:
            body = wire.DeregisterRequest(**bound, **known)
    return SmartPending(
        contact=asking.contact,
        path=path,
        envelope=sign(identity, typ, body),
        nonce=nonce,
        time=time,
        count=count,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a believed answer amounts to."""

    #: What the agent is told; its number is still to be filled in.
    occurrence: Occurrence
    #: The record with what the answer brought beside the agent; the request is settled in it.
    record: SmartRecord
    #: The authority's time, seconds since 1970.
    time: float
    #: The request was refused because of its time: its bytes are worth nothing any more.
    stale: bool = False


def judge(
    record: SmartRecord,
    pending: SmartPending,
    envelope: str,
    *,
    serial: str,
    identity: SigningKey,
    anchor_kid: str,
    now: float,
) -> Answered:
    """Verify the answer `envelope` to `pending` at `now` (trusted time, seconds since 1970).

    `anchor_kid` is the second part of the token, for a registration. Raises TrustError:
    `wrong_anchor`, `wrong_nonce`, `wrong_serial`, `unknown_version`, `unknown_signer`,
    `bad_signature`, `bad_envelope`, `bad_message`, `wrong_certificate`, `clock_skew`.
    """
    _, _, kind = DOORS[pending.contact]
    ring = _ring(record, pending, envelope, anchor_kid)
    said = read(unverified(envelope), _Said)
    at = max(said.time, now)
    answer = wire.open_answer(
        envelope, kind, lambda kid: ring.key_for(kid, at), nonce=pending.nonce, serial=serial
    )
    if isinstance(answer, wire.Refusal):
        return _refused(record, pending, answer)
    if not pending.time - SKEW_REFUSED <= answer.time <= now + SKEW_REFUSED:
        raise TrustError(
            "clock_skew",
            "The authority's clock and this device's differ by more than an hour; "
            "set one of them right.",
        )
    changes: dict[str, object] = {
        "pending": None,
        "contact": answer.contact,
        "key_set": ring.envelope,
    }
    if isinstance(answer, wire.RegisterReply | wire.RenewIdReply):
        dates = answer.certificate
        _check_dates(dates.not_before, dates.renew_at, dates.not_after)
    match answer:
        case wire.RegisterReply():
            check_certificate(answer.certificate.pem, serial, identity)
            occurrence = Occurrence(Event.REGISTERED, certificate=dates_of(answer.certificate))
            changes |= {
                "anchor": answer.anchor,
                "certificate": answer.certificate.pem,
                "instance_id": answer.instance_id,
                "product_key": answer.product_key,
                "account": answer.account,
                "virtual_account": answer.virtual_account,
                "export_allowed": answer.export_allowed,
                "force": False,
                "registered_at": answer.time,
                "renewed_at": None,
            }
        case wire.AuthorizeReply():
            _check_instance(answer, record)
            given = answer.authorization
            _check_dates(given.issued_at, given.renew_at, given.expires_at)
            _check_dates(0.0, given.out_of_compliance_since, _LATEST)
            if given.tag != wire.CPS_TAG or given.status not in _STATUSES:
                raise TrustError("bad_message", "The authorization is not one for this device.")
            occurrence = Occurrence(_STATUSES[given.status], authorization=authorization_of(given))
            changes |= {
                "account": answer.account,
                "virtual_account": answer.virtual_account,
                "authorization": SignedAuthorization(reply=envelope, key_set=ring.envelope),
            }
        case wire.RenewIdReply():
            _check_instance(answer, record)
            check_certificate(answer.certificate.pem, serial, identity)
            occurrence = Occurrence(Event.ID_RENEWED, certificate=dates_of(answer.certificate))
            changes |= {"certificate": answer.certificate.pem, "renewed_at": answer.time}
        case _:
            _check_instance(answer, record)
            occurrence = Occurrence(Event.DEREGISTERED)
    return Answered(
        occurrence=occurrence,
        record=msgspec.structs.replace(record, **changes),
        time=answer.time,
    )


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of an answer before it is verified: only to find the key."""

    time: float
    anchor: str = ""
    key_set: str = ""


#: The year 3000, in seconds since 1970: no date of an answer lies behind it.
_LATEST: Final = 32_503_680_000.0

_STATUSES: Final = {
    wire.IN_COMPLIANCE: Event.IN_COMPLIANCE,
    wire.OUT_OF_COMPLIANCE: Event.ANSWERED_OUT_OF_COMPLIANCE,
}


def _ring(record: SmartRecord, pending: SmartPending, envelope: str, anchor_kid: str) -> KeyRing:
    """Return the keys that may have signed `envelope`: by the token's anchor, or the pinned one."""
    said = read(unverified(envelope), _Said)
    if pending.contact is not Contact.REGISTER:
        return KeyRing.open(record.anchor, record.key_set).newer(said.key_set)
    if not said.anchor or PublicKey.from_text(said.anchor).kid != anchor_kid:
        raise TrustError(
            "wrong_anchor", "The authority that answered is not the one that the token names."
        )
    return KeyRing.open(said.anchor, said.key_set)


def _check_dates(begin: float, renew: float, end: float) -> None:
    """Refuse dates that are not dates, or in no order: nothing behind this could bear them."""
    if not 0.0 <= begin <= renew <= end <= _LATEST:
        raise TrustError("bad_message", "The answer's dates are not in order.")


def _check_instance(answer: wire.SmartReply, record: SmartRecord) -> None:
    if answer.instance_id != record.instance_id:
        raise TrustError("wrong_instance", "The answer is for another product instance.")


def _refused(record: SmartRecord, pending: SmartPending, said: wire.Refusal) -> Answered:
    counting = pending.contact is Contact.AUTHORIZE and said.counts
    occurrence = Occurrence(
        Event.AUTH_REFUSED if counting else UNANSWERED[pending.contact],
        code=said.code[:64],
        sentence=said.detail[:300],
        refused=True,
        final=pending.contact is Contact.REGISTER and said.code in FINAL,
        retry_after=min(max(said.retry_after, 0.0), 86400.0),
    )
    # The authority has read these bytes and refused them: the next request is a fresh one.
    return Answered(
        occurrence=occurrence,
        record=msgspec.structs.replace(record, pending=None),
        time=said.time,
        stale=said.code == "clock_skew",
    )
