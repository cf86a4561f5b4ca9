"""The agent's timers and what each state means for calls, on virtual time."""

from __future__ import annotations

import itertools

import pytest
from smartkit import START, Stage

from callpool.licensing.smart import Enforcement, Event, Registration, State
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import Contact, IllegalEventError, Occurrence
from callpool.licensing.smart_policy import ahead, listens, policy
from callpool.licensing.smart_timers import DAY, EVALUATION, EVALUATION_RESERVE, HOUR, MINUTE


def times(stage: Stage, event: Event, since: float = 0.0) -> list[float]:
    return [round(at - since, 3) for at, e in stage.times if e is event and at >= since]


def contacts(stage: Stage, since: float) -> list[float]:
    return [round(at - since, 3) for at, _ in stage.asked if at >= since]


# -- evaluation


def test_a_device_that_is_not_enabled_refuses_and_waits_for_nothing() -> None:
    stage = Stage()
    assert stage.agent.next_timer() is None
    assert stage.agent.enforcement is Enforcement.DISABLED
    (step,) = policy(stage.agent, stage.now()).steps
    assert (step.admit, step.reason) == (False, "unconfigured")


def test_evaluation_runs_for_90_days_then_calls_are_refused() -> None:
    stage = Stage()
    stage.tell(Event.ENABLE)
    steps = policy(stage.agent, stage.now()).steps
    assert [(s.until, s.admit, s.reason) for s in steps] == [
        (START + 90 * DAY, True, ""),
        (None, False, "eval_expired"),
    ]
    assert dict(steps[0].caps) == {"cps": 100}
    stage.go(90 * DAY - 1)
    assert stage.state() is State.UNIDENTIFIED
    stage.go(1)
    assert stage.state() is State.EVAL_EXPIRED
    assert stage.agent.enforcement is Enforcement.EVALUATION_EXPIRED
    assert times(stage, Event.EVAL_ENDED) == [90 * DAY]


def test_warnings_come_at_60_30_21_14_7_days_then_daily_then_hourly() -> None:
    stage = Stage()
    stage.tell(Event.ENABLE)
    stage.go(91 * DAY)
    left = [90 * DAY - at for at in times(stage, Event.EVAL_WARNING)]
    assert left == [d * DAY for d in (60, 30, 21, 14, 7, 6, 5, 4, 3, 2, 1)] + [
        h * HOUR for h in range(23, 0, -1)
    ]


def test_evaluation_counts_only_while_enabled_with_a_count() -> None:
    stage = Stage(count=0)
    stage.tell(Event.ENABLE)
    assert stage.agent.enforcement is Enforcement.INIT
    stage.go(100 * DAY)
    assert stage.agent.eval_left == EVALUATION
    stage.tell(Event.SET_COUNT, count=50)
    stage.go(10 * DAY)
    stage.tell(Event.SET_COUNT, count=0)
    stage.go(100 * DAY)
    stage.tell(Event.SET_COUNT, count=5)
    stage.go(10 * DAY)
    stage.tell(Event.DISABLE)
    stage.go(100 * DAY)
    stage.tell(Event.ENABLE)
    assert stage.agent.left(stage.now()) == pytest.approx(70 * DAY)


def test_nothing_makes_evaluation_begin_anew() -> None:
    stage = Stage()
    stage.tell(Event.ENABLE)
    stage.go(80 * DAY)
    stage.tell(Event.REGISTER)
    stage.go(40 * DAY)
    stage.tell(Event.DEREGISTER)
    assert stage.state() is State.UNIDENTIFIED
    assert stage.agent.left(stage.now()) == pytest.approx(10 * DAY)
    stage.tell(Event.DISABLE)
    stage.tell(Event.ENABLE)
    stage.restart()
    stage.go(10 * DAY)
    assert stage.state() is State.EVAL_EXPIRED
    stage.tell(Event.DISABLE)
    stage.tell(Event.ENABLE)
    assert stage.state() is State.EVAL_EXPIRED, "a spent evaluation stays spent"


def test_a_clock_that_jumps_uses_up_no_evaluation_and_gives_none() -> None:
    stage = Stage()
    stage.tell(Event.ENABLE)
    for jump in (400 * DAY, -800 * DAY, 400 * DAY):
        stage.off += jump
        stage.look()
        stage.go(DAY)
    assert stage.agent.left(stage.now()) == pytest.approx(87 * DAY)


@pytest.mark.parametrize(
    ("clean", "new_boot", "charged"),
    [(True, True, 0.0), (True, False, 0.0), (False, False, 90.0), (False, True, None)],
)
def test_what_a_crash_left_unwritten_is_charged(
    clean: bool, new_boot: bool, charged: float | None
) -> None:
    stage = Stage()
    stage.tell(Event.ENABLE)
    written = stage.agent
    stage.elapsed += 90.0
    stage.agent = written
    stage.restart(clean=clean, new_boot=new_boot, written=False)
    lost = EVALUATION_RESERVE if charged is None else charged
    assert stage.agent.left(stage.now()) == pytest.approx(EVALUATION - lost)


# -- registration


def test_a_registration_that_fails_is_retried_every_15_minutes_for_2_hours_then_every_4() -> None:
    stage = Stage()
    stage.tell(Event.ENABLE)
    stage.cloud = stage.down
    stage.tell(Event.REGISTER)
    assert stage.registration() is Registration.RETRY
    stage.go(11 * HOUR)
    quarter = [i * 15 * MINUTE for i in range(9)]
    assert contacts(stage, 0.0) == [*quarter, 6 * HOUR, 10 * HOUR]
    stage.cloud = stage.good
    stage.go(4 * HOUR)
    assert stage.state() is State.AUTHORIZED
    assert stage.registration() is Registration.COMPLETE


def test_a_registration_refused_for_good_is_not_retried_and_changes_nothing() -> None:
    stage = Stage()
    stage.tell(Event.ENABLE)
    stage.cloud = lambda a: Occurrence(
        Event.REGISTER_FAILED, number=a.number, code="token_expired", refused=True, final=True
    )
    stage.tell(Event.REGISTER)
    assert stage.state() is State.UNIDENTIFIED
    assert stage.registration() is Registration.FAILED
    assert stage.agent.next_contact is None
    stage.cloud = stage.good
    stage.tell(Event.REGISTER)
    assert stage.state() is State.AUTHORIZED


def test_registering_twice_is_refused_unless_forced() -> None:
    stage = Stage().authorized()
    with pytest.raises(IllegalEventError) as refused:
        stage.tell(Event.REGISTER)
    assert refused.value.code == "already_registered"
    stage.tell(Event.REGISTER, force=True)
    assert stage.state() is State.AUTHORIZED
    fresh = Stage()
    fresh.tell(Event.ENABLE)
    fresh.cloud = lambda _: None
    fresh.tell(Event.REGISTER)
    with pytest.raises(IllegalEventError) as refused:
        fresh.tell(Event.REGISTER)
    assert refused.value.code == "registration_in_progress"


def test_registered_goes_on_in_evaluation_until_it_is_authorized() -> None:
    stage = Stage()
    stage.cloud = stage.down
    stage.registered()
    assert stage.state() is State.REGISTERED
    assert not stage.agent.listening
    since = stage.elapsed
    stage.go(90 * DAY)
    tried = contacts(stage, since)
    assert tried[1:10] == [i * 15 * MINUTE for i in range(9)], "the registration, then retries"
    assert tried[10] == 6 * HOUR
    assert stage.state() is State.EVAL_EXPIRED
    assert stage.agent.registered, "the registration outlives the evaluation"
    (step,) = policy(stage.agent, stage.now()).steps[:1]
    assert step.reason == "eval_expired"
    stage.cloud = stage.good
    stage.go(4 * HOUR)
    assert stage.state() is State.AUTHORIZED


def test_registering_when_expired_refuses_calls_until_authorized() -> None:
    stage = Stage()
    stage.tell(Event.ENABLE)
    stage.go(91 * DAY)
    stage.cloud = lambda a: stage.down(a) if a.contact is Contact.AUTHORIZE else stage.good(a)
    stage.tell(Event.REGISTER)
    assert (stage.state(), stage.agent.registered) == (State.EVAL_EXPIRED, True)
    stage.cloud = stage.out_of_compliance
    stage.go(15 * MINUTE)
    assert stage.state() is State.OUT_OF_COMPLIANCE


# -- authorization


def test_an_authorization_is_renewed_every_30_days() -> None:
    stage = Stage().authorized()
    stage.go(95 * DAY)
    assert contacts(stage, 1.0) == pytest.approx([30 * DAY - 1, 60 * DAY - 1, 90 * DAY - 1])


def test_failing_renewals_listen_and_end_after_90_days_where_calls_go_on() -> None:
    stage = Stage().authorized()
    stage.cloud = stage.down
    stage.go(30 * DAY)
    assert (stage.state(), stage.agent.listening) == (State.AUTHORIZED, True)
    stage.go(12 * HOUR)
    assert contacts(stage, 30 * DAY) == [i * 15 * MINUTE for i in range(9)] + [
        6 * HOUR,
        10 * HOUR,
    ]
    stage.go(60 * DAY)
    assert stage.state() is State.AUTHORIZATION_EXPIRED
    assert times(stage, Event.AUTHORIZATION_ENDED) == [90 * DAY]
    assert listens(stage.agent)
    assert not listens(stage.agent, "cusp")
    assert policy(stage.agent, stage.now()).steps[0].admit
    assert not policy(stage.agent, stage.now(), "cusp").steps[0].admit
    late = contacts(stage, 90 * DAY)
    assert {round(b - a) for a, b in itertools.pairwise(late)} == {4 * 3600}
    stage.cloud = stage.good
    stage.go(4 * HOUR)
    assert (stage.state(), stage.agent.listening) == (State.AUTHORIZED, False)


def test_out_of_compliance_is_checked_every_12_hours_while_the_cloud_answers() -> None:
    stage = Stage().authorized()
    stage.cloud = stage.out_of_compliance
    stage.tell(Event.HINT)
    assert (stage.state(), stage.agent.listening) == (State.OUT_OF_COMPLIANCE, True)
    stage.go(37 * HOUR)
    assert contacts(stage, 1.0) == pytest.approx([12 * HOUR - 1, 24 * HOUR - 1, 36 * HOUR - 1])
    stage.cloud = stage.down
    stage.go(11 * HOUR)
    since = 48 * HOUR
    stage.go(12 * HOUR)
    assert contacts(stage, since) == [i * 15 * MINUTE for i in range(9)] + [6 * HOUR, 10 * HOUR]
    stage.cloud = stage.good
    stage.go(4 * HOUR)
    assert stage.state() is State.AUTHORIZED


def test_out_of_compliance_without_contact_for_90_days_expires() -> None:
    stage = Stage()
    stage.cloud = stage.out_of_compliance
    stage.tell(Event.ENABLE)
    stage.tell(Event.REGISTER)
    stage.cloud = stage.down
    stage.go(90 * DAY)
    assert stage.state() is State.AUTHORIZATION_EXPIRED


def test_three_signed_refusals_in_a_row_are_out_of_compliance_two_are_not() -> None:
    stage = Stage().authorized()
    stage.cloud = stage.refusing
    stage.tell(Event.RENEW_AUTH)
    stage.go(15 * MINUTE)
    assert (stage.state(), stage.agent.refusals) == (State.AUTHORIZED, 2)
    stage.cloud = stage.down
    stage.go(15 * MINUTE)
    assert stage.agent.refusals == 2, "a cloud that is away neither adds nor takes away"
    stage.cloud = stage.good
    stage.go(15 * MINUTE)
    assert (stage.state(), stage.agent.refusals) == (State.AUTHORIZED, 0)
    stage.cloud = stage.refusing
    stage.tell(Event.RENEW_AUTH)
    stage.go(30 * MINUTE)
    assert stage.state() is State.OUT_OF_COMPLIANCE
    since = stage.elapsed
    stage.go(25 * HOUR)
    assert contacts(stage, since + 1) == pytest.approx([12 * HOUR - 1, 24 * HOUR - 1])
    stage.cloud = stage.good
    stage.go(12 * HOUR)
    assert stage.state() is State.AUTHORIZED


def test_a_changed_count_is_told_at_once_and_again_after_the_contact_under_way() -> None:
    stage = Stage().authorized()
    n = len(stage.asked)
    stage.tell(Event.SET_COUNT, count=100)
    assert len(stage.asked) == n, "the same count is no news"
    stage.cloud = lambda _: None
    stage.tell(Event.SET_COUNT, count=50)
    stage.tell(Event.SET_COUNT, count=55)
    assert len(stage.asked) == n + 1
    stage.cloud = stage.good
    stage.give(stage.judged(stage.asked[-1][1], good=True))
    stage.go(0.0)
    assert len(stage.asked) == n + 2


# -- the ID certificate


def test_the_id_certificate_is_renewed_at_180_days_and_retried_every_24_hours() -> None:
    stage = Stage().authorized()
    stage.cloud = lambda a: stage.down(a) if a.contact is Contact.RENEW_ID else stage.good(a)
    stage.go(182.5 * DAY)
    at = [t for t, a in stage.asked if a.contact is Contact.RENEW_ID]
    assert at == pytest.approx([180 * DAY, 181 * DAY, 182 * DAY])
    assert stage.state() is State.AUTHORIZED
    stage.cloud = stage.good
    stage.go(DAY)
    assert stage.agent.certificate is not None
    assert stage.agent.certificate.not_after == pytest.approx(START + (183 + 365) * DAY)


@pytest.mark.parametrize("spent", [False, True])
def test_at_the_end_of_the_certificate_evaluation_goes_on_or_is_over(spent: bool) -> None:
    stage = Stage()
    stage.tell(Event.ENABLE)
    stage.go(91 * DAY if spent else 0.0)
    stage.tell(Event.REGISTER)
    since = stage.elapsed
    stage.cloud = stage.down
    stage.go(365 * DAY - 1)
    assert stage.state() is State.AUTHORIZATION_EXPIRED
    stage.go(1)
    assert times(stage, Event.CERTIFICATE_ENDED, since) == [365 * DAY]
    assert stage.state() is (State.EVAL_EXPIRED if spent else State.UNIDENTIFIED)
    assert not stage.agent.registered
    assert stage.agent.next_contact is None


def test_a_wall_clock_outside_the_certificate_has_an_hour_of_grace() -> None:
    stage = Stage().authorized()
    stage.go(DAY)
    stage.off = 400 * DAY
    stage.look()
    assert stage.grace_since() is not None
    stage.go(HOUR - 1)
    stage.off = 0.0
    stage.look()
    assert stage.grace_since() is None, "it came back in time"
    stage.off = -30 * DAY
    stage.look()
    stage.go(HOUR - 1)
    assert stage.state() is State.AUTHORIZED
    stage.go(1)
    assert stage.state() is State.UNIDENTIFIED


def test_a_clock_set_back_delays_no_deadline() -> None:
    stage = Stage().authorized()
    stage.cloud = stage.down
    stage.go(40 * DAY)
    stage.off = -20 * DAY
    stage.look()
    stage.go(50 * DAY)
    assert times(stage, Event.AUTHORIZATION_ENDED) == [90 * DAY]


# -- leaving


@pytest.mark.parametrize("reached", [True, False])
def test_deregistering_clears_local_data_even_when_the_cloud_cannot_be_told(reached: bool) -> None:
    stage = Stage().authorized()
    stage.cloud = stage.good if reached else stage.down
    stage.tell(Event.DEREGISTER)
    assert stage.state() is State.UNIDENTIFIED
    assert not stage.agent.registered
    last = stage.happened[-1]
    assert last.event is (Event.DEREGISTERED if reached else Event.DEREGISTER_FAILED)
    with pytest.raises(IllegalEventError) as refused:
        stage.tell(Event.DEREGISTER)
    assert refused.value.code == "not_registered"


def test_while_it_leaves_calls_go_on_as_before_and_a_lost_answer_ends_it() -> None:
    stage = Stage().authorized()
    stage.cloud = lambda _: None
    stage.tell(Event.DISABLE)
    assert (stage.state(), stage.agent.effective) == (State.TRANSIENT, State.AUTHORIZED)
    assert policy(stage.agent, stage.now()).steps[0].admit
    with pytest.raises(IllegalEventError) as refused:
        stage.tell(Event.RENEW_AUTH)
    assert refused.value.code == "smart_busy"
    stage.restart()
    assert stage.state() is State.TRANSIENT, "a restart asks again"
    stage.go(3 * MINUTE)
    assert stage.state() is State.UNCONFIGURED


# -- steps ahead and counts


def test_the_steps_ahead_go_through_every_end_that_needs_nobody() -> None:
    stage = Stage().authorized()
    stage.go(10 * DAY)
    assert [
        (round((at - START) / DAY), state) for at, state in ahead(stage.agent, stage.now())
    ] == [
        (10, State.AUTHORIZED),
        (90, State.AUTHORIZATION_EXPIRED),
        (365, State.UNIDENTIFIED),
        (455, State.EVAL_EXPIRED),
    ]
    steps = policy(stage.agent, stage.now()).steps
    assert [(s.until and round((s.until - START) / DAY), s.reason) for s in steps] == [
        (455, ""),
        (None, "eval_expired"),
    ]
    steps = policy(stage.agent, stage.now(), "cusp").steps
    assert [(s.until and round((s.until - START) / DAY), s.reason) for s in steps] == [
        (90, ""),
        (365, "authorization_expired"),
        (455, ""),
        (None, "eval_expired"),
    ]


def test_an_agent_that_was_never_anything_else_is_unconfigured() -> None:
    assert SmartAgent().state is State.UNCONFIGURED
    assert SmartAgent().registration is Registration.NOT_REGISTERED
