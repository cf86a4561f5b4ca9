"""What registered instances ask for: authorization, a new ID certificate, to leave.

The rules of contact values are those of the pool (`contacts.py`): the same request again gets
the same answer, byte for byte; the value of the last request is good again, for a lost reply;
anything older means two machines on one identity, and the instance is locked; a newer one, that
this authority was restored from a backup (`authority_values`). Unlike the
pool's, that value is good as often as it takes: an agent whose count changes while its cloud is
down asks for something else each time. A clone gains nothing by it, since each use voids what
the other machine was handed out. A refusal uses no contact value up and, but for that lock,
changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from callpool.licensing.capacity import LICENSE_TYPES, POOL_TYPES, check_count
from callpool.licensing.compliance import (
    AUTHORIZATION_LIFE,
    AUTHORIZATION_RENEW,
    RECHECK,
    check_configured,
)
from callpool.licensing.errors import CallpoolError, LicenseError, TrustError
from callpool.manager.authority_alerts import (
    DUPLICATE,
    FAILED_TO_CONNECT,
    FAILED_TO_RENEW,
    clear_alert,
    event,
    raise_alert,
)
from callpool.manager.authority_instances import certify, names_of
from callpool.manager.authority_ledger import (
    DEREGISTERED,
    EXPIRED_ID,
    REGISTERED,
    REPLACED,
    REVOKED,
    leave,
    plan_contact,
    settle,
    settle_all,
)
from callpool.manager.authority_values import next_value, number_of, recall
from callpool.manager.change import Change
from callpool.manager.contacts import check_skew
from callpool.manager.identity import Identity, check_request
from callpool.manager.store.tx import Row, Tx
from callpool.wire.envelope import sign
from callpool.wire.keys import PublicKey
from callpool.wire.smart_messages import (
    IN_COMPLIANCE,
    OUT_OF_COMPLIANCE,
    SMART_REPLY,
    Authorization,
    AuthorizeReply,
    AuthorizeRequest,
    DeregisterReply,
    DeregisterRequest,
    InstanceRequest,
    RenewIdReply,
    RenewIdRequest,
    SmartReply,
)

T = TypeVar("T", bound=SmartReply)

#: Refusals of the entitlement itself: three in a row exceed the re-entitlement limit (seed
#: `000`, the limit by design.md). Any other says what to mend, and is not counted.
COUNTING: Final = frozenset(
    {
        "not_registered",
        "certificate_revoked",
        "certificate_expired",
        "instance_locked",
        "stale_contact",
        "unknown_entitlement",
    }
)
_GONE: Final = {
    REVOKED: ("certificate_revoked", "its ID certificate was revoked"),
    EXPIRED_ID: ("certificate_expired", "its ID certificate has expired"),
    REPLACED: ("not_registered", "another registration has taken its place"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What goes back: a signed reply, or why there is none."""

    reply: str = ""
    #: Why it is refused; what was written because of it (a lock) stays written.
    refusal: CallpoolError | None = None


def instance_of(tx: Tx, kid: str) -> Row | None:
    """Return the instance whose ID key is `kid`: the registered one, else the latest."""
    return tx.row(
        "SELECT * FROM product_instance WHERE kid = :kid"
        " ORDER BY state = 'registered' DESC, registered_at DESC, instance_id DESC",
        kid=kid,
    )


def key_of(instance: Row) -> PublicKey:
    """Return an instance's ID key."""
    return PublicKey.from_text(instance["public_key"])


def check_listed(instance: Row, now: float) -> None:
    """Refuse an instance that has left the list, or is locked.

    Raises LicenseError `not_registered`, `certificate_revoked`, `certificate_expired`;
    TrustError `instance_locked`.
    """
    number = instance["instance_id"]
    if instance["state"] != REGISTERED:
        code, why = _GONE.get(instance["state"], ("not_registered", "it is not on the list"))
        raise LicenseError(code, f"{number} is not registered: {why}; register the device again.")
    if instance["certificate_until"] <= now:
        raise LicenseError("certificate_expired", f"The ID certificate of {number} has expired.")
    if instance["locked"]:
        raise TrustError(
            "instance_locked",
            f"{number} is locked: a copied or rolled-back machine has called by it; remove it at "
            "the authority and register the right machine again.",
        )


def _checked(
    change: Change, kid: str, kind: str, request: InstanceRequest, identity: Identity
) -> Row | Given:
    """Return the instance that asks, or the answer where that is settled already."""
    instance = instance_of(change.tx, kid)
    assert instance is not None  # its key was found a moment ago, and rows are never deleted
    if instance["last_request"] == f"{kind} {request.contact} {request.nonce}":
        return Given(reply=instance["last_reply"])
    try:
        check_listed(instance, change.now)
        check_skew(request.time, change.now)
        if request.instance_id != instance["instance_id"]:
            raise LicenseError(
                "not_registered",
                f"{request.instance_id[:32]} is not registered here; register the device again.",
            )
    except CallpoolError as error:
        return Given(refusal=error)
    if request.contact != instance["contact_current"]:
        previous = request.contact == instance["contact_previous"]
        anchor, number = identity.anchor, instance["instance_id"]
        here = number_of(anchor, number, instance["contact_current"])
        if number_of(anchor, number, request.contact) > here:
            recall(change, instance)
        elif request.time < instance["last_time"]:
            # An old request that arrives late, or once more: no sign of a clone, which would
            # speak of its own present.
            return Given(
                refusal=TrustError(
                    "older_report", "This request is older than the last one and was not taken."
                )
            )
        elif not previous:
            return Given(refusal=_lock(change, instance))
    return instance


def _lock(change: Change, instance: Row) -> TrustError:
    number, serial = instance["instance_id"], instance["serial"]
    change.tx.run(
        "UPDATE product_instance SET locked = 'stale_contact' WHERE instance_id = :instance",
        instance=number,
    )
    message = f"{serial} was called by from two machines, or from one rolled back: it is locked."
    raise_alert(change, DUPLICATE, serial, message, va=instance["va_id"], instance=number)
    return TrustError(
        "stale_contact",
        f"{number} is locked: a copied or rolled-back machine has called by it; remove it at "
        "the authority and register the right machine again.",
    )


def _next_contact(instance: Row, request: InstanceRequest, identity: Identity) -> str:
    return next_value(
        identity.anchor, instance["instance_id"], instance["contact_current"], request.contact
    )


def _take(
    change: Change,
    instance: Row,
    kind: str,
    request: InstanceRequest,
    answer: T,
    identity: Identity,
) -> Given:
    """Sign an answer, with the next contact value in it, and keep both."""
    number, current = instance["instance_id"], request.contact == instance["contact_current"]
    # The current value proves that the last reply, and the key set in it, arrived.
    known = instance["keys_sent"] if current else instance["keys_known"]
    book = identity.key_book()
    full = msgspec.structs.replace(answer, key_set=book.envelope if known < book.serial else "")
    reply = sign(identity.signer(known, change.now), SMART_REPLY, full)
    change.tx.run(
        "UPDATE product_instance SET contact_previous = :used, contact_current = :next,"
        " last_request = :asked, last_reply = :reply,"
        " last_contact = :now, last_time = :time, silent = FALSE, hint_seen = hint_seq,"
        " keys_known = :known, keys_sent = :keys WHERE instance_id = :instance",
        used=request.contact,
        next=full.contact or _next_contact(instance, request, identity),
        asked=f"{kind} {request.contact} {request.nonce}",
        reply=reply,
        now=change.now,
        time=request.time,
        known=known,
        keys=book.serial,
        instance=number,
    )
    plan_contact(change)
    if instance["silent"]:  # what it has configured counts again
        settle_all(change, instance["va_id"])
    for alert in (FAILED_TO_CONNECT, FAILED_TO_RENEW):
        if clear_alert(change, alert, number):
            message = f"{number} ({instance['serial']}) has called again."
            event(change, "instance_called", message, va=instance["va_id"], instance=number)
    return Given(reply=reply)


def authorize(change: Change, request: AuthorizeRequest, kid: str, identity: Identity) -> Given:
    """Judge the sum of configured counts with this instance's, and say so.

    Raises LicenseError `bad_count`, `above_maximum`, `unknown_entitlement`: nothing changes.
    """
    instance = _checked(change, kid, "authorize", request, identity)
    if isinstance(instance, Given):
        return instance
    if request.tag not in LICENSE_TYPES or request.tag in POOL_TYPES:
        raise LicenseError(
            "unknown_entitlement", f"{request.tag[:64]!r} is not an entitlement here."
        )
    check_configured(request.count, check_count(request.maximum, "The maximum"))
    check_count(request.held_version, "A version")
    number, va = instance["instance_id"], instance["va_id"]
    before = change.tx.row(
        "SELECT * FROM smart_authorization WHERE instance_id = :instance AND tag = :tag",
        instance=number,
        tag=request.tag,
    )
    if before is None or before["count"] != request.count:
        message = f"{number} ({instance['serial']}) is configured for {request.count}."
        event(change, "count_set", message, va=va, instance=number, tag=request.tag)
    version = max(0 if before is None else before["version"], request.held_version) + 1
    _keep(change, number, request.tag, request.count, version)
    change.tx.run(
        "UPDATE product_instance SET silent = FALSE, agent_state = :state, maximum = :maximum,"
        " software = :software WHERE instance_id = :instance",
        state=request.state[:64],
        maximum=request.maximum,
        software=request.software[:64],
        instance=number,
    )
    found, since = settle(change, va, request.tag, asking=number)
    good = found.ok or request.count == 0
    now = float(int(change.now))
    authorization = Authorization(
        version=version,
        tag=request.tag,
        count=request.count,
        status=IN_COMPLIANCE if good else OUT_OF_COMPLIANCE,
        issued_at=now,
        renew_at=now + (AUTHORIZATION_RENEW if good else RECHECK),
        expires_at=now + AUTHORIZATION_LIFE,
        out_of_compliance_since=0.0 if good else since,
        purchased=found.purchased,
        in_use=found.in_use,
    )
    change.tx.run(
        "UPDATE smart_authorization SET status = :status, issued_at = :issued, renew_at = :renew,"
        " expires_at = :expires WHERE instance_id = :instance AND tag = :tag",
        status=authorization.status,
        issued=authorization.issued_at,
        renew=authorization.renew_at,
        expires=authorization.expires_at,
        instance=number,
        tag=request.tag,
    )
    account, virtual_account = names_of(change, va)
    answer = AuthorizeReply(
        nonce=request.nonce,
        serial=request.serial,
        time=change.now,
        instance_id=number,
        contact=_next_contact(instance, request, identity),
        authorization=authorization,
        account=account,
        virtual_account=virtual_account,
    )
    return _take(change, instance, "authorize", request, answer, identity)


def _keep(change: Change, number: str, tag: str, count: int, version: int) -> None:
    """Write the count and the version down: they are weighed and given out from here on."""
    change.tx.run(
        "INSERT INTO smart_authorization (instance_id, tag, count, version, status, issued_at,"
        " renew_at, expires_at) VALUES (:instance, :tag, :count, :version, '', 0, 0, 0)"
        " ON CONFLICT (instance_id, tag) DO UPDATE SET count = excluded.count,"
        " version = excluded.version",
        instance=number,
        tag=tag,
        count=count,
        version=version,
    )


def renew_id(change: Change, request: RenewIdRequest, kid: str, identity: Identity) -> Given:
    """Give an instance a new ID certificate for the same key.

    Raises TrustError `bad_request` (not its own certificate request).
    """
    instance = _checked(change, kid, "renew-id", request, identity)
    if isinstance(instance, Given):
        return instance
    key, number = key_of(instance), instance["instance_id"]
    check_request(request.request, request.serial, key)
    made = certify(identity, request.serial, key, change.now)
    change.tx.run(
        "UPDATE product_instance SET certificate = :pem, certificate_from = :start,"
        " certificate_renew = :renew, certificate_until = :until WHERE instance_id = :instance",
        pem=made.pem,
        start=made.not_before,
        renew=made.renew_at,
        until=made.not_after,
        instance=number,
    )
    message = f"{number} ({instance['serial']}) renewed its ID certificate."
    event(change, "certificate_renewed", message, va=instance["va_id"], instance=number)
    answer = RenewIdReply(
        nonce=request.nonce,
        serial=request.serial,
        time=change.now,
        instance_id=number,
        contact=_next_contact(instance, request, identity),
        certificate=made,
    )
    return _take(change, instance, "renew-id", request, answer, identity)


def deregister(change: Change, request: DeregisterRequest, kid: str, identity: Identity) -> Given:
    """Take an instance off the list at its own wish; its counts are free at once."""
    instance = _checked(change, kid, "deregister", request, identity)
    if isinstance(instance, Given):
        return instance
    number = instance["instance_id"]
    answer = DeregisterReply(
        nonce=request.nonce,
        serial=request.serial,
        time=change.now,
        instance_id=number,
        contact="",
    )
    given = _take(change, instance, "deregister", request, answer, identity)
    message = f"{number} ({instance['serial']}) was deregistered."
    event(change, "instance_deregistered", message, va=instance["va_id"], instance=number)
    leave(change, instance, DEREGISTERED)
    return given


__all__ = [
    "COUNTING",
    "Given",
    "authorize",
    "check_listed",
    "deregister",
    "instance_of",
    "key_of",
    "renew_id",
]
