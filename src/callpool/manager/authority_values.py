"""Contact values that prove who handed them out, and what an authority restored does with them.

A value is `NUMBER.RANDOM.PROOF`; the number only rises within an instance, and the proof is an
HMAC under a key that is derived from the anchor's. So an authority that was restored from an
older backup knows a value of its own that its database has never seen by the higher number: it
takes it, and goes on above it, where it would otherwise take the device for a clone. A copied or
rolled-back machine has a lower one (design.md: a validly signed contact value that it does not
know).
"""

from __future__ import annotations

import base64
import hmac
import secrets
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from callpool.licensing.compliance import DAY
from callpool.manager.authority_alerts import RESTORED, raise_alert
from callpool.manager.authority_ledger import REGISTERED, hint_instance
from callpool.manager.change import Change
from callpool.manager.store.tx import Row
from callpool.wire.keys import SigningKey

_PURPOSE: Final = b"callpool smart contact values"
#: The longest number that is read, in digits.
_DIGITS: Final = 15
#: Where the time is kept at which everybody was last asked to report after a restoration.
_ASKED: Final = "smart_restored"


@lru_cache(maxsize=4)
def _key(anchor: SigningKey) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=_PURPOSE).derive(anchor.private.private_bytes_raw())


def _proof(anchor: SigningKey, instance_id: str, number: str, salt: str) -> str:
    key = _key(anchor)
    text = f"{instance_id} {number} {salt}".encode()
    return base64.urlsafe_b64encode(hmac.digest(key, text, "sha256")[:18]).decode()


def number_of(anchor: SigningKey, instance_id: str, value: str) -> int:
    """Return the number of a contact value that was handed out to the instance, 0 of any other."""
    number, _, rest = value.partition(".")
    salt, _, proof = rest.partition(".")
    if not (number.isascii() and number.isdecimal()) or len(number) > _DIGITS:
        return 0
    good = hmac.compare_digest(_proof(anchor, instance_id, number, salt).encode(), proof.encode())
    return int(number) if good else 0


def next_value(anchor: SigningKey, instance_id: str, *before: str) -> str:
    """Return a contact value above all those `before` that were handed out to the instance."""
    number = str(1 + max((number_of(anchor, instance_id, v) for v in before), default=0))
    salt = secrets.token_urlsafe(9)
    return f"{number}.{salt}.{_proof(anchor, instance_id, number, salt)}"


def recall(change: Change, instance: Row) -> None:
    """Say that this authority was restored from a backup, and ask everybody to report.

    Once a day at most: what the backup does not know, each instance brings with its next contact.
    """
    asked = change.tx.meta(_ASKED)
    if asked and change.now < float(asked) + DAY:
        return
    change.tx.set_meta(_ASKED, repr(change.now))
    raise_alert(
        change,
        RESTORED,
        "authority",
        f"{instance['instance_id']} ({instance['serial']}) has called by a contact value that is "
        "newer than this database: the authority was restored from a backup.",
        va=instance["va_id"],
        instance=instance["instance_id"],
    )
    for row in change.tx.rows(
        "SELECT instance_id FROM product_instance WHERE state = :state AND instance_id <> :asking",
        state=REGISTERED,
        asking=instance["instance_id"],
    ):
        hint_instance(change, row["instance_id"])
