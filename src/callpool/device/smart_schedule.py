"""Every timer of smart licensing that runs, with what happens then: what a person may expect."""

from __future__ import annotations

from typing import Final

import msgspec

from callpool.licensing.admission import REASONS
from callpool.licensing.smart import EVALUATING, Event, State, When, following
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import Moment
from callpool.licensing.smart_policy import call_policy
from callpool.licensing.smart_timers import ANSWER_LIMIT, next_warning

#: What a warning does.
_TOLD: Final = "A line in sml.log and a notification; no more."


class SmartTimer(msgspec.Struct, frozen=True, kw_only=True):
    """One timer that runs."""

    #: When it is due, seconds since 1970 by trusted time.
    at: float
    #: What is due.
    what: str
    #: What happens then.
    then: str


def timers(agent: SmartAgent, now: Moment, policy: str) -> tuple[SmartTimer, ...]:
    """Return what runs at `now`, in order of time; `policy` names the call policy."""
    found: list[SmartTimer] = []

    def add(at: float | None, what: str, then: str) -> None:
        if at is not None:
            found.append(SmartTimer(at=max(at, now.time), what=what, then=then))

    left = agent.left(now)
    if agent.asked is not None:
        add(
            agent.asked.at + ANSWER_LIMIT,
            "The answer of the authority is overdue",
            "The contact counts as failed and is made again.",
        )
    add(
        agent.register_at,
        "Registration with the authority",
        "Registered if it is granted; if it fails, it is tried again.",
    )
    add(
        agent.authorize_at,
        "Authorization is asked for",
        "Authorized or OutOfCompliance, by the answer; if there is none, it is asked for again.",
    )
    add(
        agent.renew_id_at,
        "ID certificate is renewed",
        "It is good for another year; if that fails, it is tried again.",
    )
    if agent.evaluating and agent.state in EVALUATING:
        warning = next_warning(agent.warned)
        if warning is not None:
            add(now.time + left - warning, "Evaluation warning", _TOLD)
        add(
            now.time + left,
            "Evaluation ends",
            _then(agent, Event.EVAL_ENDED, policy, spent=True),
        )
    add(
        agent.authorization_end,
        "Authorization ends if it is not renewed",
        _then(agent, Event.AUTHORIZATION_ENDED, policy, spent=left <= 0.0),
    )
    add(agent.certificate_warning, "Warning that the ID certificate ends", _TOLD)
    grace = agent.out_of_range_since is not None
    add(
        agent.certificate_end,
        "The clock's hour of grace ends" if grace else "ID certificate ends if it is not renewed",
        f"The registration ends. {_then(agent, Event.CERTIFICATE_ENDED, policy, spent=left <= 0)}",
    )
    return tuple(sorted(found, key=lambda timer: timer.at))


def _then(agent: SmartAgent, event: Event, policy: str, *, spent: bool) -> str:
    """Return the state that the table leads to, and what calls do there."""
    holds = {
        When.IDENTIFIED: agent.registered,
        When.NOT_IDENTIFIED: not agent.registered,
        When.FORCED: False,
        When.SECONDS_LEFT: not spent,
        When.SPENT: spent,
        When.DISABLING: False,
    }
    rule = following(agent.effective, event, holds)
    target = agent.effective if rule is None else rule.target
    return f"{target}: {calls_in(target, policy)}"


def calls_in(state: State, policy: str) -> str:
    """Return what new calls do in `state` under the call policy `policy`, one sentence."""
    reason = call_policy(policy)[state]
    return f"new calls are refused, {REASONS[reason]}." if reason else "calls are admitted."
