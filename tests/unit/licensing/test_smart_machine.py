"""Agent and authority through lost, repeated, delayed and reordered messages, restarts, clocks."""

from __future__ import annotations

import contextlib
import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from smartkit import Stage

from callpool.licensing.errors import CallpoolError
from callpool.licensing.smart import Event, State
from callpool.licensing.smart_events import Asking, Occurrence
from callpool.licensing.smart_policy import CALL_POLICIES, admits, policy
from callpool.licensing.smart_timers import (
    ANSWER_LIMIT,
    CERTIFICATE_RETRY,
    DAY,
    EVALUATION,
    EVALUATION_RESERVE,
    HAIR,
    HOUR,
    MINUTE,
    RECHECK,
    RETRY_LATER,
)

SPANS = st.sampled_from(
    [1.0, MINUTE, 15 * MINUTE, HOUR, 4 * HOUR, 12 * HOUR, DAY, 7 * DAY, 30 * DAY, 90 * DAY]
)
MODES = st.sampled_from(["good", "out", "down", "refuse", "lost", "late"])


class SmartMachine(RuleBasedStateMachine):
    """One agent against a network that does anything but forge."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(count=0)
        self.stage.cloud = self.answer
        self.mode = "good"
        #: Answers that are under way or have been delivered: any may come (again) at any time.
        self.wire: list[Occurrence] = []
        self.least = EVALUATION
        #: Seconds in which evaluation ran, by this test's own reckoning.
        self.ran = 0.0
        self.crashes = 0

    def answer(self, asking: Asking) -> Occurrence | None:
        stage = self.stage
        said = {
            "good": stage.good,
            "out": stage.out_of_compliance,
            "down": stage.down,
            "refuse": stage.refusing,
            "lost": stage.good,
            "late": stage.good,
        }[self.mode](asking)
        self.wire.append(said)
        return None if self.mode in ("lost", "late") else said

    def ask(self, event: Event, **fields: object) -> None:
        with contextlib.suppress(CallpoolError):
            self.stage.tell(event, **fields)

    @rule(mode=MODES)
    def network(self, mode: str) -> None:
        self.mode = mode

    @rule(count=st.sampled_from([0, 5, 100]))
    def configure(self, count: int) -> None:
        self.ask(Event.SET_COUNT, count=count)

    @rule(
        event=st.sampled_from(
            [Event.ENABLE, Event.ENABLE, Event.REGISTER, Event.RENEW_AUTH, Event.RENEW_ID]
        )
    )
    def person(self, event: Event) -> None:
        self.ask(event)

    @rule(event=st.sampled_from([Event.DISABLE, Event.DEREGISTER, Event.HINT]))
    def leave(self, event: Event) -> None:
        self.ask(event)

    @rule()
    def force(self) -> None:
        self.ask(Event.REGISTER, force=True)

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def old_answer(self, data: st.DataObject) -> None:
        said = data.draw(st.sampled_from(self.wire))
        before = self.stage.agent
        try:
            self.stage.give(said)
        except CallpoolError:
            assert self.stage.agent == before, "what is refused changes nothing"

    @rule(seconds=SPANS)
    def wait(self, seconds: float) -> None:
        self.stage.go(seconds)

    @rule(clean=st.booleans(), new_boot=st.booleans())
    def restart(self, clean: bool, new_boot: bool) -> None:
        self.crashes += not clean
        self.stage.restart(clean=clean, new_boot=new_boot)

    @rule(jump=st.sampled_from([-400 * DAY, -HOUR, -30.0, 30.0, HOUR, 400 * DAY]))
    def clock(self, jump: float) -> None:
        self.stage.off += jump
        self.stage.look()

    @rule()
    def clock_mended(self) -> None:
        self.stage.off = 0.0
        self.stage.look()

    @invariant()
    def evaluation_never_grows(self) -> None:
        left = self.stage.agent.left(self.stage.now())
        assert 0.0 <= left <= self.least + HAIR
        self.least = left
        # Nor is it lost faster than time passes and crashes cost.
        spent = EVALUATION - left
        assert spent <= self.stage.elapsed + self.crashes * EVALUATION_RESERVE + HAIR

    @invariant()
    def calls_are_rejected_only_where_the_seed_says_so(self) -> None:
        agent, now = self.stage.agent, self.stage.now()
        rejected = agent.effective in (State.UNCONFIGURED, State.EVAL_EXPIRED)
        assert admits(agent) is not rejected
        step = policy(agent, now).at(now.wall)
        spent = agent.evaluating and agent.left(now) <= HAIR
        assert step.admit is not (rejected or spent)
        if agent.effective is State.EVAL_EXPIRED:
            assert agent.left(now) == 0.0
        for name in CALL_POLICIES:
            assert policy(agent, now, name).steps[-1].until is None
        if agent.listening:
            assert admits(agent)

    @invariant()
    def no_timer_is_lost(self) -> None:
        agent, now = self.stage.agent, self.stage.now()
        due = agent.next_timer()
        wait = math.inf if due is None else due - now.time
        if agent.asked is not None:
            assert wait <= ANSWER_LIMIT + HAIR, "an answer is not waited for without end"
        if agent.evaluating and agent.left(now) > 0:
            assert wait <= agent.left(now) + HAIR
        if agent.state is State.TRANSIENT or agent.registered:
            assert due is not None
        if not agent.registered or agent.asked is not None:
            return
        contact = (agent.next_contact or math.inf) - now.time
        assert agent.renew_id_at is not None
        assert agent.authorize_at is not None
        if agent.state is State.AUTHORIZED:
            assert contact <= 30 * DAY + HAIR
        if agent.state is State.OUT_OF_COMPLIANCE:
            assert contact <= RECHECK + HAIR
        if agent.listening and agent.state is not State.OUT_OF_COMPLIANCE:
            assert contact <= RETRY_LATER + HAIR
        assert agent.certificate is not None
        late = max(CERTIFICATE_RETRY, agent.certificate.not_after - now.time)
        assert agent.renew_id_at - now.time <= late + HAIR

    @invariant()
    def a_registered_state_holds_a_certificate(self) -> None:
        agent = self.stage.agent
        members = (
            State.REGISTERED,
            State.AUTHORIZED,
            State.OUT_OF_COMPLIANCE,
            State.AUTHORIZATION_EXPIRED,
        )
        assert agent.effective not in members or agent.registered

    def teardown(self) -> None:
        """However it went: with a cloud that answers and a clock that is right, all is well."""
        stage = self.stage
        stage.off, self.mode = 0.0, "good"
        stage.look()
        stage.go(2 * ANSWER_LIMIT)
        stage.restart()
        if stage.state() is State.UNCONFIGURED:
            stage.tell(Event.ENABLE)
        stage.tell(Event.REGISTER, force=True)
        stage.go(RECHECK + ANSWER_LIMIT)
        assert stage.state() is State.AUTHORIZED


SmartMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestSmartMachine = SmartMachine.TestCase
