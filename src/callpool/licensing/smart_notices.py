"""What a Smart Agent tells people: one notice an event, with a severity and the next step.

Names follow the public notifications 1 to 22 of CISCO-SMART-LIC-MIB without their common
prefix (P, facts section 4); severities are those of CISCO-USP-MIB (P). Where the facts give no
schedule we decide (D): `IdCertExpiryWarning` by `smart_timers.CERTIFICATE_WARNINGS`, while the
renewal fails; `IdCertRenewNotStarted` instead of `IdCertRenewFail` where the renewal that was
due failed before anything could be sent; `Ready` at every start of the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from callpool.licensing.notice_log import Notice
from callpool.licensing.smart import Event, State
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import Happened

ERROR: Final = "error"
WARNING: Final = "warning"
INFORMATIONAL: Final = "informational"


#: Event -> notification and severity; what is not here is not told by itself.
_NOTICES: Final[Mapping[Event, tuple[str, str]]] = {
    Event.ENABLE: ("Enabled", INFORMATIONAL),
    Event.RESTART: ("Ready", INFORMATIONAL),
    Event.SET_COUNT: ("CountConfigured", INFORMATIONAL),
    Event.REGISTER: ("RegisterStarted", INFORMATIONAL),
    Event.REGISTERED: ("RegisterSuccess", INFORMATIONAL),
    Event.REGISTER_FAILED: ("RegisterFailed", ERROR),
    Event.IN_COMPLIANCE: ("AuthRenewSuccess", INFORMATIONAL),
    Event.ANSWERED_OUT_OF_COMPLIANCE: ("AuthRenewSuccess", WARNING),
    Event.AUTH_FAILED: ("AuthRenewFail", ERROR),
    Event.AUTH_REFUSED: ("AuthRenewFail", ERROR),
    Event.REFUSED_TOO_OFTEN: ("AuthRenewFail", ERROR),
    Event.ID_RENEWED: ("IdCertRenewSuccess", INFORMATIONAL),
    Event.ID_RENEW_FAILED: ("IdCertRenewFail", ERROR),
    Event.CERTIFICATE_WARNING: ("IdCertExpiryWarning", WARNING),
    Event.CERTIFICATE_ENDED: ("IdCertExpired", ERROR),
    Event.CLOCK_OUT_OF_RANGE: ("IdCertOutOfRange", ERROR),
    Event.CLOCK_IN_RANGE: ("SystemClockChanged", INFORMATIONAL),
    Event.EVAL_WARNING: ("EvalExpiryWarning", WARNING),
    Event.EVAL_ENDED: ("EvalExpired", ERROR),
    Event.DEREGISTER: ("DeRegisterStarted", INFORMATIONAL),
    Event.DEREGISTERED: ("DeRegisterSuccess", INFORMATIONAL),
    Event.DEREGISTER_FAILED: ("DeRegisterFailed", ERROR),
    Event.AUTHORIZATION_ENDED: ("AuthorizationExpired", ERROR),
}

#: How grave it is to be in a state.
_GRAVE: Final[Mapping[State, str]] = {
    State.EVAL_EXPIRED: ERROR,
    State.OUT_OF_COMPLIANCE: WARNING,
    State.AUTHORIZATION_EXPIRED: WARNING,
}


def reminder(agent: SmartAgent) -> Notice | None:
    """Return what is told every EXPIRED_REMINDER while this lasts, None for nothing.

    That the evaluation has ended, until the device is registered or nothing is in use (P).
    """
    if agent.state is not State.EVAL_EXPIRED or agent.registered or not agent.count:
        return None
    return Notice(
        name="EvalExpired",
        severity=ERROR,
        cause="reminder",
        sentence="Calls are refused until the device is registered and authorized.",
        was=agent.enforcement,
        mode=agent.enforcement,
        count=agent.count,
    )


def notices(happened: Happened, agent: SmartAgent) -> tuple[Notice, ...]:
    """Return what is told of `happened`; `agent` is the one after it."""
    cause = happened.event.value + (f" ({happened.code})" if happened.code else "")
    told: list[Notice] = []
    was, mode = happened.enforcement

    def tell(name: str, severity: str, sentence: str = "") -> None:
        told.append(
            Notice(
                name=name, severity=severity, cause=cause, sentence=sentence,
                was=was, mode=mode, count=agent.count,
            )
        )  # fmt: skip

    known = _NOTICES.get(happened.event)
    if happened.event is Event.ID_RENEW_FAILED and happened.unsent:
        known = ("IdCertRenewNotStarted", ERROR)
    if known is not None:
        tell(*known, happened.sentence)
    if happened.event is Event.CLOCK_OUT_OF_RANGE:
        # The dates are left by the clock's own jump: their natural end is another event (P 27).
        tell("SystemClockChanged", INFORMATIONAL)
    reached, is_now = happened.reachable
    if reached and not is_now:
        # Once an outage, not once a try.
        tell("CommunicationFailure", ERROR, happened.sentence)
    if is_now and not reached:
        tell("CommunicationRestored", INFORMATIONAL)
    moved = happened.before is not happened.after
    if moved and happened.after is State.UNCONFIGURED:
        tell("Disabled", INFORMATIONAL)
    if moved or was is not mode:
        tell(
            "EnforcementMode",
            _GRAVE.get(happened.after, INFORMATIONAL),
            f"{happened.before} -> {happened.after}, {mode}",
        )
    if happened.listening[0] != happened.listening[1]:
        on = happened.listening[1]
        tell("ListenMode", WARNING if on else INFORMATIONAL, "on" if on else "off")
    return tuple(told)
