"""Whom a device believes: anchor -> key set -> reply (law 4).

The anchor's fingerprint comes with the registration token, by hand; everything else is
verified from there. Nothing here reads a clock or a disk.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from callpool.licensing.errors import TrustError
from callpool.wire.envelope import KEY_SET, REPLY, read, trust, unverified, verify
from callpool.wire.keys import PublicKey, SigningKey
from callpool.wire.messages import ContactReply, EnrolReply, KeySet


@dataclass(frozen=True, slots=True)
class KeyRing:
    """A verified key set under its anchor."""

    #: The anchor's public key.
    anchor: PublicKey
    #: The key set in its envelope.
    envelope: str
    #: What it says.
    keys: KeySet

    @classmethod
    def open(cls, anchor: str, envelope: str) -> KeyRing:
        """Verify a key set by the anchor (base64url); raises TrustError."""
        key = PublicKey.from_text(anchor)
        keys = read(verify(envelope, KEY_SET, trust(key)), KeySet)
        keys.checked()
        return cls(anchor=key, envelope=envelope, keys=keys)

    def newer(self, envelope: str) -> KeyRing:
        """Return the ring with the newer of its own set and `envelope`; raises TrustError."""
        if not envelope or envelope == self.envelope:
            return self
        other = KeyRing.open(self.anchor.text, envelope)
        return other if other.keys.serial > self.keys.serial else self

    def key_for(self, kid: str, time: float) -> PublicKey | None:
        """Return the key named `kid` if it may still sign at `time` (seconds since 1970)."""
        for entry in self.keys.keys:
            key = PublicKey.from_text(entry.public_key)
            if key.kid == kid and time < entry.not_after:
                return key
        return None


def read_reply(envelope: str, ring: KeyRing, *, serial: str, now: float = 0.0) -> ContactReply:
    """Return a verified reply to a contact of `serial`.

    A signing key must be in date both at the reply's own time and at trusted time `now`
    (seconds since 1970; 0 where the reply was accepted before). Raises TrustError.
    """
    said = read(unverified(envelope), ContactReply)
    at = max(said.time, now)
    reply = read(verify(envelope, REPLY, lambda kid: ring.key_for(kid, at)), ContactReply)
    reply.checked()
    if reply.serial != serial:
        raise TrustError(
            "reply_for_another_serial",
            f"A reply for {reply.serial[:40]} reached {serial} and was refused.",
        )
    return reply


def fresh_reply(
    envelope: str, ring: KeyRing, *, serial: str, nonce: str, now: float
) -> tuple[ContactReply, KeyRing]:
    """Verify the reply to the request with `nonce`; return it and the ring to keep.

    `now` is trusted time, seconds since 1970. Raises TrustError: `replayed_reply` (it answers
    another request), `reply_for_another_serial`, `unknown_signer`, `bad_signature`, ...
    """
    offered = read(unverified(envelope), ContactReply).key_set
    newer = ring.newer(offered)
    reply = read_reply(envelope, newer, serial=serial, now=now)
    if reply.nonce != nonce:
        raise TrustError(
            "replayed_reply", "The reply answers another request than the one that was sent."
        )
    return reply, newer


def enrolment(
    envelope: str, *, anchor_kid: str, nonce: str, serial: str, identity: SigningKey
) -> tuple[EnrolReply, KeyRing]:
    """Verify the reply to an enrolment; return it and the key ring it founds.

    Raises TrustError: `wrong_anchor` (not the manager that the token names),
    `replayed_reply`, `reply_for_another_serial`, `wrong_certificate`, ...
    """
    said = read(unverified(envelope), EnrolReply)
    if PublicKey.from_text(said.anchor).kid != anchor_kid:
        raise TrustError(
            "wrong_anchor", "The manager that answered is not the one that the token names."
        )
    ring = KeyRing.open(said.anchor, said.key_set)
    reply = read(verify(envelope, REPLY, lambda kid: ring.key_for(kid, said.time)), EnrolReply)
    reply.checked()
    if reply.nonce != nonce:
        raise TrustError("replayed_reply", "The reply answers another enrolment.")
    if reply.serial != serial:
        raise TrustError(
            "reply_for_another_serial", f"The certificate is for {reply.serial[:40]}, not {serial}."
        )
    check_certificate(reply.certificate, serial, identity)
    return reply, ring


def certified_key(pem: str) -> PublicKey | None:
    """Return the key that an ID certificate is for, None where there is no certificate."""
    if not pem:
        return None
    public = x509.load_pem_x509_certificate(pem.encode()).public_key()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return PublicKey(raw)


def check_certificate(pem: str, serial: str, identity: SigningKey) -> None:
    """Refuse an ID certificate that is not for `serial` and `identity`.

    Raises TrustError `wrong_certificate`.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        named = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        public = certificate.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
    except ValueError as error:
        raise TrustError("wrong_certificate", "The reply holds no ID certificate.") from error
    if public != identity.public.raw or [n.value for n in named] != [serial]:
        raise TrustError(
            "wrong_certificate", "The ID certificate is not for this device's key and serial."
        )


def certificate_request(identity: SigningKey, serial: str) -> str:
    """Return a PKCS#10 request, PEM, for `serial`, signed by the device's ID key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, serial)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    # Ed25519 brings its own hash, so none is named.
    signed = request.sign(identity.private, None)
    return signed.public_bytes(serialization.Encoding.PEM).decode()
