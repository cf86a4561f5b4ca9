"""Signing keys: Ed25519, named by their RFC 7638 thumbprint (`kid`), kept in private files."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from joserfc.jwk import OKPKey

from callpool.host.files import write_durably
from callpool.licensing.errors import TrustError


def thumbprint(public: bytes) -> str:
    """Return the RFC 7638 thumbprint of a raw 32-byte Ed25519 public key."""
    jwk = {"crv": "Ed25519", "kty": "OKP", "x": _b64(public)}
    canonical = msgspec.json.encode(jwk)  # members are already in lexicographic order
    return _b64(hashlib.sha256(canonical).digest())


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

    def save(self, file: Path) -> None:
        """Write the key as PKCS#8 PEM, mode 0600; raises OSError."""
        write_durably(
            file,
            self.private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    @classmethod
    def load(cls, file: Path) -> SigningKey:
        """Read a key file; raises OSError or TrustError `bad_key`."""
        try:
            key = serialization.load_pem_private_key(file.read_bytes(), password=None)
        except ValueError as error:
            raise TrustError("bad_key", f"{file.name} is not a private key file.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise TrustError("bad_key", f"{file.name} does not hold an Ed25519 key.")
        return cls(key)

    def jose(self) -> OKPKey:
        """Return the key as joserfc wants it."""
        jwk: dict[str, Any] = {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": self.public.text,
            "d": _b64(
                self.private.private_bytes(
                    serialization.Encoding.Raw,
                    serialization.PrivateFormat.Raw,
                    serialization.NoEncryption(),
                )
            ),
        }
        return OKPKey.import_key(jwk)
