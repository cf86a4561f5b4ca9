"""The Smart Agent as a value: events and time in, a new agent and what to do out. No I/O.

`receive(event, now)` takes what happened, `next_timer()` says when something is due by itself
(trusted time), `handle_timer(now)` does the one thing that is due first. Each returns a new
agent and its outputs; an event that is illegal raises and changes nothing.

Three readings of time are told apart (`Moment`): deadlines run on trusted time, evaluation on
elapsed time only, and the ID certificate's dates are held against the wall clock, which has
an hour of grace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from callpool.licensing.errors import TrustError
from callpool.licensing.smart import (
    AUTHORIZATION_HELD,
    ENFORCEMENT,
    EVALUATING,
    Enforcement,
    Event,
    Registration,
    State,
    When,
    following,
)
from callpool.licensing.smart_effects import EFFECTS
from callpool.licensing.smart_events import (
    ANSWERS,
    GOOD,
    OWN,
    UNANSWERED,
    Asked,
    Asking,
    Authorization,
    Certificate,
    Contact,
    Happened,
    IllegalEventError,
    Moment,
    Occurrence,
    Output,
    Tries,
    illegal,
)
from callpool.licensing.smart_timers import (
    ANSWER_LIMIT,
    CERTIFICATE_VALID,
    CLOCK_EQUAL,
    CLOCK_GRACE,
    EVALUATION,
    EVALUATION_RESERVE,
    HAIR,
    REFUSAL_LIMIT,
    next_certificate_warning,
    next_warning,
)


class SmartAgent(msgspec.Struct, frozen=True, kw_only=True):
    """One device's Smart Agent. Times are trusted time, seconds since 1970."""

    state: State = State.UNCONFIGURED
    #: The state that calls follow while `state` is transient.
    before: State = State.UNCONFIGURED
    #: Leaving because licensing is being turned off.
    disabling: bool = False
    #: The configured count, calls a second.
    count: int = 0
    #: Seconds of evaluation left at `as_of`: nothing ever adds to it.
    eval_left: float = EVALUATION
    #: The least seconds left that were warned of.
    warned: float = EVALUATION
    #: The last moment that was taken into account.
    as_of: Moment | None = None
    #: The ID certificate's dates; None while not registered.
    certificate: Certificate | None = None
    #: The least seconds left of it that were warned of.
    certificate_warned: float = CERTIFICATE_VALID
    #: Since when the wall clock has been outside them.
    out_of_range_since: float | None = None
    #: The last authorization, in compliance or not.
    authorization: Authorization | None = None
    #: The highest version of an authorization ever taken.
    seen_version: int = 0
    #: When the next contact of each kind is due.
    register_at: float | None = None
    authorize_at: float | None = None
    renew_id_at: float | None = None
    #: Why the next authorization is asked for.
    reason: str = ""
    #: Since when registrations, and authorizations, have failed without a success.
    register_failing_since: float | None = None
    failing_since: float | None = None
    #: The authority refused the registration for good.
    register_failed: bool = False
    #: Signed refusals in a row.
    refusals: int = 0
    #: Since when the authority has not been reached.
    unreachable_since: float | None = None
    #: The contact under way, and the number of the last one.
    asked: Asked | None = None
    number: int = 0
    #: Ask for an authorization again as soon as the one under way is answered.
    again: bool = False
    #: The last contact, and the last that brought what it asked for.
    last_attempt: float | None = None
    last_success: float | None = None
    #: The code and sentence of the last failure, empty after a success.
    failure_code: str = ""
    failure: str = ""
    #: The last contact of each kind; what a registration asked for goes with it.
    tries: Tries = Tries()
    #: When the evaluation ended, and when OutOfCompliance was entered; None where neither is so.
    eval_ended_at: float | None = None
    out_of_compliance_at: float | None = None

    # -- reading

    @property
    def effective(self) -> State:
        """The state that calls and notifications follow."""
        return self.before if self.state is State.TRANSIENT else self.state

    @property
    def enabled(self) -> bool:
        """Whether smart licensing is turned on."""
        return self.state is not State.UNCONFIGURED

    @property
    def registered(self) -> bool:
        """Whether an ID certificate is held."""
        return self.certificate is not None

    @property
    def evaluating(self) -> bool:
        """Whether evaluation seconds are being used up: enabled, in use, not authorized."""
        return self.count > 0 and self.effective in EVALUATING

    @property
    def listening(self) -> bool:
        """Notification listen mode: calls are admitted, notifications tell of the failure.

        In OutOfCompliance, in AuthorizationExpired, and in Authorized while renewals fail (S).
        """
        state = self.effective
        return state in (State.OUT_OF_COMPLIANCE, State.AUTHORIZATION_EXPIRED) or (
            state is State.AUTHORIZED and self.failing_since is not None
        )

    @property
    def enforcement(self) -> Enforcement:
        """The enforcement mode shown beside the state."""
        state = self.effective
        return Enforcement.INIT if self.count == 0 and state in EVALUATING else ENFORCEMENT[state]

    @property
    def registration(self) -> Registration:
        """How the registration stands."""
        if self.asked is not None and self.asked.contact is Contact.REGISTER:
            return Registration.IN_PROGRESS
        if self.register_at is not None:
            failing = self.register_failing_since is not None
            return Registration.RETRY if failing else Registration.IN_PROGRESS
        if self.certificate is not None:
            return Registration.COMPLETE
        return Registration.FAILED if self.register_failed else Registration.NOT_REGISTERED

    @property
    def next_contact(self) -> float | None:
        """When the next contact is due (trusted time), None for none."""
        if self.state is State.TRANSIENT:
            return self.as_of.time if self.as_of and self.asked is None else None
        return min(
            (t for t in (self.register_at, self.authorize_at, self.renew_id_at) if t is not None),
            default=None,
        )

    @property
    def certificate_end(self) -> float | None:
        """When the registration ends by itself: the certificate's end, or that of the grace."""
        if self.certificate is None:
            return None
        if self.out_of_range_since is None:
            return self.certificate.not_after
        grace = self.out_of_range_since + CLOCK_GRACE
        late = self.out_of_range_since >= self.certificate.not_after
        return grace if late else min(self.certificate.not_after, grace)

    @property
    def certificate_warning(self) -> float | None:
        """When to warn next that the ID certificate ends: only while its renewal fails (D)."""
        at, last = next_certificate_warning(self.certificate_warned), self.tries.renew_id
        if self.certificate is None or at is None or last is None or last.good is not False:
            return None
        return self.certificate.not_after - at

    @property
    def authorization_end(self) -> float | None:
        """When the authorization ends by itself, None where none is in force."""
        held = self.effective in AUTHORIZATION_HELD and self.authorization is not None
        return self.authorization.expires_at if held and self.authorization else None

    def left(self, now: Moment) -> float:
        """Return the seconds of evaluation left at `now`; elapsed time alone uses them up."""
        seen = self.as_of
        if not self.evaluating or seen is None or seen.boot_id != now.boot_id:
            return self.eval_left
        left = self.eval_left - max(0.0, now.boottime - seen.boottime)
        return left if left > HAIR else 0.0

    # -- timers

    def next_timer(self) -> float | None:
        """Return when something is due by itself (trusted time), None for never."""
        when = self._due()
        return None if when is None else when[0]

    def _due(self) -> tuple[float, Event | Contact | None] | None:
        """Return what is due first: an event of time, a contact, or None for a lost answer."""
        first: tuple[float, Event | Contact | None] = (math.inf, None)
        if self.evaluating and self.as_of is not None:
            now = self.as_of.time
            warning = next_warning(self.warned)
            if self.state in EVALUATING and warning is not None:
                first = (now + self.eval_left - warning, Event.EVAL_WARNING)
            elif self.state in EVALUATING:
                first = (now + self.eval_left, Event.EVAL_ENDED)
        end = self.authorization_end
        if end is not None and end < first[0] and self.state is not State.TRANSIENT:
            first = (end, Event.AUTHORIZATION_ENDED)
        for end, event in (
            (self.certificate_end, Event.CERTIFICATE_ENDED),
            (self.certificate_warning, Event.CERTIFICATE_WARNING),
        ):
            if end is not None and end < first[0] and self.state is not State.TRANSIENT:
                first = (end, event)
        if self.asked is not None:
            lost = self.asked.at + ANSWER_LIMIT
            return (lost, None) if lost < first[0] else first
        if self.state is State.TRANSIENT:
            return (-math.inf, Contact.DEREGISTER)
        for at, contact in (
            (self.register_at, Contact.REGISTER),
            (self.authorize_at, Contact.AUTHORIZE),
            (self.renew_id_at, Contact.RENEW_ID),
        ):
            if at is not None and at < first[0]:
                first = (at, contact)
        return None if math.isinf(first[0]) else first

    def handle_timer(self, now: Moment) -> tuple[SmartAgent, tuple[Output, ...]]:
        """Do the one thing that is due first at `now`; call again while `next_timer` is past.

        Also looks at the wall clock: call it whenever that may have jumped.
        """
        agent = self.settled(now)
        event = agent._clock_event(now)
        if event is None and agent.evaluating and agent.state in EVALUATING:
            warning = next_warning(agent.warned)
            if agent.eval_left <= 0.0:
                event = Event.EVAL_ENDED
            elif warning is not None and agent.eval_left <= warning + HAIR:
                event = Event.EVAL_WARNING
        if event is not None:
            return agent._apply(Occurrence(event), now)
        due = agent._due()
        if due is None or due[0] > now.time + HAIR:
            return agent, ()
        match due[1]:
            case Contact() as contact:
                return agent._ask(contact, now)
            case None:
                asked = agent.asked
                if asked is None:  # pragma: no cover - `_due` returns None for an asked one only
                    return agent, ()
                return agent._apply(
                    Occurrence(
                        UNANSWERED[asked.contact],
                        number=asked.number,
                        code="no_answer",
                        sentence="The authority did not answer in time.",
                    ),
                    now,
                )
            case Event() as event:
                return agent._apply(Occurrence(event), now)

    def _clock_event(self, now: Moment) -> Event | None:
        """Tell whether the wall clock has left the certificate's dates, or come back."""
        dates = self.certificate
        if dates is None or self.state is State.TRANSIENT:
            return None
        if now.certain >= dates.not_after - CLOCK_EQUAL and now.time >= dates.not_after:
            return Event.CERTIFICATE_ENDED
        inside = (
            dates.not_before - CLOCK_EQUAL <= now.wall < dates.not_after + CLOCK_EQUAL
            and now.time < dates.not_after
        )
        since = self.out_of_range_since
        if since is None:
            return None if inside else Event.CLOCK_OUT_OF_RANGE
        if inside:
            return Event.CLOCK_IN_RANGE
        return Event.CERTIFICATE_ENDED if now.time >= since + CLOCK_GRACE else None

    def settled(self, now: Moment) -> SmartAgent:
        """Charge the evaluation seconds that have run until `now`: what is to be written."""
        return replace(self, eval_left=self.left(now), as_of=now)

    def _ask(self, contact: Contact, now: Moment) -> tuple[SmartAgent, tuple[Output, ...]]:
        number = self.number + 1
        reason = (self.reason or "renew") if contact is Contact.AUTHORIZE else contact.value
        asked = Asked(contact=contact, number=number, at=now.time, reason=reason)
        agent = replace(
            self,
            asked=asked,
            number=number,
            last_attempt=now.time,
            again=False,
            tries=self.tries.begun(contact, now.time),
        )
        return agent, (Asking(contact=contact, number=number, reason=reason),)

    # -- events

    def receive(self, occurrence: Occurrence, now: Moment) -> tuple[SmartAgent, tuple[Output, ...]]:
        """Take one occurrence at `now`; contacts that it calls for come from `handle_timer`.

        Raises IllegalEventError (`not_registered`, `already_registered`, `smart_not_enabled`,
        `already_enabled`, `registration_in_progress`, `smart_busy`, `stale_answer`,
        `illegal_event`) or TrustError `older_authorization`; nothing has changed then.
        """
        event = occurrence.event
        if event in OWN:
            raise IllegalEventError("illegal_event", f"{event} comes from the agent alone.")
        if event is Event.RESTART:
            return self._restarted(occurrence, now)
        return self.settled(now)._apply(occurrence, now)

    def _apply(self, occurrence: Occurrence, now: Moment) -> tuple[SmartAgent, tuple[Output, ...]]:
        """Take the row of the table for `occurrence`, then do what the event brings."""
        event = occurrence.event
        rule = following(self.state, event, self._holds(occurrence))
        if rule is None:
            raise illegal(self.state, event)
        self._check(occurrence)
        agent = self._answered(occurrence, now)
        agent = EFFECTS[event](agent, rule, occurrence, now)
        agent = replace(agent, state=rule.target)
        if rule.target is State.TRANSIENT and self.state is not State.TRANSIENT:
            agent = replace(agent, before=self.state)
        since = self.out_of_compliance_at
        out = agent.effective is State.OUT_OF_COMPLIANCE
        agent = replace(agent, out_of_compliance_at=(since or now.time) if out else None)
        happened = Happened(
            event=event,
            before=self.effective,
            after=agent.effective,
            code=occurrence.code,
            sentence=occurrence.sentence,
            listening=(self.listening, agent.listening),
            reachable=(self.unreachable_since is None, agent.unreachable_since is None),
            enforcement=(self.enforcement, agent.enforcement),
            unsent=occurrence.unsent,
        )
        too_often = event is Event.AUTH_REFUSED and agent.refusals >= REFUSAL_LIMIT
        if too_often and agent.state is State.AUTHORIZED:
            agent, more = agent._apply(Occurrence(Event.REFUSED_TOO_OFTEN), now)
            return agent, (happened, *more)
        return agent, (happened,)

    def _holds(self, occurrence: Occurrence) -> Mapping[When, bool]:
        held = self.certificate is not None
        return {
            When.IDENTIFIED: held,
            When.NOT_IDENTIFIED: not held,
            When.FORCED: held and occurrence.force,
            When.SECONDS_LEFT: self.eval_left > 0.0,
            When.SPENT: self.eval_left <= 0.0,
            When.DISABLING: self.disabling,
        }

    def _check(self, occurrence: Occurrence) -> None:
        """Refuse what does not fit beside the table; raises as `receive`."""
        event = occurrence.event
        contact = ANSWERS.get(event)
        if contact is not None:
            asked = self.asked
            if asked is None or (asked.contact, asked.number) != (contact, occurrence.number):
                raise IllegalEventError(
                    "stale_answer", "The answer is to a contact that is not under way any more."
                )
        first_try = self.register_at is not None and self.register_failing_since is None
        if event is Event.REGISTER and not occurrence.force and first_try:
            raise IllegalEventError(
                "registration_in_progress",
                "A registration is under way already; use --force to begin anew.",
            )
        given = occurrence.authorization
        if given is not None and given.version <= self.seen_version:
            raise TrustError(
                "older_authorization",
                f"Authorization {given.version} is not newer than {self.seen_version}; "
                "it was refused.",
            )

    def _answered(self, occurrence: Occurrence, now: Moment) -> SmartAgent:
        """Note what every answer, or its lack, means for the connection."""
        contact = ANSWERS.get(occurrence.event)
        if contact is None:
            return self
        good = occurrence.event in GOOD
        tries = self.tries.ended(
            contact, good=good, code=occurrence.code, sentence=occurrence.sentence
        )
        if good:
            return replace(
                self,
                asked=None,
                tries=tries,
                unreachable_since=None,
                last_success=now.time,
                failure_code="",
                failure="",
            )
        since = self.unreachable_since
        if not occurrence.unsent:
            since = None if occurrence.refused else (now.time if since is None else since)
        return replace(
            self,
            asked=None,
            tries=tries,
            unreachable_since=since,
            failure_code=occurrence.code,
            failure=occurrence.sentence,
        )

    def _restarted(
        self, occurrence: Occurrence, now: Moment
    ) -> tuple[SmartAgent, tuple[Output, ...]]:
        """Begin a new run: a contact that was under way is made again.

        After a clean stop nothing is charged. After a crash the time since the last write is,
        and after a power cut (another boot) the most that may have passed since then.
        """
        left = self.eval_left
        if self.evaluating and not occurrence.clean:
            same = self.as_of is not None and self.as_of.boot_id == now.boot_id
            left = self.left(now) if same else max(0.0, left - EVALUATION_RESERVE)
        # What was asked for is still due: it is asked for again.
        agent = replace(self, eval_left=left, as_of=now, asked=None)
        return agent._apply(occurrence, now)
