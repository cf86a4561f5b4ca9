"""What goes into a Smart Agent and what comes out of it: small values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from callpool.licensing.errors import LicenseError
from callpool.licensing.instant import HighWaterMark, Instant
from callpool.licensing.smart import Event, State


class Contact(StrEnum):
    """The kinds of contact with the authority."""

    REGISTER = "register"
    AUTHORIZE = "authorize"
    RENEW_ID = "renew_id"
    DEREGISTER = "deregister"


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One instant as the agent needs it."""

    #: Trusted time, seconds since 1970: deadlines.
    time: float
    #: What the wall clock shows, seconds since 1970.
    wall: float
    #: Seconds since the machine started: elapsed time.
    boottime: float
    #: Names the boot that `boottime` counts from.
    boot_id: str
    #: Trusted time without what only this boot's wall clock says.
    certain: float

    @classmethod
    def of(cls, mark: HighWaterMark, now: Instant) -> Moment:
        """Return the moment of one reading of the clocks."""
        moved = mark.advance(now)
        return cls(
            time=moved.mark + moved.lead,
            wall=now.wall,
            boottime=now.boottime,
            boot_id=now.boot_id,
            certain=moved.mark,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A contact that is under way."""

    contact: Contact
    number: int
    #: Trusted time at which it began.
    at: float
    reason: str


class IllegalEventError(LicenseError):
    """The event is not legal in this state; nothing has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The absolute dates of an ID certificate, seconds since 1970, as the authority gave them."""

    not_before: float
    #: Renewed from this time on.
    renew_at: float
    #: No longer good from this time on.
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """The authority's word on the configured count; times absolute, seconds since 1970."""

    #: Only rises.
    version: int
    issued_at: float
    #: The agent asks again from this time on.
    renew_at: float
    #: Ended from this time on.
    expires_at: float
    #: Since when the account has been out of compliance, 0.0 where it is not.
    out_of_compliance_since: float = 0.0
    #: In the account: purchased and in date, and the sum of configured counts.
    purchased: int = 0
    in_use: int = 0


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One event with what it brings; which fields count depends on the event."""

    event: Event
    #: The contact that an answer belongs to.
    number: int = 0
    #: SET_COUNT: the configured count, calls a second.
    count: int | None = None
    #: REGISTER: though registered.
    force: bool = False
    #: REGISTERED, ID_RENEWED.
    certificate: Certificate | None = None
    #: IN_COMPLIANCE, ANSWERED_OUT_OF_COMPLIANCE.
    authorization: Authorization | None = None
    #: A failure's stable code and its sentence.
    code: str = ""
    sentence: str = ""
    #: The failure is the authority's own signed word: it has been reached.
    refused: bool = False
    #: REGISTER_FAILED: trying again with the same token is of no use.
    final: bool = False
    #: Seconds that the authority asked to wait at least.
    retry_after: float = 0.0
    #: RESTART: the run before wrote its state as it ended.
    clean: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Output: make this contact, and answer with its number."""

    contact: Contact
    number: int
    #: Why: first, renew, recheck, retry, count, hint, operator.
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """Output: an event was taken; what it changed, for logs and notifications."""

    event: Event
    #: The states that calls follow, before and after.
    before: State
    after: State
    code: str = ""
    sentence: str = ""
    #: Notification listen mode, before and after.
    listening: tuple[bool, bool] = (False, False)
    #: Whether the authority counts as reachable, before and after.
    reachable: tuple[bool, bool] = (True, True)


Output = Asking | Happened
