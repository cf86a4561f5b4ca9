"""One smart device on virtual time: the real agent, a model of its cloud, a script.

What is real is `licensing/`: the agent, its timers, its call policies, trusted time. What is
modelled is the rest of the world: a cloud that is up, down or refusing, that judges the sum of
configured counts against what is purchased, and that pushes a change of that judgement; a wall
clock that may jump; restarts that take no time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec.structs import replace

from callpool.licensing.errors import LicenseError
from callpool.licensing.instant import HighWaterMark, Instant
from callpool.licensing.smart import Event
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import (
    UNANSWERED,
    Asking,
    Authorization,
    Certificate,
    Contact,
    Happened,
    Moment,
    Occurrence,
    Output,
)
from callpool.licensing.smart_policy import admits, listens
from callpool.licensing.smart_timers import (
    AUTHORIZATION_RENEWAL,
    AUTHORIZATION_VALID,
    CERTIFICATE_RENEWAL,
    CERTIFICATE_VALID,
    CLOCK_EQUAL,
    DAY,
    HAIR,
    RECHECK,
)
from callpool.simulate import script as sc

#: The true time at the start, seconds since 1970; any other would do.
START: Final = 1_800_000_000.0
#: Events of the agent that are told though no call and no state changes.
_TOLD: Final = frozenset({Event.CLOCK_OUT_OF_RANGE, Event.CLOCK_IN_RANGE})


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One change, as `callpool simulate smart --json` prints it."""

    #: True elapsed time since the start, in seconds.
    at_seconds: float
    #: One of the seven states, after the change.
    state: str
    #: allow or reject.
    calls: str
    #: Notification listen mode.
    listening: bool
    #: What happened: a script's event or an event of the agent; a refused event names why.
    cause: str
    #: Whether this line records a contact attempt.
    contact: bool
    #: Seconds from this line to the next contact, None where none is planned.
    next_contact_seconds: float | None
    eval_seconds_left: float


class Cloud:
    """A model of the authority and its account."""

    def __init__(self, purchased: int) -> None:
        """Make a cloud that is up."""
        self.purchased, self.others = purchased, 0
        self.up, self.refuse = True, 0
        self._version = 0
        #: The judgement that the device was told last, None before any.
        self.told: bool | None = None

    def complies(self, count: int) -> bool:
        """Tell whether the sum of configured counts is within what is purchased."""
        return count + self.others <= self.purchased

    def answer(self, asking: Asking, count: int, now: float) -> Occurrence:
        """Return what becomes of a contact at true time `now` (seconds since 1970)."""
        contact, number = asking.contact, asking.number
        if not self.up:
            return Occurrence(
                UNANSWERED[contact],
                number=number,
                code="authority_unreachable",
                sentence="The authority cannot be reached.",
            )
        if self.refuse:
            self.refuse -= 1
            refused = contact is Contact.AUTHORIZE
            return Occurrence(
                Event.AUTH_REFUSED if refused else UNANSWERED[contact],
                number=number,
                code="refused",
                sentence="The authority refused.",
                refused=True,
            )
        if contact is Contact.DEREGISTER:
            self.told = None
            return Occurrence(Event.DEREGISTERED, number=number)
        if contact is not Contact.AUTHORIZE:
            event = Event.REGISTERED if contact is Contact.REGISTER else Event.ID_RENEWED
            dates = Certificate(
                not_before=now,
                renew_at=now + CERTIFICATE_RENEWAL,
                not_after=now + CERTIFICATE_VALID,
            )
            return Occurrence(event, number=number, certificate=dates)
        self._version += 1
        self.told = good = self.complies(count)
        return Occurrence(
            Event.IN_COMPLIANCE if good else Event.ANSWERED_OUT_OF_COMPLIANCE,
            number=number,
            authorization=Authorization(
                version=self._version,
                issued_at=now,
                renew_at=now + (AUTHORIZATION_RENEWAL if good else RECHECK),
                expires_at=now + AUTHORIZATION_VALID,
                out_of_compliance_since=0.0 if good else now,
                purchased=self.purchased,
                in_use=count + self.others,
            ),
        )


class Simulation:
    """One run of one script."""

    def __init__(self, script: sc.Script) -> None:
        """Set the stage; nothing has happened yet."""
        self.script = script
        self.agent = SmartAgent(count=script.configured)
        self.cloud = Cloud(script.purchased)
        #: True seconds since the start, and by how much the wall clock is off.
        self.elapsed, self.off = 0.0, 0.0
        self._boot = 1
        self._mark = HighWaterMark.first(self._instant())

    def _instant(self) -> Instant:
        return Instant(
            wall=START + self.elapsed + self.off, boottime=self.elapsed, boot_id=str(self._boot)
        )

    def now(self) -> Moment:
        """Return the device's own reading of this instant."""
        return Moment.of(self._mark, self._instant())

    def run(self) -> Iterator[Line]:
        """Run the script from its start to its end; one line a change, in order of time."""
        start, lines = self._line("start"), self._lines()
        first = next(lines, None)
        if first is None or first.at_seconds > 0.0:
            yield start
        if first is not None:
            yield first
        yield from lines

    def _lines(self) -> Iterator[Line]:
        for event in self.script.in_order():
            yield from self._pass(event.at_days * DAY, last=False)
            yield from self._do(event)
        yield from self._pass(self.script.until_days * DAY, last=True)

    # -- time

    def _pass(self, end: float, *, last: bool) -> Iterator[Line]:
        """Let time pass up to `end`; what is due at `end` itself happens in the `last` stretch.

        Otherwise the script's event of that instant comes first.
        """
        while True:
            at = self.elapsed + self._wait()
            if at > end + HAIR or (not last and at >= end - HAIR):
                break
            self.elapsed = max(self.elapsed, min(at, end))
            yield from self._timer()
        self.elapsed = max(self.elapsed, end)

    def _wait(self) -> float:
        """Return the seconds until something is due, infinity for never.

        Beside the agent's timers that is the wall clock leaving or entering the certificate's
        dates: a device looks at it all the time.
        """
        agent, now = self.agent, self.now()
        due = agent.next_timer()
        wait = math.inf if due is None else max(0.0, due - now.time)
        dates = agent.certificate
        if dates is not None and self.off:
            away = agent.out_of_range_since is not None
            edge = dates.not_before - CLOCK_EQUAL if away else dates.not_after + CLOCK_EQUAL
            if edge > now.wall:
                wait = min(wait, edge - now.wall)
        return wait

    def _timer(self) -> Iterator[Line]:
        yield from self._took(self.agent.handle_timer(self.now()))

    def _at_once(self) -> Iterator[Line]:
        """Do all that is due at this instant."""
        while True:
            due = self.agent.next_timer()
            if due is None or due > self.now().time + HAIR:
                return
            yield from self._timer()

    def _took(self, result: tuple[SmartAgent, tuple[Output, ...]]) -> Iterator[Line]:
        """Hold the agent's outcome; a contact is answered at once."""
        before, (self.agent, outputs) = self.agent, result
        for output in outputs:
            if isinstance(output, Asking):
                yield from self._contact(output)
            elif output.event in _TOLD or self._seen(before) != self._seen(self.agent):
                yield self._line(output.event.value)

    def _contact(self, asking: Asking) -> Iterator[Line]:
        answer = self.cloud.answer(asking, self.agent.count, START + self.elapsed)
        if answer.certificate or answer.authorization:
            self._mark = self._mark.signed(START + self.elapsed, self._instant())
        self.agent, outputs = self.agent.receive(answer, self.now())
        first = next(o for o in outputs if isinstance(o, Happened))
        last = outputs[-1]
        cause = last.event if isinstance(last, Happened) else first.event
        yield self._line(cause.value, contact=True)

    def _seen(self, agent: SmartAgent) -> tuple[object, ...]:
        return (
            agent.effective,
            admits(agent, self.script.policy),
            listens(agent, self.script.policy),
        )

    # -- the script

    def _do(self, event: sc.AnyStep) -> Iterator[Line]:
        match event:
            case sc.CloudDown():
                self.cloud.up = False
            case sc.CloudUp():
                self.cloud.up = True
            case sc.CloudRefuse(times=times):
                self.cloud.refuse = times
            case sc.Purchase(count=count):
                self.cloud.purchased = count
                self._push()
            case sc.Others(count=count):
                self.cloud.others = count
                self._push()
            case sc.ClockSet(seconds=seconds):
                self._mark = self._mark.advance(self._instant())
                self.off += seconds
                yield from self._timer()
            case sc.Restart():
                # What a clean stop writes.
                self.agent = self.agent.settled(self.now())
                self._mark = self._mark.advance(self._instant())
                self._boot += 1
                self._mark = self._mark.advance(self._instant())
                yield from self._told(Occurrence(Event.RESTART), event.do)
                yield from self._timer()
            case sc.Configure(count=count):
                yield from self._told(Occurrence(Event.SET_COUNT, count=count), event.do)
            case _:
                yield from self._told(Occurrence(Event(event.do)), event.do)
        yield from self._at_once()

    def _told(self, occurrence: Occurrence, cause: str) -> Iterator[Line]:
        """Give the agent an event of the script; what it refuses is told, and changes nothing."""
        before = self.agent
        try:
            self.agent, _ = self.agent.receive(occurrence, self.now())
        except LicenseError as error:
            yield self._line(f"{cause}: {error.code}")
            return
        settled = replace(before, as_of=self.agent.as_of, eval_left=self.agent.eval_left)
        if settled != self.agent:
            yield self._line(cause)

    def _push(self) -> None:
        """Hint at a judgement that has changed, as the authority pushes it while it is up."""
        cloud, agent = self.cloud, self.agent
        changed = cloud.told is not None and cloud.told != cloud.complies(agent.count)
        if cloud.up and changed and agent.registered:
            self.agent, _ = agent.receive(Occurrence(Event.HINT), self.now())

    def _line(self, cause: str, *, contact: bool = False) -> Line:
        agent, now = self.agent, self.now()
        due = agent.next_contact
        return Line(
            at_seconds=round(self.elapsed, 3),
            state=agent.effective.value,
            calls="allow" if admits(agent, self.script.policy) else "reject",
            listening=listens(agent, self.script.policy),
            cause=cause,
            contact=contact,
            next_contact_seconds=None if due is None else round(max(0.0, due - now.time), 3),
            eval_seconds_left=round(agent.left(now), 3),
        )
