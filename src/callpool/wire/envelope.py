"""The signed envelope: compact JWS (RFC 7515) by Ed25519 (RFC 9864), typed by what it holds.

Everything that crosses a boundary is one of these: orders and local keys from the vendor,
requests from a device, replies from the manager, the manager's key set. The protected header
carries `typ`, so that one kind is never taken for another, and `kid`. What a request is bound
to (URL, contact value, nonce) and what a reply is bound to (nonce, serial) stand in the body
structs of `messages.py`, under the same signature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from joserfc import jws
from joserfc.errors import JoseError

from callpool.licensing.errors import TrustError
from callpool.wire.keys import PublicKey, SigningKey

T = TypeVar("T")

_REGISTRY: Final = jws.JWSRegistry(algorithms=["Ed25519"])

#: The longest envelope that is read, in bytes.
MAX_ENVELOPE: Final = 256 * 1024

ORDER: Final = "callpool-order"
LOCAL_KEY: Final = "callpool-key"
ENROL: Final = "callpool-enrol"
CONTACT: Final = "callpool-contact"
HINTS: Final = "callpool-hints"
REPLY: Final = "callpool-reply"
KEY_SET: Final = "callpool-keyset"
AUDIT_HEAD: Final = "callpool-audit-head"


def sign(key: SigningKey, typ: str, body: object) -> str:
    """Return `body` (a msgspec struct or plain values) as a signed envelope of type `typ`."""
    header = {"alg": "Ed25519", "typ": typ, "kid": key.kid}
    return jws.serialize_compact(header, msgspec.json.encode(body), key.jose(), registry=_REGISTRY)


class Sealed:
    """An envelope of the right form, whose signature nobody has looked at yet."""

    def __init__(self, envelope: str | bytes, typ: str) -> None:
        """Read an envelope of type `typ`; raises TrustError `bad_envelope`."""
        raw = envelope.encode() if isinstance(envelope, str) else envelope
        if len(raw) > MAX_ENVELOPE:
            raise TrustError("bad_envelope", "The signed document is longer than allowed.")
        try:
            self._found = jws.extract_compact(raw.strip(), registry=_REGISTRY)
            header = self._found.headers()
        except (JoseError, ValueError) as error:
            raise TrustError("bad_envelope", "This is not a signed callpool document.") from error
        if header.get("typ") != typ or header.get("alg") != "Ed25519":
            raise TrustError("bad_envelope", f"This is not a signed document of type {typ}.")
        #: By which key it says it is signed.
        self.kid = str(header.get("kid"))

    def opened(self, key: PublicKey | None) -> bytes:
        """Return the body once its signature is verified by the key that is trusted for `kid`.

        Raises TrustError `unknown_signer` (there is none), `bad_signature`.
        """
        if key is None:
            raise TrustError(
                "unknown_signer", "The document is signed by a key that is not trusted."
            )
        try:
            good = jws.validate_compact(self._found, key.jose(), algorithms=["Ed25519"])
        except (JoseError, ValueError):
            good = False
        if not good:
            raise TrustError(
                "bad_signature", "The signature does not match: the document was altered."
            )
        return self._found.payload


def verify(envelope: str | bytes, typ: str, key_for: Callable[[str], PublicKey | None]) -> bytes:
    """Return the body of `envelope` once its signature is verified.

    `key_for` maps a `kid` to the key that is trusted for this purpose, or None.
    Raises TrustError: `bad_envelope` (not one, too long, or of another type), `unknown_signer`,
    `bad_signature`.
    """
    sealed = Sealed(envelope, typ)
    return sealed.opened(key_for(sealed.kid))


def trust(*keys: PublicKey) -> Callable[[str], PublicKey | None]:
    """Return a `key_for` that trusts exactly `keys`."""
    known = {key.kid: key for key in keys}
    return known.get


def read(raw: bytes, kind: type[T]) -> T:
    """Decode a verified body; raises TrustError `bad_message`."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise TrustError("bad_message", f"The message does not have its form: {error}.") from error


def unverified(envelope: str | bytes) -> bytes:
    """Return the body of `envelope` without trusting it.

    Only to find the key that an enrolment itself brings; `verify` comes after.
    Raises TrustError `bad_envelope`.
    """
    raw = envelope.encode() if isinstance(envelope, str) else envelope
    try:
        return jws.extract_compact(raw[:MAX_ENVELOPE].strip(), registry=_REGISTRY).payload
    except (JoseError, ValueError) as error:
        raise TrustError("bad_envelope", "This is not a signed callpool document.") from error
