"""An agent on virtual time with a model of its authority, driven step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from callpool.licensing.instant import HighWaterMark, Instant
from callpool.licensing.smart import Event, Registration, State
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import (
    Asking,
    Authorization,
    Certificate,
    Contact,
    Happened,
    Moment,
    Occurrence,
    Output,
)
from callpool.licensing.smart_timers import DAY, HAIR, HOUR

START = 1_800_000_000.0


class Stage:
    """One agent; `elapsed` seconds have truly passed, the wall clock is `off` by some."""

    def __init__(self, count: int = 100) -> None:
        self.agent = SmartAgent(count=count)
        self.elapsed, self.off, self.boot = 0.0, 0.0, 1
        self.mark = HighWaterMark.first(self.instant())
        self.happened: list[Happened] = []
        self.times: list[tuple[float, Event]] = []
        self.asked: list[tuple[float, Asking]] = []
        self.version = 0
        #: Answers a contact at once; None leaves it open.
        self.cloud: Callable[[Asking], Occurrence | None] = self.good

    def instant(self) -> Instant:
        wall = START + self.elapsed + self.off
        return Instant(wall=wall, boottime=self.elapsed, boot_id=str(self.boot))

    def now(self) -> Moment:
        return Moment.of(self.mark, self.instant())

    @property
    def true(self) -> float:
        return START + self.elapsed

    def state(self) -> State:
        return self.agent.state

    def registration(self) -> Registration:
        return self.agent.registration

    def grace_since(self) -> float | None:
        return self.agent.out_of_range_since

    # -- the authority

    def good(self, asking: Asking) -> Occurrence:
        if asking.contact is Contact.DEREGISTER:
            return Occurrence(Event.DEREGISTERED, number=asking.number)
        if asking.contact is Contact.AUTHORIZE:
            return self.judged(asking, good=True)
        event = Event.REGISTERED if asking.contact is Contact.REGISTER else Event.ID_RENEWED
        return Occurrence(event, number=asking.number, certificate=self.dates())

    def dates(self) -> Certificate:
        now = self.true
        return Certificate(not_before=now, renew_at=now + 180 * DAY, not_after=now + 365 * DAY)

    def judged(self, asking: Asking, *, good: bool) -> Occurrence:
        self.version += 1
        return Occurrence(
            Event.IN_COMPLIANCE if good else Event.ANSWERED_OUT_OF_COMPLIANCE,
            number=asking.number,
            authorization=Authorization(
                version=self.version,
                issued_at=self.true,
                renew_at=self.true + (30 * DAY if good else 12 * HOUR),
                expires_at=self.true + 90 * DAY,
            ),
        )

    def out_of_compliance(self, asking: Asking) -> Occurrence:
        if asking.contact is Contact.AUTHORIZE:
            return self.judged(asking, good=False)
        return self.good(asking)

    @staticmethod
    def down(asking: Asking) -> Occurrence:
        failed = {
            Contact.REGISTER: Event.REGISTER_FAILED,
            Contact.AUTHORIZE: Event.AUTH_FAILED,
            Contact.RENEW_ID: Event.ID_RENEW_FAILED,
            Contact.DEREGISTER: Event.DEREGISTER_FAILED,
        }[asking.contact]
        return Occurrence(failed, number=asking.number, code="unreachable", sentence="Cut.")

    def refusing(self, asking: Asking) -> Occurrence:
        said = replace(self.down(asking), refused=True, code="refused", sentence="No.")
        return replace(said, event=Event.AUTH_REFUSED) if said.event is Event.AUTH_FAILED else said

    # -- driving

    def tell(self, event: Event, **fields: object) -> None:
        """Give the agent an event, then do what is due at once."""
        self.give(Occurrence(event, **fields))  # type: ignore[arg-type]
        self.go(0.0)

    def give(self, occurrence: Occurrence) -> None:
        mark = self.mark
        if occurrence.certificate or occurrence.authorization:
            mark = mark.signed(self.true, self.instant())
        result = self.agent.receive(occurrence, Moment.of(mark, self.instant()))
        self.mark = mark  # an answer that is refused is not believed about the time either
        self._take(result)

    def _take(self, result: tuple[SmartAgent, tuple[Output, ...]]) -> None:
        self.agent, outputs = result
        for output in outputs:
            if isinstance(output, Happened):
                self.happened.append(output)
                self.times.append((self.elapsed, output.event))
            else:
                self.asked.append((self.elapsed, output))
                answer = self.cloud(output)
                if answer is not None:
                    self.give(answer)

    def look(self) -> None:
        """Let the agent look at the clocks once."""
        self._take(self.agent.handle_timer(self.now()))

    def go(self, seconds: float) -> None:
        """Let `seconds` pass, doing all that comes due on the way."""
        end = self.elapsed + seconds
        for _ in range(100_000):
            due = self.agent.next_timer()
            if due is None:
                break
            at = self.elapsed + max(0.0, due - self.now().time)
            if at > end + HAIR:
                break
            self.elapsed = max(self.elapsed, min(at, end))
            self.look()
        else:
            raise AssertionError("the agent never comes to rest")
        self.elapsed = max(self.elapsed, end)

    def restart(self, *, clean: bool = True, new_boot: bool = True, written: bool = True) -> None:
        """Restart; without `written` nothing was written since the last event."""
        if written and (clean or new_boot):
            self.agent = self.agent.settled(self.now())
        self.mark = self.mark.advance(self.instant())
        self.boot += new_boot
        self.mark = self.mark.advance(self.instant())
        self.give(Occurrence(Event.RESTART, clean=clean))
        self.go(0.0)

    # -- shortcuts

    def registered(self) -> Stage:
        """Enable and register, with the authority answering no authorization."""
        cloud, self.cloud = self.cloud, self.good
        self.tell(Event.ENABLE)
        self.cloud = lambda a: self.down(a) if a.contact is Contact.AUTHORIZE else self.good(a)
        self.tell(Event.REGISTER)
        self.cloud = cloud
        return self

    def authorized(self) -> Stage:
        """Enable, register and authorize."""
        cloud, self.cloud = self.cloud, self.good
        self.tell(Event.ENABLE)
        self.tell(Event.REGISTER)
        self.cloud = cloud
        return self
