"""Smart licensing: the states, the events, and the one table of what leads where.

Theory of operation. The agent is a value (`smart_agent.SmartAgent`). Something happens: a
person asks, the authority answers or does not, time passes. Each is an `Event`; `TRANSITIONS`
says, by state and event, which state follows. A row may hold only `when` something else is
so (a certificate is held, evaluation seconds are left); the first row that holds is taken. An
event without a row that holds is illegal: it raises and changes nothing. The same table runs
the agent, works out a policy's steps ahead, feeds the exhaustive test, and draws the diagram
in `docs/smart-licensing.md`.

`mark` tells where a row comes from: S the seed `000`, P a public source, D design.md (all in
`facts/smart-licensing.md` section 3.3, whose row number is `row`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """The seed's seven states, and `transient`: between two of them."""

    UNCONFIGURED = "Unconfigured"
    UNIDENTIFIED = "Unidentified"
    REGISTERED = "Registered"
    EVAL_EXPIRED = "EvalExpired"
    AUTHORIZED = "Authorized"
    OUT_OF_COMPLIANCE = "OutOfCompliance"
    AUTHORIZATION_EXPIRED = "AuthorizationExpired"
    #: The cloud is being told that the device leaves; calls go on as before.
    TRANSIENT = "transient"


class Event(StrEnum):
    """All that can happen to an agent; the values are the causes in logs and simulations."""

    # People and the configuration.
    ENABLE = "enable"
    DISABLE = "disable"
    REGISTER = "register"
    DEREGISTER = "deregister"
    RENEW_AUTH = "renew_auth"
    RENEW_ID = "renew_id"
    SET_COUNT = "configure"
    RESTART = "restart"
    #: The authority wishes to be asked: compliance has changed.
    HINT = "hint"
    # What became of a contact.
    REGISTERED = "registered"
    #: Not reached, or refused.
    REGISTER_FAILED = "registration_failed"
    IN_COMPLIANCE = "in_compliance"
    ANSWERED_OUT_OF_COMPLIANCE = "out_of_compliance"
    #: No believable answer.
    AUTH_FAILED = "authorization_failed"
    #: A signed no.
    AUTH_REFUSED = "authorization_refused"
    #: The signed no that exceeds the re-entitlement limit.
    REFUSED_TOO_OFTEN = "refused_too_often"
    ID_RENEWED = "id_renewed"
    ID_RENEW_FAILED = "id_renewal_failed"
    DEREGISTERED = "deregistered"
    DEREGISTER_FAILED = "deregistration_failed"
    # Time.
    EVAL_WARNING = "evaluation_warning"
    EVAL_ENDED = "evaluation_ended"
    AUTHORIZATION_ENDED = "authorization_ended"
    #: The ID certificate nears its end, and its renewal fails.
    CERTIFICATE_WARNING = "certificate_warning"
    CERTIFICATE_ENDED = "certificate_ended"
    CLOCK_OUT_OF_RANGE = "clock_out_of_range"
    CLOCK_IN_RANGE = "clock_in_range"


class When(StrEnum):
    """What must be so beside state and event for a row to hold."""

    ALWAYS = ""
    #: An ID certificate is held: the instance is registered.
    IDENTIFIED = "certificate held"
    NOT_IDENTIFIED = "no certificate"
    #: Registered, and told to register all the same.
    FORCED = "forced"
    SECONDS_LEFT = "evaluation seconds left"
    SPENT = "evaluation spent"
    #: Leaving because licensing is being turned off.
    DISABLING = "being disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table."""

    source: State
    event: Event
    target: State
    when: When = When.ALWAYS
    #: S, P or D: where the row comes from.
    mark: str = "D"
    #: The row of `facts/smart-licensing.md` 3.3, 0 for none.
    row: int = 0


S = State
E = Event
W = When

#: Evaluation runs here, while a count is configured.
EVALUATING: Final = frozenset({S.UNIDENTIFIED, S.REGISTERED})
#: An authorization is held here and can end.
AUTHORIZATION_HELD: Final = frozenset({S.AUTHORIZED, S.OUT_OF_COMPLIANCE})
#: The seven states that people see.
STATES: Final = tuple(s for s in State if s is not S.TRANSIENT)

#: Registered states, and what must be so to count as one.
_MEMBERS: Final = (
    (S.REGISTERED, W.ALWAYS),
    (S.AUTHORIZED, W.ALWAYS),
    (S.OUT_OF_COMPLIANCE, W.ALWAYS),
    (S.AUTHORIZATION_EXPIRED, W.ALWAYS),
    # Registered with the evaluation spent: calls are refused until it is authorized.
    (S.EVAL_EXPIRED, W.IDENTIFIED),
)


def _rule(
    source: State, event: Event, target: State, when: When = W.ALWAYS, *, mark: str, row: int = 0
) -> Rule:
    return Rule(source=source, event=event, target=target, when=when, mark=mark, row=row)


def _stay(states: Iterable[State], event: Event, *, mark: str, row: int = 0) -> list[Rule]:
    return [_rule(s, event, s, mark=mark, row=row) for s in states]


def _by_seconds(source: State, event: Event, *, mark: str, row: int) -> list[Rule]:
    """Go back to evaluation, or to its end where it is spent."""
    return [
        _rule(source, event, S.UNIDENTIFIED, W.SECONDS_LEFT, mark=mark, row=row),
        _rule(source, event, S.EVAL_EXPIRED, W.SPENT, mark=mark, row=row),
    ]


def _member_rules(state: State, when: When) -> list[Rule]:
    """Return what holds in every registered state."""
    same = [
        (E.AUTH_FAILED, "S", 14 if state is S.AUTHORIZED else 10),
        (E.AUTH_REFUSED, "D", 14),
        (E.RENEW_AUTH, "P", 0),
        (E.RENEW_ID, "P", 0),
        (E.ID_RENEWED, "P", 23),
        (E.ID_RENEW_FAILED, "P", 23),
        (E.CERTIFICATE_WARNING, "D", 0),
        (E.CLOCK_OUT_OF_RANGE, "P", 27),
        (E.CLOCK_IN_RANGE, "P", 28),
        (E.HINT, "D", 0),
    ]
    rules = [_rule(state, event, state, when, mark=mark, row=row) for event, mark, row in same]
    rules += [
        _rule(state, E.IN_COMPLIANCE, S.AUTHORIZED, when, mark="S", row=8),
        _rule(state, E.ANSWERED_OUT_OF_COMPLIANCE, S.OUT_OF_COMPLIANCE, when, mark="S", row=9),
        _rule(state, E.DEREGISTER, S.TRANSIENT, when, mark="P", row=25),
        _rule(state, E.DISABLE, S.TRANSIENT, when, mark="D", row=3),
        # A forced registration keeps what is authorized until the new one is judged.
        _rule(state, E.REGISTER, state, W.FORCED, mark="P"),
        _rule(state, E.REGISTERED, state, when, mark="D"),
        _rule(state, E.REGISTER_FAILED, state, when, mark="D"),
    ]
    if state is S.EVAL_EXPIRED:
        ended = _rule(state, E.CERTIFICATE_ENDED, S.EVAL_EXPIRED, when, mark="P", row=24)
        return [*rules, ended]
    return [*rules, *_by_seconds(state, E.CERTIFICATE_ENDED, mark="P", row=24)]


RULES: Final[tuple[Rule, ...]] = (
    # Off.
    _rule(S.UNCONFIGURED, E.ENABLE, S.UNIDENTIFIED, W.SECONDS_LEFT, mark="S", row=1),
    _rule(S.UNCONFIGURED, E.ENABLE, S.EVAL_EXPIRED, W.SPENT, mark="D", row=2),
    # Enabled and not registered.
    _rule(S.UNIDENTIFIED, E.DISABLE, S.UNCONFIGURED, mark="D", row=3),
    _rule(S.EVAL_EXPIRED, E.DISABLE, S.UNCONFIGURED, W.NOT_IDENTIFIED, mark="D", row=3),
    _rule(S.UNIDENTIFIED, E.REGISTER, S.UNIDENTIFIED, mark="P", row=4),
    _rule(S.UNIDENTIFIED, E.REGISTERED, S.REGISTERED, mark="S", row=5),
    _rule(S.UNIDENTIFIED, E.REGISTER_FAILED, S.UNIDENTIFIED, mark="P", row=6),
    _rule(S.EVAL_EXPIRED, E.REGISTER, S.EVAL_EXPIRED, W.NOT_IDENTIFIED, mark="D", row=7),
    _rule(S.EVAL_EXPIRED, E.REGISTERED, S.EVAL_EXPIRED, W.NOT_IDENTIFIED, mark="D", row=7),
    _rule(S.EVAL_EXPIRED, E.REGISTER_FAILED, S.EVAL_EXPIRED, W.NOT_IDENTIFIED, mark="D", row=6),
    # Registered.
    *(rule for state, when in _MEMBERS for rule in _member_rules(state, when)),
    _rule(S.AUTHORIZED, E.REFUSED_TOO_OFTEN, S.OUT_OF_COMPLIANCE, mark="S", row=20),
    # Time.
    *_stay(sorted(EVALUATING), E.EVAL_WARNING, mark="P"),
    *(_rule(s, E.EVAL_ENDED, S.EVAL_EXPIRED, mark="S", row=11) for s in sorted(EVALUATING)),
    _rule(S.AUTHORIZED, E.AUTHORIZATION_ENDED, S.AUTHORIZATION_EXPIRED, mark="S", row=15),
    _rule(S.OUT_OF_COMPLIANCE, E.AUTHORIZATION_ENDED, S.AUTHORIZATION_EXPIRED, mark="P", row=19),
    # Leaving: whatever the cloud says, the local data goes.
    *(
        rule
        for event in (E.DEREGISTERED, E.DEREGISTER_FAILED)
        for rule in (
            _rule(S.TRANSIENT, event, S.UNCONFIGURED, W.DISABLING, mark="D", row=3),
            *_by_seconds(S.TRANSIENT, event, mark="P", row=25),
        )
    ),
    # Anywhere.
    *_stay((s for s in State if s is not S.TRANSIENT), E.SET_COUNT, mark="D", row=29),
    *_stay(State, E.RESTART, mark="D"),
)


def _table() -> Mapping[tuple[State, Event], tuple[Rule, ...]]:
    found: dict[tuple[State, Event], tuple[Rule, ...]] = {}
    for rule in RULES:
        key = rule.source, rule.event
        found[key] = (*found.get(key, ()), rule)
    return found


#: What leads where: (state, event) -> rows, of which the first that holds is taken.
TRANSITIONS: Final = _table()


def following(state: State, event: Event, holds: Mapping[When, bool]) -> Rule | None:
    """Return the row that is taken for `event` in `state`, None where it is illegal.

    `holds` tells of each condition whether it is so (ALWAYS need not be named).
    """
    for rule in TRANSITIONS.get((state, event), ()):
        if rule.when is W.ALWAYS or holds[rule.when]:
            return rule
    return None


class Enforcement(StrEnum):
    """The enforcement mode shown beside the state (facts 2.1, `cuspLicenseState`)."""

    WAITING = "waiting"
    OVERAGE = "overage"
    OUT_OF_COMPLIANCE = "out-of-compliance"
    NOT_APPLICABLE = "not-applicable"
    INVALID_TAG = "invalid-tag"
    INVALID = "invalid"
    INIT = "init"
    IN_COMPLIANCE = "in-compliance"
    EVALUATION_EXPIRED = "evaluation-expired"
    EVALUATION = "evaluation"
    DISABLED = "disabled"
    AUTHORIZATION_EXPIRED = "authorization-expired"


#: State -> enforcement mode while a count is configured (facts 3.1).
ENFORCEMENT: Final[Mapping[State, Enforcement]] = {
    S.UNCONFIGURED: Enforcement.DISABLED,
    S.UNIDENTIFIED: Enforcement.EVALUATION,
    S.REGISTERED: Enforcement.EVALUATION,
    S.EVAL_EXPIRED: Enforcement.EVALUATION_EXPIRED,
    S.AUTHORIZED: Enforcement.IN_COMPLIANCE,
    S.OUT_OF_COMPLIANCE: Enforcement.OUT_OF_COMPLIANCE,
    S.AUTHORIZATION_EXPIRED: Enforcement.AUTHORIZATION_EXPIRED,
}


class Registration(StrEnum):
    """How the registration stands (YANG `registration-state`)."""

    NOT_REGISTERED = "not-registered"
    COMPLETE = "complete"
    IN_PROGRESS = "in-progress"
    RETRY = "retry"
    FAILED = "failed"
