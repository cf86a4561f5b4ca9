"""What goes into a Smart Agent and what comes out of it: small values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from callpool.licensing.errors import LicenseError
from callpool.licensing.instant import HighWaterMark, Instant
from callpool.licensing.smart import Enforcement, Event, State


class Contact(StrEnum):
    """The kinds of contact with the authority."""

    REGISTER = "register"
    AUTHORIZE = "authorize"
    RENEW_ID = "renew_id"
    DEREGISTER = "deregister"


#: Which answers belong to which contact.
ANSWERS: Final[Mapping[Event, Contact]] = {
    Event.REGISTERED: Contact.REGISTER,
    Event.REGISTER_FAILED: Contact.REGISTER,
    Event.IN_COMPLIANCE: Contact.AUTHORIZE,
    Event.ANSWERED_OUT_OF_COMPLIANCE: Contact.AUTHORIZE,
    Event.AUTH_FAILED: Contact.AUTHORIZE,
    Event.AUTH_REFUSED: Contact.AUTHORIZE,
    Event.ID_RENEWED: Contact.RENEW_ID,
    Event.ID_RENEW_FAILED: Contact.RENEW_ID,
    Event.DEREGISTERED: Contact.DEREGISTER,
    Event.DEREGISTER_FAILED: Contact.DEREGISTER,
}

#: What a contact that is never answered comes to.
UNANSWERED: Final[Mapping[Contact, Event]] = {
    Contact.REGISTER: Event.REGISTER_FAILED,
    Contact.AUTHORIZE: Event.AUTH_FAILED,
    Contact.RENEW_ID: Event.ID_RENEW_FAILED,
    Contact.DEREGISTER: Event.DEREGISTER_FAILED,
}

#: Answers that carry what was asked for.
GOOD: Final = frozenset(
    {
        Event.REGISTERED,
        Event.IN_COMPLIANCE,
        Event.ANSWERED_OUT_OF_COMPLIANCE,
        Event.ID_RENEWED,
        Event.DEREGISTERED,
    }
)

#: Events that the agent makes itself: nobody may send them.
OWN: Final = frozenset(
    {
        Event.REFUSED_TOO_OFTEN,
        Event.EVAL_WARNING,
        Event.EVAL_ENDED,
        Event.AUTHORIZATION_ENDED,
        Event.CERTIFICATE_WARNING,
        Event.CERTIFICATE_ENDED,
        Event.CLOCK_OUT_OF_RANGE,
        Event.CLOCK_IN_RANGE,
    }
)


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


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """The last contact of one kind."""

    #: Trusted time at which it began.
    at: float
    #: Whether the last one that came to an end brought what it asked for; None before the first.
    good: bool | None = None
    #: The failure's code and sentence, empty for a success.
    code: str = ""
    sentence: str = ""


class Tries(msgspec.Struct, frozen=True, kw_only=True):
    """The last contact of each kind, None where there was none; named as in `Contact`."""

    register: Try | None = None
    authorize: Try | None = None
    renew_id: Try | None = None
    deregister: Try | None = None

    def of(self, contact: Contact) -> Try | None:
        """Return the last contact of a kind."""
        found: Try | None = getattr(self, contact.value)
        return found

    def begun(self, contact: Contact, at: float) -> Tries:
        """Return it with a contact begun at trusted time `at`; how the last one ended stays."""
        before = self.of(contact) or Try(at=at)
        return replace(self, **{contact.value: replace(before, at=at)})

    def ended(self, contact: Contact, *, good: bool, code: str, sentence: str) -> Tries:
        """Return it with the contact under way brought to its end."""
        before = self.of(contact)
        if before is None:  # begun by a release that did not keep this
            return self
        after = replace(
            before, good=good, code="" if good else code, sentence="" if good else sentence
        )
        return replace(self, **{contact.value: after})


class IllegalEventError(LicenseError):
    """The event is not legal in this state; nothing has changed."""


def illegal(state: State, event: Event) -> IllegalEventError:
    """Return the error that tells what to do instead of `event` in `state`."""
    if state is State.TRANSIENT:
        return IllegalEventError(
            "smart_busy", "The device is just leaving the authority; try again in a moment."
        )
    if event is Event.ENABLE:
        return IllegalEventError("already_enabled", "Smart licensing is on already.")
    if state is State.UNCONFIGURED:
        return IllegalEventError(
            "smart_not_enabled", "Smart licensing is off: use `callpool device smart enable` first."
        )
    if event is Event.REGISTER:
        return IllegalEventError(
            "already_registered",
            "The device is registered already; use --force to register it anew.",
        )
    if event in (Event.DEREGISTER, Event.RENEW_AUTH, Event.RENEW_ID, Event.HINT):
        return IllegalEventError(
            "not_registered", "The device is not registered; register it with a token first."
        )
    return IllegalEventError("illegal_event", f"{event} is not possible in {state}.")


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
    #: The contact failed before anything was sent.
    unsent: bool = False
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
    #: The enforcement mode, before and after.
    enforcement: tuple[Enforcement, Enforcement] = (Enforcement.INIT, Enforcement.INIT)
    #: A contact failed before anything was sent.
    unsent: bool = False


Output = Asking | Happened
