"""Smart licensing: what each state means for calls, now and in the steps ahead.

Three tables, for the same product family documents three behaviours (facts section 1):
`cccsp-15` is the seed's (S) and the default, `cusp` the older tech note's (P), `cusp-mib` the
MIB's (P). Where a table's source is silent, it does as the seed does.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from callpool.licensing.admission import (
    AUTHORIZATION_EXPIRED,
    EVAL_EXPIRED,
    OUT_OF_COMPLIANCE,
    UNCONFIGURED,
    AdmissionPolicy,
    Step,
)
from callpool.licensing.capacity import CPS
from callpool.licensing.errors import LicenseError
from callpool.licensing.smart import (
    AUTHORIZATION_HELD,
    EVALUATING,
    STATES,
    Event,
    State,
    When,
    following,
)
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import Moment

#: The seed's policy, the default.
CCCSP_15: Final = "cccsp-15"
CUSP: Final = "cusp"
CUSP_MIB: Final = "cusp-mib"


def _refusing(**reasons: str) -> Mapping[State, str]:
    always = {State.UNCONFIGURED: UNCONFIGURED, State.EVAL_EXPIRED: EVAL_EXPIRED}
    more = {State[name]: reason for name, reason in reasons.items()}
    return MappingProxyType({state: {**always, **more}.get(state, "") for state in STATES})


#: Call policy -> state -> the reason code of the refusal, empty where calls are admitted.
CALL_POLICIES: Final[Mapping[str, Mapping[State, str]]] = MappingProxyType(
    {
        CCCSP_15: _refusing(),
        CUSP: _refusing(AUTHORIZATION_EXPIRED=AUTHORIZATION_EXPIRED),
        CUSP_MIB: _refusing(
            OUT_OF_COMPLIANCE=OUT_OF_COMPLIANCE, AUTHORIZATION_EXPIRED=AUTHORIZATION_EXPIRED
        ),
    }
)


def call_policy(name: str) -> Mapping[State, str]:
    """Return the table `name`; raises LicenseError `unknown_call_policy`."""
    table = CALL_POLICIES.get(name)
    if table is None:
        raise LicenseError(
            "unknown_call_policy",
            f"{name[:40]!r} is not a call policy; use one of {', '.join(CALL_POLICIES)}.",
        )
    return table


def admits(agent: SmartAgent, name: str = CCCSP_15) -> bool:
    """Tell whether calls are admitted now under the call policy `name`."""
    return not call_policy(name)[agent.effective]


def listens(agent: SmartAgent, name: str = CCCSP_15) -> bool:
    """Tell whether the agent is in notification listen mode: calls go on, failures are told."""
    return agent.listening and admits(agent, name)


def ahead(agent: SmartAgent, now: Moment) -> tuple[tuple[float, State], ...]:
    """Return (from when, state) from `now` on, where nobody is reached any more.

    Times are trusted time, seconds since 1970. What ends by itself: the evaluation, the
    authorization, the ID certificate.
    """
    time, state, left = now.time, agent.effective, agent.left(now)
    certificate = agent.certificate_end
    authorization = agent.authorization_end
    found = [(time, state)]
    while True:
        ends: list[tuple[float, Event]] = []
        if certificate is not None:
            ends.append((certificate, Event.CERTIFICATE_ENDED))
        if authorization is not None and state in AUTHORIZATION_HELD:
            ends.append((authorization, Event.AUTHORIZATION_ENDED))
        if agent.count > 0 and state in EVALUATING:
            ends.append((time + left, Event.EVAL_ENDED))
        if not ends:
            return tuple(found)
        at, event = min(ends)
        at = max(at, time)
        if state in EVALUATING and agent.count > 0:
            left = max(0.0, left - (at - time))
        held = certificate is not None
        rule = following(
            state,
            event,
            {
                When.IDENTIFIED: held,
                When.NOT_IDENTIFIED: not held,
                When.FORCED: False,
                When.SECONDS_LEFT: left > 0.0,
                When.SPENT: left <= 0.0,
                When.DISABLING: False,
            },
        )
        if event is Event.CERTIFICATE_ENDED:
            certificate = authorization = None
        elif event is Event.AUTHORIZATION_ENDED:
            authorization = None
        if rule is None:  # pragma: no cover - the table has a row for each of the three
            return tuple(found)
        time, state = at, rule.target
        found.append((time, state))


def policy(agent: SmartAgent, now: Moment, name: str = CCCSP_15) -> AdmissionPolicy:
    """Return what the gate does from `now` on, with the steps ahead that need nobody.

    The end of the evaluation refuses by itself; the end of an authorization goes on in listen
    mode or refuses, as the call policy `name` says. The only cap is calls per second: the
    configured count. Raises LicenseError `unknown_call_policy`.
    """
    table = call_policy(name)
    shift = now.wall - now.time
    phases = [(at, table[state]) for at, state in ahead(agent, now)]
    # A phase that has ended already, or that changes nothing for calls, is no step.
    steps: list[Step] = []
    for index, (_, reason) in enumerate(phases):
        last = index == len(phases) - 1
        end = None if last else phases[index + 1][0] + shift
        if end is not None and end <= now.wall:
            continue
        step = Step(
            until=end,
            admit=not reason,
            caps={} if reason else {CPS: agent.count},
            reason=reason,
        )
        before = steps[-1] if steps else None
        if before is not None and (before.admit, before.reason) == (step.admit, step.reason):
            steps.pop()
        steps.append(step)
    return AdmissionPolicy(steps=tuple(steps))
