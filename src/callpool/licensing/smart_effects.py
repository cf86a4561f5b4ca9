"""What each event brings to the agent beside its state: dates, retries, what is dropped.

One small function an event, all of one shape; the state itself comes from the table alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec.structs import replace

from callpool.licensing.smart import Event, Rule, State
from callpool.licensing.smart_events import (
    Contact,
    IllegalEventError,
    Moment,
    Occurrence,
    Tries,
)
from callpool.licensing.smart_timers import (
    CERTIFICATE_RETRY,
    CERTIFICATE_VALID,
    CERTIFICATE_WARNINGS,
    HAIR,
    RECHECK,
    SHORTEST,
    WARNINGS,
    retry_wait,
)

if TYPE_CHECKING:
    from callpool.licensing.smart_agent import SmartAgent


def _nothing(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return agent


def _dropped(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    """Drop the registration and all that hangs on it; the seconds left stay as they are.

    So does an outage: leaving an authority that is not reached restores no connection to it.
    """
    return replace(
        agent,
        disabling=False,
        certificate=None,
        out_of_range_since=None,
        authorization=None,
        register_at=None,
        authorize_at=None,
        renew_id_at=None,
        reason="",
        register_failing_since=None,
        register_failed=False,
        failing_since=None,
        refusals=0,
        asked=None,
        again=False,
        # That it could not be told of its leaving is all that is still of interest.
        tries=Tries(deregister=agent.tries.deregister),
    )


def _disable(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    if rule.target is State.UNCONFIGURED:
        return _dropped(agent, rule, it, now)
    return replace(agent, disabling=True, asked=None)


def _deregister(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return replace(agent, disabling=False, asked=None)


def _register(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return replace(
        agent,
        register_at=now.time,
        register_failing_since=None,
        register_failed=False,
        asked=None,
    )


def _registered(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    held = it.certificate
    if held is None:
        raise IllegalEventError("illegal_event", "A registration brings an ID certificate.")
    return replace(
        agent,
        certificate=held,
        certificate_warned=CERTIFICATE_VALID,
        tries=replace(agent.tries, renew_id=None),
        out_of_range_since=None,
        register_at=None,
        register_failing_since=None,
        register_failed=False,
        authorize_at=now.time,
        reason="first",
        renew_id_at=max(held.renew_at, now.time + SHORTEST),
        failing_since=None,
        refusals=0,
    )


def _register_failed(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    if it.final:
        return replace(agent, register_at=None, register_failing_since=None, register_failed=True)
    since = now.time if agent.register_failing_since is None else agent.register_failing_since
    wait = max(retry_wait(agent.effective, now.time - since), it.retry_after)
    return replace(agent, register_at=now.time + wait, register_failing_since=since)


def _authorized(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    given = it.authorization
    if given is None:
        raise IllegalEventError("illegal_event", "An answer brings an authorization.")
    again = agent.again
    return replace(
        agent,
        authorization=given,
        seen_version=given.version,
        authorize_at=now.time if again else max(given.renew_at, now.time + SHORTEST),
        reason="count" if again else "renew" if rule.target is State.AUTHORIZED else "recheck",
        failing_since=None,
        refusals=0,
        again=False,
    )


def _retry(agent: SmartAgent, state: State, it: Occurrence, now: Moment) -> SmartAgent:
    since = now.time if agent.failing_since is None else agent.failing_since
    wait = max(retry_wait(state, now.time - since), it.retry_after)
    return replace(agent, failing_since=since, authorize_at=now.time + wait, reason="retry")


def _auth_failed(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return _retry(agent, rule.target, it, now)


def _auth_refused(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    agent = replace(agent, refusals=agent.refusals + 1)
    if rule.target is State.OUT_OF_COMPLIANCE:
        # The cloud answers: no connection fails, so the rhythm is the one of re-checks.
        return replace(
            agent,
            failing_since=None,
            authorize_at=now.time + max(RECHECK, it.retry_after),
            reason="recheck",
        )
    return _retry(agent, rule.target, it, now)


def _refused_too_often(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return replace(
        agent, failing_since=None, refusals=0, authorize_at=now.time + RECHECK, reason="recheck"
    )


def _id_renewed(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    held = it.certificate
    if held is None:
        raise IllegalEventError("illegal_event", "A renewal brings an ID certificate.")
    at = max(held.renew_at, now.time + SHORTEST)
    return replace(
        agent,
        certificate=held,
        certificate_warned=CERTIFICATE_VALID,
        out_of_range_since=None,
        renew_id_at=at,
    )


def _id_renew_failed(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return replace(agent, renew_id_at=now.time + max(CERTIFICATE_RETRY, it.retry_after))


def _wanted(agent: SmartAgent, reason: str, now: Moment) -> SmartAgent:
    """Ask for an authorization at once, or once more after the one under way."""
    if agent.certificate is None:
        return agent
    under_way = agent.asked is not None and agent.asked.contact is Contact.AUTHORIZE
    return replace(agent, authorize_at=now.time, reason=reason, again=under_way)


def _renew_auth(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return _wanted(agent, "operator", now)


def _hint(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return _wanted(agent, "hint", now)


def _renew_id(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return replace(agent, renew_id_at=now.time)


def _set_count(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    if it.count is None:
        raise IllegalEventError("illegal_event", "A count is needed.")
    if it.count == agent.count:
        return agent
    return _wanted(replace(agent, count=it.count), "count", now)


def _warn(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    """Note the lowest threshold that has been reached: a jump over several warns once."""
    reached = [at for at in WARNINGS if agent.eval_left <= at + HAIR]
    return replace(agent, warned=min(reached, default=agent.warned))


def _eval_ended(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return replace(agent, eval_ended_at=now.time)


def _warn_certificate(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    """Note the lowest threshold that has been reached: a jump over several warns once."""
    left = 0.0 if agent.certificate is None else agent.certificate.not_after - now.time
    reached = [at for at in CERTIFICATE_WARNINGS if left <= at + HAIR]
    return replace(agent, certificate_warned=min(reached, default=agent.certificate_warned))


def _out_of_range(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return replace(agent, out_of_range_since=now.time)


def _in_range(agent: SmartAgent, rule: Rule, it: Occurrence, now: Moment) -> SmartAgent:
    return replace(agent, out_of_range_since=None)


_Effect: TypeAlias = "Callable[[SmartAgent, Rule, Occurrence, Moment], SmartAgent]"

#: Event -> what it brings.
EFFECTS: Final[Mapping[Event, _Effect]] = {
    Event.ENABLE: _nothing,
    Event.DISABLE: _disable,
    Event.REGISTER: _register,
    Event.DEREGISTER: _deregister,
    Event.RENEW_AUTH: _renew_auth,
    Event.RENEW_ID: _renew_id,
    Event.SET_COUNT: _set_count,
    Event.RESTART: _nothing,
    Event.HINT: _hint,
    Event.REGISTERED: _registered,
    Event.REGISTER_FAILED: _register_failed,
    Event.IN_COMPLIANCE: _authorized,
    Event.ANSWERED_OUT_OF_COMPLIANCE: _authorized,
    Event.AUTH_FAILED: _auth_failed,
    Event.AUTH_REFUSED: _auth_refused,
    Event.REFUSED_TOO_OFTEN: _refused_too_often,
    Event.ID_RENEWED: _id_renewed,
    Event.ID_RENEW_FAILED: _id_renew_failed,
    Event.DEREGISTERED: _dropped,
    Event.DEREGISTER_FAILED: _dropped,
    Event.EVAL_WARNING: _warn,
    Event.EVAL_ENDED: _eval_ended,
    Event.AUTHORIZATION_ENDED: _nothing,
    Event.CERTIFICATE_WARNING: _warn_certificate,
    Event.CERTIFICATE_ENDED: _dropped,
    Event.CLOCK_OUT_OF_RANGE: _out_of_range,
    Event.CLOCK_IN_RANGE: _in_range,
}
