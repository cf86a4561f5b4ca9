"""Enrolment: a device's one introduction, by registration token."""

from __future__ import annotations

import secrets

from callpool.licensing.errors import LicenseError, TrustError
from callpool.licensing.key import check_serial
from callpool.manager.audit import tenant_of_unit
from callpool.manager.change import Change
from callpool.manager.identity import Identity, check_request
from callpool.manager.ledger import ACTIVE, unit_by_serial
from callpool.manager.store.tx import Row
from callpool.wire.envelope import ENROL, REPLY, read, sign, unverified, verify
from callpool.wire.keys import PublicKey
from callpool.wire.messages import EnrolReply, EnrolRequest
from callpool.wire.tokens import hashed


def read_request(envelope: bytes) -> tuple[EnrolRequest, PublicKey]:
    """Return a verified enrolment request and the key that it brings and is signed by.

    Raises TrustError as `wire.envelope.verify` does, `bad_request` (not its own certificate
    request), LicenseError `bad_serial`.
    """
    claimed = read(unverified(envelope), EnrolRequest)
    key = PublicKey.from_text(claimed.public_key)
    request = read(verify(envelope, ENROL, {key.kid: key}.get), EnrolRequest)
    request.checked()
    check_serial(request.serial)
    check_request(request.request, request.serial, key)
    return request, key


def enrol(change: Change, request: EnrolRequest, key: PublicKey, identity: Identity) -> str:
    """Certify a device's key and hand out its first contact value.

    The same key asking again, because the reply was lost, gets the same answer and uses the
    token once. Raises LicenseError `unknown_serial`, `already_enrolled`, and for the token
    `unknown_token`, `token_revoked`, `token_expired`, `token_used_up`.
    """
    unit = unit_by_serial(change, request.serial)
    repeated = (
        unit is not None
        and unit["public_key"] == key.text
        and unit["last_contact"] is None
        and unit["enrol_token"] == hashed(request.token)
    )
    token = None if repeated else _check_token(change, request)
    if unit is None or unit["state"] != ACTIVE:
        raise LicenseError(
            "unknown_serial",
            f"Serial number {request.serial} is not in this manager's inventory; "
            "add the device there first.",
        )
    if not repeated:
        if unit["public_key"] is not None:
            raise LicenseError(
                "already_enrolled",
                f"Serial number {request.serial} is enrolled already; unlock it at the manager "
                "to enrol it again.",
            )
        assert token is not None  # checked above
        _take(change, unit, token, request, key, identity)
        unit = unit_by_serial(change, request.serial)
        assert unit is not None  # it was there a moment ago
    book = identity.key_book()
    reply = EnrolReply(
        nonce=request.nonce,
        serial=request.serial,
        time=change.now,
        certificate=unit["certificate"],
        anchor=identity.anchor.public.text,
        key_set=book.envelope,
        contact=unit["contact_current"],
        product_key=change.tx.meta("product_key"),
    )
    return sign(identity.signer(book.serial, change.now), REPLY, reply)


def _check_token(change: Change, request: EnrolRequest) -> Row:
    token = change.tx.row(
        "SELECT * FROM registration_token WHERE hash = :hash", hash=hashed(request.token)
    )
    if (
        token is None
        or token["serial"] not in (None, request.serial)
        or token["tenant_id"] not in (None, tenant_of_unit(change.tx, request.serial))
    ):
        raise LicenseError(
            "unknown_token", "The registration token is not valid here; ask for a new one."
        )
    if token["revoked"]:
        raise LicenseError("token_revoked", "The registration token was revoked.")
    if token["expires"] <= change.now:
        raise LicenseError("token_expired", "The registration token has expired.")
    if token["uses_left"] < 1:
        raise LicenseError("token_used_up", "The registration token has been used up.")
    return token


def _take(
    change: Change,
    unit: Row,
    token: Row,
    request: EnrolRequest,
    key: PublicKey,
    identity: Identity,
) -> None:
    if change.tx.row("SELECT 1 FROM unit WHERE kid = :kid", kid=key.kid):
        raise TrustError("key_in_use", "This key is enrolled for another serial number.")
    change.tx.run(
        "UPDATE registration_token SET uses_left = uses_left - 1 WHERE token_id = :token",
        token=token["token_id"],
    )
    change.tx.run(
        "UPDATE unit SET public_key = :key, kid = :kid, certificate = :certificate,"
        " enrolled_at = :now, enrol_token = :token, released = FALSE, locked = NULL,"
        " contact_current = :contact, contact_previous = NULL, previous_used = FALSE,"
        " last_request = NULL, last_reply = NULL, last_contact = NULL,"
        " keys_known = :keys, keys_sent = :keys WHERE serial = :serial",
        key=key.text,
        kid=key.kid,
        certificate=identity.id_certificate(request.serial, key, change.now),
        now=change.now,
        token=hashed(request.token),
        contact=secrets.token_urlsafe(18),
        keys=identity.key_book().serial,
        serial=unit["serial"],
    )
    change.journal("enrolled", serial=unit["serial"], token=token["token_id"], kid=key.kid)
