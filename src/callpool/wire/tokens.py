"""Registration tokens: a secret for the manager, a fingerprint for the device.

`callpool1.<secret>.<kid>`: the secret is shown once and stored hashed at the manager; the kid
names the manager's anchor key, so a device knows whom it enrols with before it trusts a word.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from callpool.licensing.errors import TrustError

_PREFIX: Final = "callpool1"


def new_secret() -> str:
    """Return 192 random bits for a new token."""
    return secrets.token_urlsafe(24)


def hashed(secret: str) -> str:
    """Return what the manager stores of a secret (192 random bits need no slow hash)."""
    return hashlib.sha256(secret.encode()).hexdigest()


def join(secret: str, anchor_kid: str) -> str:
    """Return the token that a person carries to the device."""
    return f"{_PREFIX}.{secret}.{anchor_kid}"


def split(token: str) -> tuple[str, str]:
    """Return (secret, anchor kid) of a token; raises TrustError `bad_token`."""
    parts = token.strip().split(".")
    if len(parts) != 3 or parts[0] != _PREFIX or not all(parts):
        raise TrustError("bad_token", "This is not a registration token; copy it whole.")
    return parts[1], parts[2]
