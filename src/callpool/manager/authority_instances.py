"""Registration: a device's introduction to the authority, by the token of a virtual account.

The intended instance and its certificate are on disk before the reply leaves; a repeated
request gets the same instance and uses its token once.
"""

from __future__ import annotations

import secrets

from cryptography import x509

from callpool.licensing.compliance import CERTIFICATE_LIFE, CERTIFICATE_RENEW
from callpool.licensing.errors import LicenseError
from callpool.licensing.key import check_serial
from callpool.manager.authority_alerts import DUPLICATE, event, raise_alert
from callpool.manager.authority_ledger import REGISTERED, REPLACED, leave, plan
from callpool.manager.authority_values import next_value
from callpool.manager.change import Change
from callpool.manager.contacts import check_skew
from callpool.manager.identity import ID_DAYS, Identity, check_request
from callpool.manager.store.tx import Row
from callpool.wire.envelope import read, sign, unverified, verify
from callpool.wire.keys import PublicKey
from callpool.wire.smart_messages import (
    SMART_REGISTER,
    SMART_REPLY,
    IdCertificate,
    RegisterReply,
    RegisterRequest,
)
from callpool.wire.tokens import hashed

assert ID_DAYS * 86_400.0 == CERTIFICATE_LIFE  # one rule, in two rooms


def read_register(envelope: bytes) -> tuple[RegisterRequest, PublicKey]:
    """Return a verified registration and the key that it brings and is signed by.

    Raises TrustError as `wire.envelope.verify` does.
    """
    claimed = read(unverified(envelope), RegisterRequest)
    key = PublicKey.from_text(claimed.public_key)
    request = read(verify(envelope, SMART_REGISTER, {key.kid: key}.get), RegisterRequest)
    request.checked()
    return request, key


def certify(identity: Identity, serial: str, key: PublicKey, now: float) -> IdCertificate:
    """Return a new ID certificate with its absolute dates, in whole seconds."""
    start = float(int(now))
    pem = identity.id_certificate(serial, key, start)
    made = x509.load_pem_x509_certificate(pem.encode())
    return IdCertificate(
        pem=pem,
        not_before=made.not_valid_before_utc.timestamp(),
        renew_at=start + CERTIFICATE_RENEW,
        not_after=made.not_valid_after_utc.timestamp(),
    )


def certificate_of(instance: Row) -> IdCertificate:
    """Return the ID certificate that an instance was given last."""
    return IdCertificate(
        pem=instance["certificate"],
        not_before=instance["certificate_from"],
        renew_at=instance["certificate_renew"],
        not_after=instance["certificate_until"],
    )


def names_of(change: Change, va: int) -> tuple[str, str]:
    """Return the names of a virtual account's account and of itself."""
    row = change.tx.row("SELECT * FROM virtual_account_name WHERE va_id = :va", va=va)
    assert row is not None  # rows of virtual accounts are never deleted
    return row["account"], row["virtual_account"]


def register(change: Change, request: RegisterRequest, key: PublicKey, identity: Identity) -> str:
    """Register a product instance; returns the signed reply.

    Raises LicenseError `bad_serial`, `already_registered`, `registered_elsewhere`, and for the
    token `unknown_token`, `token_revoked`, `token_expired`, `token_used_up`; TrustError
    `clock_skew`, `bad_request` (not its own certificate request).
    """
    check_serial(request.serial)
    check_request(request.request, request.serial, key)
    check_skew(request.time, change.now)
    present = change.tx.row(
        "SELECT * FROM product_instance WHERE serial = :serial AND state = :state",
        serial=request.serial,
        state=REGISTERED,
    )
    if present is not None and _repeats(change, present, request, key):
        if present["last_request"] == f"register {request.nonce}":
            return str(present["last_reply"])
        return _reply(change, present, request, identity)
    token = _check_token(change, request)
    if present is not None:
        _make_room(change, present, token, request, key)
    change.tx.run(
        "UPDATE smart_token SET uses_left = uses_left - 1 WHERE token_id = :token",
        token=token["token_id"],
    )
    certificate = certify(identity, request.serial, key, change.now)
    book = identity.key_book()
    number = int(change.tx.meta("smart_instance") or 0) + 1
    change.tx.set_meta("smart_instance", str(number))
    # The random part: a manager restored from a backup gives no number out twice.
    instance_id = f"PI-{number:06d}-{secrets.token_hex(2)}"
    change.tx.run(
        "INSERT INTO product_instance (instance_id, va_id, serial, name, software, state,"
        " public_key, kid, token_id, export_allowed, certificate, certificate_from,"
        " certificate_renew, certificate_until, registered_at, contact_current, last_request,"
        " last_reply, last_contact, last_time, keys_sent, keys_known) VALUES (:instance, :va,"
        " :serial, :name, :software, :state, :key, :kid, :token, :export, :pem, :from, :renew,"
        " :until, :now, :contact, '', '', :now, :time, :keys, :keys)",
        instance=instance_id,
        va=token["va_id"],
        serial=request.serial,
        name=request.name[:64],
        software=request.software[:64],
        state=REGISTERED,
        key=key.text,
        kid=key.kid,
        token=token["token_id"],
        export=token["export_allowed"],
        pem=certificate.pem,
        **{"from": certificate.not_before},
        renew=certificate.renew_at,
        until=certificate.not_after,
        now=change.now,
        contact=next_value(identity.anchor, instance_id),
        time=request.time,
        keys=book.serial,
    )
    event(
        change,
        "instance_registered",
        f"{instance_id} ({request.serial}) was registered by token {token['token_id']}.",
        va=token["va_id"],
        instance=instance_id,
    )
    plan(change)
    made = change.tx.row(
        "SELECT * FROM product_instance WHERE instance_id = :instance", instance=instance_id
    )
    assert made is not None  # inserted a moment ago
    return _reply(change, made, request, identity)


def _repeats(change: Change, present: Row, request: RegisterRequest, key: PublicKey) -> bool:
    """Tell whether a registration is the present one again: its reply was lost."""
    token = change.tx.value(
        "SELECT hash FROM smart_token WHERE token_id = :token", token=present["token_id"]
    )
    return bool(
        present["kid"] == key.kid
        and present["last_request"].startswith("register ")
        and token == hashed(request.token)
    )


def _make_room(
    change: Change, present: Row, token: Row, request: RegisterRequest, key: PublicKey
) -> None:
    number = present["instance_id"]
    if names_of(change, present["va_id"])[0] != names_of(change, token["va_id"])[0]:
        raise LicenseError(
            "registered_elsewhere",
            f"Serial number {request.serial} is registered in another account; it has to be "
            "removed there first.",
        )
    if not request.force:
        raise LicenseError(
            "already_registered",
            f"Serial number {request.serial} is registered already, as {number}; register with "
            "--force to take its place, or remove it at the authority.",
        )
    message = f"{request.serial} registered anew in the place of {number}."
    event(change, "instance_replaced", message, va=present["va_id"], instance=number)
    leave(change, present, REPLACED)
    if present["kid"] != key.kid and not present["silent"]:
        raise_alert(
            change,
            DUPLICATE,
            request.serial,
            f"{request.serial} registered again with another key while {number} was registered.",
            va=present["va_id"],
            instance=number,
        )


def _check_token(change: Change, request: RegisterRequest) -> Row:
    token = change.tx.row("SELECT * FROM smart_token WHERE hash = :h", h=hashed(request.token))
    if token is None:
        raise LicenseError(
            "unknown_token",
            "The registration token is not valid here; ask the authority's operator for one.",
        )
    if token["revoked"]:
        raise LicenseError(
            "token_revoked", "The registration token was revoked; ask for a new one."
        )
    if token["expires"] <= change.now:
        raise LicenseError(
            "token_expired", "The registration token has expired; ask for a new one."
        )
    if token["uses_left"] < 1:
        raise LicenseError(
            "token_used_up", "The registration token has been used up; ask for a new one."
        )
    return token


def _reply(change: Change, instance: Row, request: RegisterRequest, identity: Identity) -> str:
    book = identity.key_book()
    account, virtual_account = names_of(change, instance["va_id"])
    answer = RegisterReply(
        nonce=request.nonce,
        serial=request.serial,
        time=change.now,
        instance_id=instance["instance_id"],
        contact=instance["contact_current"],
        key_set=book.envelope,
        certificate=certificate_of(instance),
        anchor=identity.anchor.public.text,
        product_key=change.tx.meta("product_key"),
        account=account,
        virtual_account=virtual_account,
        export_allowed=bool(instance["export_allowed"]),
    )
    reply = sign(identity.signer(book.serial, change.now), SMART_REPLY, answer)
    change.tx.run(
        "UPDATE product_instance SET last_request = :asked, last_reply = :reply,"
        " last_time = :time WHERE instance_id = :instance",
        asked=f"register {request.nonce}",
        reply=reply,
        time=request.time,
        instance=instance["instance_id"],
    )
    return reply
