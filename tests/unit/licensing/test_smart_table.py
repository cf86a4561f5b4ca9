"""Every state and every event: what the table says happens, and nothing else does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import msgspec
import pytest
from smartkit import START, Stage

from callpool.licensing.errors import LicenseError, TrustError
from callpool.licensing.smart import RULES, STATES, TRANSITIONS, Event, State, When, following
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_effects import EFFECTS
from callpool.licensing.smart_events import (
    ANSWERS,
    Asked,
    Authorization,
    Certificate,
    Contact,
    IllegalEventError,
    Occurrence,
)
from callpool.licensing.smart_numbers import (
    SLA_ENFORCE_MODE,
    SLA_REGISTRATION,
    USP_AGENT_STATE,
    USP_LICENSE_STATE,
    YANG_AUTHORIZATION,
    YANG_ENFORCEMENT_MODE,
    YANG_REGISTRATION,
)
from callpool.licensing.smart_policy import CALL_POLICIES, admits
from callpool.licensing.smart_timers import DAY, EVALUATION

DATES = Certificate(not_before=START, renew_at=START + 180 * DAY, not_after=START + 365 * DAY)
GIVEN = Authorization(
    version=1, issued_at=START, renew_at=START + 30 * DAY, expires_at=START + 90 * DAY
)
MEMBERS = frozenset(
    {
        State.REGISTERED,
        State.AUTHORIZED,
        State.OUT_OF_COMPLIANCE,
        State.AUTHORIZATION_EXPIRED,
        State.TRANSIENT,
    }
)


def agent_in(state: State, *, left: float, held: bool, disabling: bool) -> SmartAgent:
    """Return an agent in `state`, with a certificate where `held`."""
    return SmartAgent(
        state=state,
        before=State.AUTHORIZED if state is State.TRANSIENT else State.UNCONFIGURED,
        disabling=disabling,
        count=100,
        eval_left=left,
        as_of=Stage().now(),
        certificate=DATES if held else None,
        number=7,
    )


def possible(state: State, left: float, held: bool) -> bool:
    """Tell whether such an agent exists at all."""
    if state is State.UNCONFIGURED or state is State.UNIDENTIFIED:
        return not held and (left > 0 or state is State.UNCONFIGURED)
    if state is State.EVAL_EXPIRED:
        return left == 0
    return held and (left > 0 or state is not State.REGISTERED)


CASES = [
    (state, event, left, held, disabling, force)
    for state, event, left, held, disabling, force in itertools.product(
        State, Event, (EVALUATION, 0.0), (False, True), (False, True), (False, True)
    )
    if possible(state, left, held) and (not disabling or state is State.TRANSIENT)
]


@pytest.mark.parametrize(("state", "event", "left", "held", "disabling", "force"), CASES)
def test_an_event_does_what_its_row_says_or_raises_and_changes_nothing(
    state: State, event: Event, left: float, held: bool, disabling: bool, force: bool
) -> None:
    agent = agent_in(state, left=left, held=held, disabling=disabling)
    contact = ANSWERS.get(event)
    if contact is not None:
        asked = Asked(contact=contact, number=7, at=START, reason="x")
        agent = msgspec.structs.replace(agent, asked=asked)
    occurrence = Occurrence(
        event, number=7, count=50, force=force, certificate=DATES, authorization=GIVEN
    )
    rule = following(
        state,
        event,
        {
            When.IDENTIFIED: held,
            When.NOT_IDENTIFIED: not held,
            When.FORCED: held and force,
            When.SECONDS_LEFT: left > 0,
            When.SPENT: left == 0,
            When.DISABLING: disabling,
        },
    )
    before = msgspec.structs.replace(agent)
    now = Stage().now()
    if rule is None:
        with pytest.raises(IllegalEventError) as refused:
            agent._apply(occurrence, now)
        assert refused.value.code in {
            "not_registered",
            "already_registered",
            "already_enabled",
            "smart_not_enabled",
            "smart_busy",
            "illegal_event",
        }
        assert refused.value.sentence.endswith(".")
        with pytest.raises(LicenseError):
            agent.receive(occurrence, now)
        assert agent == before
        return
    after, _ = agent._apply(occurrence, now)
    assert agent == before, "the agent is a value"
    assert after.state is rule.target
    assert after.eval_left <= agent.eval_left
    if after.state in (State.UNCONFIGURED, State.UNIDENTIFIED):
        assert not after.registered
        assert after.next_contact is None or event in (Event.REGISTER, Event.REGISTER_FAILED)
    if after.state in MEMBERS:
        assert after.registered, "a registered state holds a certificate"


def test_every_event_has_an_effect_and_a_row() -> None:
    assert set(EFFECTS) == set(Event)
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert sum(len(rows) for rows in TRANSITIONS.values()) == len(RULES)


def test_every_state_is_reached_and_left() -> None:
    moves = {(r.source, r.target) for r in RULES if r.source is not r.target}
    assert {target for _, target in moves} == set(State)
    assert {source for source, _ in moves} == set(State)


def test_rows_of_one_state_and_event_never_hold_together_unless_the_first_is_meant() -> None:
    exclusive = {
        frozenset({When.SECONDS_LEFT, When.SPENT}),
        frozenset({When.IDENTIFIED, When.NOT_IDENTIFIED}),
        frozenset({When.NOT_IDENTIFIED, When.FORCED}),
        # Being disabled comes before what the seconds say.
        frozenset({When.DISABLING, When.SECONDS_LEFT, When.SPENT}),
    }
    for rows in TRANSITIONS.values():
        conditions = [row.when for row in rows]
        assert len(set(conditions)) == len(conditions)
        if len(rows) > 1:
            assert frozenset(conditions) in exclusive


@pytest.mark.parametrize(
    ("name", "refusing"),
    [
        ("cccsp-15", {State.UNCONFIGURED, State.EVAL_EXPIRED}),
        ("cusp", {State.UNCONFIGURED, State.EVAL_EXPIRED, State.AUTHORIZATION_EXPIRED}),
        (
            "cusp-mib",
            {
                State.UNCONFIGURED,
                State.EVAL_EXPIRED,
                State.AUTHORIZATION_EXPIRED,
                State.OUT_OF_COMPLIANCE,
            },
        ),
    ],
)
def test_each_call_policy_refuses_in_the_states_its_source_names(
    name: str, refusing: set[State]
) -> None:
    assert {s for s in STATES if CALL_POLICIES[name][s]} == refusing
    for state in STATES:
        agent = agent_in(state, left=1.0, held=False, disabling=False)
        assert admits(agent, name) is (state not in refusing)


def test_the_public_numberings_are_whole_and_separate() -> None:
    assert sorted(USP_AGENT_STATE.values()) == list(range(1, 9))
    assert sorted(USP_LICENSE_STATE.values()) == list(range(1, 13))
    assert set(USP_AGENT_STATE) == set(State)
    assert set(YANG_AUTHORIZATION) == set(STATES)
    for numbers in (SLA_ENFORCE_MODE, YANG_ENFORCEMENT_MODE, SLA_REGISTRATION, YANG_REGISTRATION):
        assert len(set(numbers.values())) == len(numbers)


def test_an_answer_to_a_contact_that_is_not_under_way_is_refused() -> None:
    stage = Stage().authorized()
    stage.cloud = lambda _: None
    stage.tell(Event.RENEW_AUTH)
    _, asking = stage.asked[-1]
    before = stage.agent
    for wrong in (asking.number - 1, asking.number + 1):
        with pytest.raises(IllegalEventError, match="not under way"):
            stage.give(stage.judged(replace(asking, number=wrong), good=True))
    with pytest.raises(IllegalEventError, match="not under way"):
        stage.give(Occurrence(Event.ID_RENEWED, number=asking.number, certificate=DATES))
    assert stage.agent == before
    assert stage.agent.asked is not None
    assert stage.agent.asked.contact is Contact.AUTHORIZE


def test_an_authorization_that_is_not_newer_is_refused() -> None:
    stage = Stage().authorized()
    stage.cloud = lambda _: None
    stage.tell(Event.RENEW_AUTH)
    answer = stage.judged(stage.asked[-1][1], good=True)
    assert answer.authorization is not None
    old = replace(answer, authorization=replace(answer.authorization, version=1))
    with pytest.raises(TrustError, match="not newer"):
        stage.give(old)
    stage.give(answer)
    assert stage.agent.seen_version == 2
