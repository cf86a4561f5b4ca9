"""Idempotency keys: a change that was asked for twice under one key is made once.

The answer is kept in the transaction of the change itself, so that of many requests at once one
changes and the others are given its answer. It may hold a secret that is shown once: it is kept
encrypted by a key that only the idempotency key yields, which itself is kept as a hash.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager.change import Change

HEADER: Final = "idempotency-key"
#: Of an answer that was given before.
REPLAYED: Final = "Idempotent-Replayed"
#: Seconds for which an answer is kept, and how many of one operator.
KEPT_SECONDS: Final = 86_400.0
MOST_KEPT: Final = 1_000
_KEY: Final = re.compile(r"[\x21-\x7e]{8,255}")


class Again(Exception):
    """Ends the transaction: the change was made before, with this answer."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body = status, body


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A change under a key."""

    username: str
    key: str
    #: What is asked for: method, address, content type and body, as a hash.
    fingerprint: str

    def before(self, change: Change) -> None:
        """Raise `Again` where the change was made; CallpoolError `idempotency_key_reused`."""
        row = change.tx.row(
            "SELECT fingerprint, status, body FROM idempotency WHERE username = :user"
            " AND key_hash = :key AND made_at > :since",
            user=self.username,
            key=self._hash("name"),
            since=change.now - KEPT_SECONDS,
        )
        if row is None:
            return
        if row["fingerprint"] != self.fingerprint:
            raise CallpoolError(
                "idempotency_key_reused",
                "This idempotency key was used for another change; take a new one.",
            )
        try:
            body = self._cipher().decrypt(row["body"][:12], row["body"][12:], None)
        except InvalidTag as error:
            raise CallpoolError("idempotency_key_reused", "The kept answer is damaged.") from error
        raise Again(row["status"], body)

    def after(self, change: Change, status: int, body: bytes) -> None:
        """Keep the answer of the change that was made."""
        change.tx.run(
            "DELETE FROM idempotency WHERE made_at <= :old OR (username = :user AND key_hash NOT IN"
            " (SELECT key_hash FROM idempotency WHERE username = :user ORDER BY made_at DESC"
            " LIMIT :most))",
            old=change.now - KEPT_SECONDS,
            user=self.username,
            most=MOST_KEPT - 1,
        )
        nonce = os.urandom(12)
        change.tx.run(
            "INSERT INTO idempotency (username, key_hash, fingerprint, status, body, made_at)"
            " VALUES (:user, :key, :fingerprint, :status, :body, :now)",
            user=self.username,
            key=self._hash("name"),
            fingerprint=self.fingerprint,
            status=status,
            body=nonce + self._cipher().encrypt(nonce, body, None),
            now=change.now,
        )

    def _hash(self, use: str) -> str:
        return hashlib.sha256(f"{use}\n{self.username}\n{self.key}".encode()).hexdigest()

    def _cipher(self) -> AESGCM:
        return AESGCM(bytes.fromhex(self._hash("body")))


def asked(username: str, key: str, *what: bytes) -> Asked:
    """Return what is asked for under a key; raises LicenseError `bad_idempotency_key`."""
    if not _KEY.fullmatch(key):
        raise LicenseError(
            "bad_idempotency_key", "An idempotency key is 8 to 255 visible ASCII characters."
        )
    fingerprint = hashlib.sha256(b"".join(len(w).to_bytes(8, "big") + w for w in what)).hexdigest()
    return Asked(username=username, key=key, fingerprint=fingerprint)
