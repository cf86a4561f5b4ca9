"""What the flash holds, and how each signed part of it is verified again on every read.

The chain is: vendor key (settings) -> local key; anchor (pinned by the registration token
and sealed) -> key set -> reply -> grant and lease. The seal of the flash alone is never
believed where a signature can be asked.
"""

from __future__ import annotations

from typing import Any

import msgspec

from callpool.device.errors import FlashError
from callpool.device.settings import Settings
from callpool.device.smart_record import SmartRecord, check_smart
from callpool.device.trust import KeyRing, read_reply
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError
from callpool.licensing.instant import HighWaterMark, Instant
from callpool.licensing.key import LocalKey, check_bound
from callpool.licensing.lease import DeviceLicense
from callpool.wire.envelope import LOCAL_KEY, trust, verify
from callpool.wire.keys import PublicKey
from callpool.wire.messages import ContactReply


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """`HighWaterMark`, written down. Seconds."""

    mark: float
    wall: float
    boottime: float
    boot_id: str
    lead: float
    behind: bool

    @classmethod
    def of(cls, mark: HighWaterMark) -> Marked:
        """Write a mark."""
        return cls(
            mark=mark.mark,
            wall=mark.base.wall,
            boottime=mark.base.boottime,
            boot_id=mark.base.boot_id,
            lead=mark.lead,
            behind=mark.behind,
        )

    def read(self) -> HighWaterMark:
        """Read it back."""
        base = Instant(wall=self.wall, boottime=self.boottime, boot_id=self.boot_id)
        return HighWaterMark(mark=self.mark, base=base, lead=self.lead, behind=self.behind)


class SignedReply(msgspec.Struct, frozen=True, kw_only=True):
    """A manager's reply with the key set that it was verified by.

    The key set stays beside it: keys are rolled, and what was signed by one that has left
    the set since must still verify.
    """

    reply: str
    key_set: str


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has been signed and may have been sent, but is not answered."""

    path: str
    envelope: str
    nonce: str
    reason: str
    #: When it was signed: seconds of boottime, and of which boot.
    boottime: float
    boot_id: str
    #: The start of the last minute of use that it reports, seconds since 1970; 0 for none.
    usage_until: int = 0
    #: The versions it reports.
    remote_version: int = 0
    applied_version: int = 0
    #: The pool units in use that it reports, and the mode.
    in_use: dict[str, int] = {}
    mode: str = ""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """All that comes from a manager; `reset.py` says what a factory reset leaves of it."""

    #: The last manager's anchor key, base64url, pinned at enrolment; empty before.
    anchor: str = ""
    #: The latest key set, in its envelope; empty while not enrolled.
    key_set: str = ""
    #: The ID certificate, PEM.
    certificate: str = ""
    #: The manager's product key.
    product_key: str = ""
    #: The contact value that the next request carries.
    contact: str = ""
    #: MANAGED, NOT_MANAGED or NOT_LISTED, as last told.
    status: str = ""
    #: Whether this manager has ever called it MANAGED.
    was_managed: bool = False
    #: The last reply that carried a grant: Remote and the lease.
    latest: SignedReply | None = None
    #: The manager has taken Remote away (the lease of what is applied still stands).
    removed: bool = False
    #: The reply whose grant is applied.
    applied: SignedReply | None = None
    #: The highest grant version ever accepted.
    seen_version: int = 0
    #: The last restart wish carried out.
    restart_done: int = 0
    #: The last switchover order taken up, and how it ended.
    switch_done: int = 0
    switch_result: str = ""
    #: The request that is not yet answered.
    pending: Pending | None = None


class FlashRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of the flash. Serial, local key and mark survive a factory reset."""

    serial: str
    mark: Marked
    #: The local key in its envelope; empty for none.
    local_key: str = ""
    #: A restart was begun and is not known to have ended.
    restarting: bool = False
    #: A factory reset was begun and has not yet ended.
    resetting: bool = False
    pool: Pool = Pool()
    #: Smart licensing; its evaluation seconds survive a factory reset.
    smart: SmartRecord = SmartRecord()


def read_local_key(envelope: str, vendor: PublicKey | None, serial: str) -> LocalKey:
    """Return a verified local key for `serial`.

    Raises TrustError (`no_vendor_key`, `unknown_signer`, `bad_signature`, ...) or LicenseError.
    """
    raw = verify(envelope, LOCAL_KEY, trust(*([vendor] if vendor else [])))
    key = LocalKey.from_payload(msgspec.json.decode(raw))
    return check_bound(key, serial)


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A record whose every signature has been verified."""

    record: FlashRecord
    local_key: LocalKey | None
    license: DeviceLicense
    #: The keys to verify the next reply with; None before enrolment.
    ring: KeyRing | None
    #: The last reply that carried a grant.
    latest: ContactReply | None

    def recording(self, **changes: Any) -> Opened:
        """Return it with `changes` of its record, which need no other check."""
        return msgspec.structs.replace(self, record=msgspec.structs.replace(self.record, **changes))


def open_record(record: FlashRecord, settings: Settings) -> Opened:
    """Verify every signed part of `record` and return what it amounts to.

    Raises FlashError `flash_foreign` (another serial number) or `flash_altered`.
    """
    serial, pool = settings.serial, record.pool
    if record.serial != serial:
        raise FlashError(
            "flash_foreign",
            f"The flash is that of {record.serial}; this device is {serial}. It is refused.",
        )
    try:
        key = (
            read_local_key(record.local_key, settings.vendor, serial) if record.local_key else None
        )
        ring = KeyRing.open(pool.anchor, pool.key_set) if pool.key_set else None
        latest = _reply(pool.anchor, pool.latest, serial)
        applied = _reply(pool.anchor, pool.applied, serial)
    except CallpoolError as error:
        raise FlashError(
            "flash_altered", f"The flash does not hold what was signed: {error.sentence}"
        ) from error
    check_smart(record.smart, serial)
    return Opened(
        record=record,
        local_key=key,
        license=DeviceLicense(
            serial=serial,
            local=key.counts if key else Capacity(),
            local_end=key.ends if key else None,
            maximum=key.maximum.to_dict() if key else settings.maximum,
            remote=latest.grant.grant(serial)
            if latest and latest.grant and not pool.removed
            else None,
            applied=applied.grant.grant(serial) if applied and applied.grant else None,
            lease_end=lease_end(latest) if latest else 0.0,
            seen_version=pool.seen_version,
        ),
        ring=ring,
        latest=latest,
    )


def lease_end(reply: ContactReply) -> float:
    """Return when a reply's lease ends, seconds since 1970: the earlier of its two forms."""
    return min(reply.lease_end, reply.time + reply.lease_seconds)


def _reply(anchor: str, signed: SignedReply | None, serial: str) -> ContactReply | None:
    if signed is None:
        return None
    ring = KeyRing.open(anchor, signed.key_set)
    return read_reply(signed.reply, ring, serial=serial)
