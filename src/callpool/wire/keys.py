"""Signing keys: Ed25519, named by their RFC 7638 thumbprint (`kid`), kept in private files."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from joserfc.jwk import OKPKey

from callpool.host.files import write_durably
from callpool.licensing.errors import TrustError


def thumbprint(public: bytes) -> str:
    """Return the RFC 7638 thumbprint of a raw 32-byte Ed25519 public key."""
    jwk = {"crv": "Ed25519", "kty": "OKP", "x": _b64(public)}
    canonical = msgspec.json.encode(jwk)  # members are already in lexicographic order
    return _b64(hashlib.sha256(canonical).digest())


def private_pem(
    key: Ed25519PrivateKey | EllipticCurvePrivateKey, passphrase: bytes | None
) -> bytes:
    """Return a private key as PKCS#8 PEM, encrypted where there is a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption(),
    )


def is_encrypted(file: Path) -> bool:
    """Tell whether a key file is encrypted; raises OSError."""
    return b"ENCRYPTED" in file.read_bytes()


def read_private(file: Path, passphrase: bytes | None) -> PrivateKeyTypes:
    """Read a private key file, encrypted or not.

    Raises OSError, TrustError `bad_key`, `no_passphrase` (it is encrypted and none is given) or
    `wrong_passphrase`.
    """
    raw = file.read_bytes()
    encrypted = b"ENCRYPTED" in raw
    if encrypted and passphrase is None:
        raise TrustError(
            "no_passphrase",
            f"{file.name} is encrypted: give its passphrase as the credential manager-passphrase, "
            "or in the file that CALLPOOL_PASSPHRASE_FILE names.",
        )
    try:
        return serialization.load_pem_private_key(raw, password=passphrase if encrypted else None)
    except ValueError as error:
        if encrypted:
            raise TrustError(
                "wrong_passphrase", f"The passphrase given is not that of {file.name}."
            ) from error
        raise TrustError("bad_key", f"{file.name} is not a private key file.") from error


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies."""

    #: The raw 32 bytes.
    raw: bytes

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Read the base64url form; raises TrustError `bad_key`."""
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            Ed25519PublicKey.from_public_bytes(raw)
        except ValueError as error:
            raise TrustError("bad_key", "This is not an Ed25519 public key.") from error
        return cls(raw)

    @property
    def text(self) -> str:
        """Return the base64url form."""
        return _b64(self.raw)

    @property
    def kid(self) -> str:
        """Return the thumbprint that names this key."""
        return thumbprint(self.raw)

    def jose(self) -> OKPKey:
        """Return the key as joserfc wants it."""
        return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": self.text})


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs; its repr never shows the secret."""

    private: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.public.kid})"

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> PublicKey:
        """Return the half that verifies."""
        return PublicKey(
            self.private.public_key().public_bytes(
                serialization.Encoding.Raw, serialization.PublicFormat.Raw
            )
        )

    def save(self, file: Path, passphrase: bytes | None = None) -> None:
        """Write the key as PKCS#8 PEM, mode 0600, encrypted by a passphrase; raises OSError."""
        write_durably(file, private_pem(self.private, passphrase))

    @classmethod
    def load(cls, file: Path, passphrase: bytes | None = None) -> SigningKey:
        """Read a key file; raises OSError or TrustError as `read_private`."""
        key = read_private(file, passphrase)
        if not isinstance(key, Ed25519PrivateKey):
            raise TrustError("bad_key", f"{file.name} does not hold an Ed25519 key.")
        return cls(key)

    def jose(self) -> OKPKey:
        """Return the key as joserfc wants it."""
        return _jose(self)

    @property
    def kid(self) -> str:
        """Return the thumbprint that names this key."""
        return _kid(self)


@lru_cache(maxsize=8)
def _kid(key: SigningKey) -> str:
    return key.public.kid


@lru_cache(maxsize=8)
def _jose(key: SigningKey) -> OKPKey:
    jwk: dict[str, Any] = {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": key.public.text,
        "d": _b64(
            key.private.private_bytes(
                serialization.Encoding.Raw,
                serialization.PrivateFormat.Raw,
                serialization.NoEncryption(),
            )
        ),
    }
    return OKPKey.import_key(jwk)
