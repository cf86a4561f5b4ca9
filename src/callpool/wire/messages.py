"""What manager and device say to each other; every body travels in a signed envelope.

Unknown fields are ignored, an unknown version is refused. Times are seconds since 1970 by the
manager's clock, durations seconds, counts per license type name.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Final, TypeAlias

import msgspec

from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import TrustError
from callpool.licensing.lease import Grant, Slice

#: The protocol version that this release speaks.
PROTOCOL: Final = 1

#: Content type of every request and reply between device and manager.
CONTENT_TYPE: Final = "application/jose"

#: Paths below the manager's URL.
ENROL_PATH: Final = "/device/v1/enrol"
CONTACT_PATH: Final = "/device/v1/contact"
HINTS_PATH: Final = "/device/v1/hints"

#: The unit is listed in the pool and managed by it.
MANAGED: Final = "managed"
#: The unit is listed, but not managed by the pool.
NOT_MANAGED: Final = "not_managed"
#: The unit's serial number is not in the inventory.
NOT_LISTED: Final = "not_listed"

#: The managed mode of a device: none, by the pool, or by the smart licensing authority.
MODE_NONE: Final = "none"
MODE_FIXED: Final = "fixed"
MODE_SMART: Final = "smart"

#: The reason of a device's last contact before it drops its identity.
FACTORY_RESET: Final = "factory_reset"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every body."""

    version: int = PROTOCOL

    def checked(self) -> None:
        """Refuse another protocol version: TrustError `unknown_version`."""
        if self.version != PROTOCOL:
            raise TrustError(
                "unknown_version",
                f"The other side speaks protocol version {self.version}; this one {PROTOCOL}.",
            )


class EnrolRequest(Message, frozen=True, kw_only=True):
    """A device's one introduction, signed by the key it wants certified."""

    #: The URL it is sent to.
    url: str
    #: Binds the reply.
    nonce: str
    #: The registration token's secret part.
    token: str
    #: The device's serial number.
    serial: str
    #: The device's public key, base64url.
    public_key: str
    #: PKCS#10 request, PEM, common name = serial number.
    request: str


class SigningKeyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One key that the manager signs replies with."""

    #: Base64url public key.
    public_key: str
    #: Replies signed by it are refused from this time on.
    not_after: float


class KeySet(Message, frozen=True, kw_only=True):
    """The manager's signing keys, signed by its anchor key."""

    #: Rises with every change.
    serial: int
    keys: tuple[SigningKeyEntry, ...]
    #: Certificates, PEM, of the authorities that devices with a CA file trust for TLS from now
    #: on, in its place; none where nothing was rolled.
    authorities: tuple[str, ...] = ()


class EnrolReply(Message, frozen=True, kw_only=True):
    """What a device needs from then on, signed by a key of the key set in it."""

    nonce: str
    serial: str
    #: The manager's time.
    time: float
    #: The ID certificate, PEM.
    certificate: str
    #: The anchor's public key, base64url: its thumbprint is part of the registration token.
    anchor: str
    #: The key set in its own envelope, signed by the anchor.
    key_set: str
    #: The first contact value.
    contact: str
    #: The manager's product key.
    product_key: str


class UsageCount(msgspec.Struct, frozen=True, array_like=True):
    """The use of one license type in one minute; an array on the wire, for its size."""

    #: The most in use at once.
    peak: int = 0
    #: The mean in use.
    mean: float = 0.0
    #: The lowest cap in force.
    cap: int = 0
    #: True refusals, and repeats by callers refused within the 30 seconds before.
    refused: int = 0
    repeated: int = 0
    #: Calls admitted.
    admitted: int = 0


class UsageMinute(msgspec.Struct, frozen=True, kw_only=True):
    """One minute that is over, per license type; a device reports each until it is taken."""

    #: Its start by the device's trusted time, seconds since 1970, a multiple of 60.
    at: int
    types: dict[str, UsageCount]


#: A count or a number that a device reports: exact in every JSON reader and database.
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class AlarmMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`licensing.alarms.Event` on the wire."""

    sequence: Number
    #: The device's trusted time, seconds since 1970.
    at: float
    oid: str
    #: As the traps number it.
    severity: Number
    codes: tuple[str, ...]
    text: str


class AlarmsMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A device's alarm log, as far as its manager has not taken it."""

    #: Which log: one that was begun anew has another name.
    log: str
    #: The number of the last event, 0 before the first.
    sequence: Number
    #: The last event of every alarm that is active.
    active: tuple[AlarmMessage, ...] = ()
    #: Events beyond what the manager has said it has taken, the oldest first.
    events: tuple[AlarmMessage, ...] = ()


class PairReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a unit of an HA pair sees itself and the other one."""

    #: The other unit's serial number.
    peer: str
    #: "active", "redundant", "alone" (active, the other one unseen) or "fault".
    role: str
    synchronised: bool = False
    #: Seconds since the other unit was heard; -1 for never.
    peer_age: float = -1.0
    #: The number of the last switchover order that was carried out, and how it ended
    #: ("" while none).
    switch_done: Number = 0
    switch_result: str = ""


class SwitchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the active unit of a pair to hand the service address to the other one."""

    #: Rises with every order: each is carried out once.
    number: int
    #: The serial number of the unit that is to be active.
    to: str
    #: Wall time after which it is no longer to be carried out; 0 for never.
    until: float = 0.0


class ContactRequest(Message, frozen=True, kw_only=True):
    """One contact: what the device is, has and does."""

    url: str
    nonce: str
    serial: str
    #: The contact value handed out by the last good contact.
    contact: str
    #: The device's wall time: skew is judged.
    time: float
    #: Why it calls: start, poll, usage, hint, confirm, retry, restart; FACTORY_RESET is the last.
    reason: str
    #: The version of the grant in flash ('Remote'), 0 for none.
    remote_version: Number
    #: The version of the grant that is applied, 0 for none.
    applied_version: Number
    #: Pool units that carry calls or registrations now, per type (the local key is used first).
    remote_in_use: dict[str, Number]
    #: All that is in use now, per type.
    in_use: dict[str, Number] = {}
    #: Most in use at once since the last report, per type.
    peak: dict[str, Number] = {}
    #: Refusals since the gate started, per reason code.
    refused: dict[str, Number] = {}
    #: The local key's counts.
    local: dict[str, Number] = {}
    #: The device's maximum supported capacity.
    maximum: dict[str, Number] = {}
    #: What is enforced now ('Actual').
    actual: dict[str, Number] = {}
    #: The number of the last restart carried out on the manager's request.
    restart_done: Number = 0
    #: Codes of what is wrong on the device, for people.
    alarms: tuple[str, ...] = ()
    #: The device's software.
    software: str = ""
    #: Minutes of use that are not known to be taken, the oldest first.
    usage: tuple[UsageMinute, ...] = ()
    #: The managed mode that is on: MODE_NONE, MODE_FIXED or MODE_SMART; empty where not told.
    mode: str = ""
    #: The alarm log; None where there is none to tell.
    alarm_log: AlarmsMessage | None = None
    #: Of a unit of an HA pair: how it sees the pair.
    pair: PairReport | None = None


class SliceMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`licensing.lease.Slice` on the wire."""

    order_id: str
    since: float
    until: float
    counts: dict[str, int]


class GrantMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`licensing.lease.Grant` on the wire; the serial stands in the reply."""

    version: int
    apply: str
    slices: tuple[SliceMessage, ...]

    @classmethod
    def of(cls, grant: Grant) -> GrantMessage:
        """Write a grant."""
        return cls(
            version=grant.version,
            apply=grant.apply,
            slices=tuple(
                SliceMessage(
                    order_id=s.order_id, since=s.since, until=s.until, counts=s.counts.to_dict()
                )
                for s in grant.slices
            ),
        )

    def grant(self, serial: str) -> Grant:
        """Read a grant for `serial`; raises LicenseError on counts that cannot be."""
        return Grant(
            serial=serial,
            version=self.version,
            apply=self.apply,
            slices=tuple(
                Slice(
                    order_id=s.order_id,
                    since=s.since,
                    until=s.until,
                    counts=Capacity.of(s.counts),
                )
                for s in self.slices
            ),
        )


class RestartOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's wish that the device restart its SIP service."""

    #: Rises with every wish: the device carries each out once.
    number: int
    #: Whether Remote is to be applied by it.
    save: bool
    #: Its window closes then, manager's time: a repeated reply that comes later orders nothing.
    #: 0 for an order without a window.
    until: float = 0.0


class WaitingMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What the unit's device waits for, of one license type."""

    type: str
    #: What the device is to have.
    count: int
    #: Why it waits, for people; it names nothing outside the device's tenant.
    sentence: str


class ContactReply(Message, frozen=True, kw_only=True):
    """The manager's answer: the grant, its lease, the next contact value."""

    nonce: str
    serial: str
    #: The manager's time.
    time: float
    #: MANAGED, NOT_MANAGED or NOT_LISTED.
    status: str
    #: The next contact value.
    contact: str
    #: The grant; None where the unit is not managed.
    grant: GrantMessage | None
    #: When the lease ends, by the manager's clock.
    lease_end: float
    #: The same as a duration from `time`.
    lease_seconds: float
    #: Seconds until the device polls unasked.
    poll_seconds: float
    #: Seconds between retries of a failed contact at first, later, and when 'later' begins.
    retry_seconds: float
    retry_later_seconds: float
    retry_later_after: float
    restart: RestartOrder | None = None
    #: The device's request that waits at the manager, per license type.
    waiting: tuple[WaitingMessage, ...] = ()
    #: Seconds until the device reports its use unasked; 0 for never.
    usage_seconds: float = 0.0
    #: The number of the last event that the manager has taken of the log in the request; None
    #: where the request told none, or the manager takes none.
    alarms_taken: int | None = None
    #: The key set in its own envelope, where the device may hold an older one.
    key_set: str = ""
    #: Of an HA pair: the active unit is to hand over.
    switch: SwitchOrder | None = None
    #: Until then (manager's time) alarms of the pair belong to a hitless run; 0 for none.
    expect_ha_alarms_until: float = 0.0


class HintsRequest(Message, frozen=True, kw_only=True):
    """Opens the stream of hints; it buys nothing but hints."""

    url: str
    nonce: str
    serial: str
    time: float


def new_nonce() -> str:
    """Return 128 random bits that bind one reply to one request."""
    return secrets.token_urlsafe(16)


def check_bound(*, url: str, sent_to: str, serial: str = "", signer: str = "") -> None:
    """Refuse a request that was signed for another URL or by another unit.

    Raises TrustError `wrong_url` or `wrong_serial`.
    """
    if url != sent_to:
        raise TrustError("wrong_url", "The request was signed for another address.")
    if serial != signer:
        raise TrustError("wrong_serial", "The request names a serial number not its signer's.")
