"""What the flash holds of smart licensing, and what can be verified of it again.

The agent's own state (evaluation seconds above all) has no signature but the flash's seal; the
registration and the last authorization are the authority's, and are checked again on every
read: anchor (pinned by the token) -> key set -> authorization.
"""

from __future__ import annotations

import msgspec

from callpool.device.errors import FlashError
from callpool.device.trust import KeyRing
from callpool.licensing.errors import CallpoolError
from callpool.licensing.notice_log import NoticeLog
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import Authorization, Certificate, Contact
from callpool.wire import smart_messages as wire
from callpool.wire.envelope import read, unverified, verify


class SmartPending(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has been signed and may have been sent, but is not answered."""

    contact: Contact
    path: str
    envelope: str
    nonce: str
    #: The time that it names, seconds since 1970.
    time: float
    #: The count that it asks for.
    count: int = 0


class SignedAuthorization(msgspec.Struct, frozen=True, kw_only=True):
    """The reply that the authorization in force came with, and the key set of that day."""

    reply: str
    key_set: str


class SmartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Smart licensing on this device; empty where it was never used."""

    agent: SmartAgent = SmartAgent()
    #: The run before wrote this as it ended: no evaluation has run since.
    clean: bool = False
    #: What a registration brought; empty while not registered.
    anchor: str = ""
    key_set: str = ""
    certificate: str = ""
    instance_id: str = ""
    product_key: str = ""
    account: str = ""
    virtual_account: str = ""
    export_allowed: bool = False
    #: When the authority granted the registration, and last a renewal of its ID certificate.
    registered_at: float | None = None
    renewed_at: float | None = None
    #: The contact value that the next request carries.
    contact: str = ""
    #: A registration that is under way takes the place of an old one.
    force: bool = False
    authorization: SignedAuthorization | None = None
    pending: SmartPending | None = None
    #: The most that could be configured when the authorization was given, calls a second.
    maximum: int | None = None
    #: What the agent told last, in the record of the state that it tells of.
    notices: NoticeLog = NoticeLog()

    @property
    def used(self) -> bool:
        """Tell whether this device has ever had to do with smart licensing."""
        return self != SmartRecord(notices=self.notices)

    def without_registration(self, agent: SmartAgent) -> SmartRecord:
        """Return the record with all that a registration brought dropped."""
        return SmartRecord(agent=agent, clean=self.clean, notices=self.notices)


def dates_of(given: wire.IdCertificate) -> Certificate:
    """Return the dates of an ID certificate as the agent holds them."""
    return Certificate(
        not_before=given.not_before, renew_at=given.renew_at, not_after=given.not_after
    )


def authorization_of(given: wire.Authorization) -> Authorization:
    """Return an authorization as the agent holds it."""
    return Authorization(
        version=given.version,
        issued_at=given.issued_at,
        renew_at=given.renew_at,
        expires_at=given.expires_at,
        out_of_compliance_since=given.out_of_compliance_since,
        purchased=given.purchased,
        in_use=given.in_use,
    )


def check_smart(record: SmartRecord, serial: str) -> None:
    """Verify what is signed of `record`; raises FlashError `flash_altered`."""
    agent = record.agent
    try:
        if record.anchor:
            KeyRing.open(record.anchor, record.key_set)
        signed = record.authorization
        if signed is None:
            if agent.authorization is not None:
                raise FlashError("flash_altered", "an authorization without its signature.")
            return
        ring = KeyRing.open(record.anchor, signed.key_set)
        said = read(unverified(signed.reply), wire.AuthorizeReply)
        reply = read(
            verify(signed.reply, wire.SMART_REPLY, lambda kid: ring.key_for(kid, said.time)),
            wire.AuthorizeReply,
        )
        if reply.serial != serial or authorization_of(reply.authorization) != agent.authorization:
            raise FlashError("flash_altered", "an authorization that is not the signed one.")
    except CallpoolError as error:
        raise FlashError(
            "flash_altered", f"The flash does not hold what was signed: {error.sentence}"
        ) from error
