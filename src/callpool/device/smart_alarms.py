"""Which alarms a Smart Agent's state raises: every state in listen mode is told of."""

from __future__ import annotations

from callpool.device import alarms as al
from callpool.device.alarms import Alarm, alarm, span
from callpool.licensing.compliance import carried
from callpool.licensing.smart import Registration, State
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import Moment
from callpool.licensing.smart_timers import WARNINGS


def smart_alarms(agent: SmartAgent, now: Moment, maximum: int) -> list[Alarm]:
    """Return what is wrong with smart licensing at `now`; `maximum` in calls a second."""
    found: list[Alarm] = []
    if not agent.enabled:
        return found
    left = agent.left(now)
    if agent.evaluating and left <= WARNINGS[0]:
        found.append(alarm(al.SMART_EVALUATION, span(left)))
    state = agent.effective
    told = f" ({agent.failure})" if agent.failure else ""
    if state is State.EVAL_EXPIRED:
        found.append(alarm(al.SMART_EVAL_EXPIRED))
    if state is State.OUT_OF_COMPLIANCE:
        found.append(alarm(al.SMART_OUT_OF_COMPLIANCE, told))
    if state is State.AUTHORIZATION_EXPIRED:
        found.append(alarm(al.SMART_AUTHORIZATION_EXPIRED, told))
    elif agent.failing_since is not None:
        found.append(alarm(al.SMART_RENEWAL_FAILED, agent.failure))
    if agent.registration in (Registration.FAILED, Registration.RETRY):
        found.append(alarm(al.SMART_REGISTRATION_FAILED, agent.failure))
    if agent.count > maximum:
        most = carried(agent.count, maximum)
        detail = f"{agent.count} configured, {most} in force; configure at most {most}."
        found.append(alarm(al.SMART_ABOVE_MAXIMUM, detail))
    if agent.out_of_range_since is not None and agent.certificate_end is not None:
        found.append(alarm(al.SMART_CLOCK, span(agent.certificate_end - now.time)))
    return found
