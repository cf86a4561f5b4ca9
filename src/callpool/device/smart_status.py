"""What the device says of its smart licensing: page and command line read this one struct."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from callpool.device.alarms import (
    DEFINITIONS,
    SMART_OUT_OF_COMPLIANCE,
    SMART_RENEWAL_FAILED,
    span,
)
from callpool.device.smart_record import SmartRecord
from callpool.device.smart_schedule import SmartTimer, timers
from callpool.licensing.admission import NO_LICENSE, REASONS
from callpool.licensing.compliance import carried
from callpool.licensing.smart import EVALUATING, Registration, State
from callpool.licensing.smart_events import Moment, Tries
from callpool.licensing.smart_numbers import (
    SLA_ENFORCE_MODE,
    SLA_REGISTRATION,
    USP_AGENT_STATE,
    USP_LICENSE_STATE,
)
from callpool.licensing.smart_policy import call_policy as policy_of
from callpool.licensing.smart_policy import listens


class SmartStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Smart licensing now. Times are absolute, seconds since 1970, as the authority gave them."""

    #: The agent's state, its number in USP-MIB.
    state: str
    state_number: int
    #: What calls do now: allow or reject, under which call policy.
    calls: str
    #: Why they are refused: the reason's stable code and its words; empty where they are not.
    refusal: str
    refusal_text: str
    call_policy: str
    #: How calls per second are judged: instant or window.
    cps_policy: str
    #: Notification listen mode.
    listening: bool
    enforcement_mode: str
    enforcement_number: int
    sla_enforcement_number: int
    registration: str
    registration_number: int
    #: Configured, and the most that can be; calls a second.
    count: int
    maximum: int
    #: In force: configured, up to the most that can be.
    limit: int
    account: str
    virtual_account: str
    instance_id: str
    export_allowed: bool
    #: Seconds of evaluation left; whether they are being used up; when they end if they are.
    eval_seconds_left: float
    evaluating: bool
    eval_end: float | None
    #: The authorization: issued, renewed, ended; since when out of compliance.
    authorization_issued: float | None
    authorization_end: float | None
    out_of_compliance_since: float | None
    #: In the account, by the last answer.
    purchased: int | None
    in_use: int | None
    #: The ID certificate: renewed, ended.
    certificate_renewal: float | None
    #: When the registration was granted and its certificate last renewed; whether the renewal
    #: that was due has failed and is tried again.
    registered_at: float | None
    renewed_at: float | None
    renewal_failing: bool
    certificate_end: float | None
    clock_grace_end: float | None
    last_attempt: float | None
    last_success: float | None
    next_contact: float | None
    failing_since: float | None
    failure_code: str
    failure: str
    #: The last contact of each kind.
    tries: Tries
    #: When each of these is tried next; None where it is not.
    next_register: float | None
    next_authorize: float | None
    #: When the evaluation ended, and when this device went out of compliance; None for neither.
    eval_ended_at: float | None
    out_of_compliance_at: float | None
    #: Whether the authority has ever answered for the entitlement since the registration.
    answered: bool
    #: Every timer that runs, in order of time.
    timers: tuple[SmartTimer, ...]


def smart_status(
    record: SmartRecord, now: Moment, *, call_policy: str, cps_policy: str, maximum: int
) -> SmartStatus:
    """Return what `record` amounts to at `now`; `maximum` in calls a second."""
    agent = record.agent
    given, dates = agent.authorization, agent.certificate
    left = agent.left(now)
    registration: Registration = agent.registration
    refusal = policy_of(call_policy)[agent.effective]
    if not refusal and not agent.count:
        refusal = NO_LICENSE
    words = "no count is configured" if refusal == NO_LICENSE else REASONS.get(refusal, "")
    return SmartStatus(
        state=agent.state.value,
        state_number=USP_AGENT_STATE[agent.state],
        calls="reject" if refusal else "allow",
        refusal=refusal,
        refusal_text=words,
        call_policy=call_policy,
        cps_policy=cps_policy,
        listening=listens(agent, call_policy),
        enforcement_mode=agent.enforcement.value,
        enforcement_number=USP_LICENSE_STATE[agent.enforcement],
        sla_enforcement_number=SLA_ENFORCE_MODE[agent.enforcement],
        registration=registration.value,
        registration_number=SLA_REGISTRATION[registration],
        count=agent.count,
        maximum=maximum,
        limit=carried(agent.count, maximum),
        account=record.account,
        virtual_account=record.virtual_account,
        instance_id=record.instance_id,
        export_allowed=record.export_allowed,
        eval_seconds_left=left,
        evaluating=agent.evaluating,
        eval_end=now.time + left if agent.evaluating else None,
        authorization_issued=given.issued_at if given else None,
        authorization_end=given.expires_at if given else None,
        out_of_compliance_since=(given.out_of_compliance_since or None) if given else None,
        purchased=given.purchased if given else None,
        in_use=given.in_use if given else None,
        certificate_renewal=agent.renew_id_at,
        registered_at=record.registered_at,
        renewed_at=record.renewed_at,
        renewal_failing=bool(
            dates and agent.renew_id_at is not None and agent.renew_id_at > dates.renew_at
        ),
        certificate_end=dates.not_after if dates else None,
        clock_grace_end=agent.certificate_end if agent.out_of_range_since is not None else None,
        last_attempt=agent.last_attempt,
        last_success=agent.last_success,
        next_contact=agent.next_contact,
        failing_since=agent.failing_since or agent.register_failing_since,
        failure_code=agent.failure_code,
        failure=agent.failure,
        tries=agent.tries,
        next_register=agent.register_at,
        next_authorize=agent.authorize_at,
        eval_ended_at=agent.eval_ended_at,
        out_of_compliance_at=agent.out_of_compliance_at,
        answered=given is not None,
        timers=timers(agent, now, call_policy),
    )


def _when(seconds: float | None) -> str:
    if seconds is None:
        return "none"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _calls(now: SmartStatus) -> str:
    why = f": {now.refusal_text}" if now.refusal else ""
    return f"{now.calls}{why} (call policy {now.call_policy}, CPS policy {now.cps_policy})"


def to_do(now: SmartStatus) -> str:
    """Return what a person has to do for calls to go on being licensed; empty for nothing."""
    state = State(now.state)
    if state is State.UNCONFIGURED:
        return "To use smart licensing, turn it on with `callpool device smart enable`."
    if not now.count:
        return "Configure a count with `callpool device smart count N`."
    if state in EVALUATING | {State.EVAL_EXPIRED} and now.registration != Registration.COMPLETE:
        return "Register the device with `callpool device smart register --token-file FILE`."
    if state is State.OUT_OF_COMPLIANCE:
        return DEFINITIONS[SMART_OUT_OF_COMPLIANCE].next_step
    if now.failing_since is not None or state is State.AUTHORIZATION_EXPIRED:
        return DEFINITIONS[SMART_RENEWAL_FAILED].next_step
    return ""


def _count(now: SmartStatus) -> str:
    text = f"{now.count} calls/s of at most {now.maximum}"
    return text if now.limit == now.count else f"{text}; {now.limit} are in force"


def rows(now: SmartStatus) -> list[tuple[str, str]]:
    """Return what people read of smart licensing, label and value; times absolute."""
    found = [
        ("State", now.state),
        ("Calls", _calls(now)),
        ("Notification listen mode", "on" if now.listening else "off"),
        ("Enforcement mode", now.enforcement_mode),
        ("Registration", now.registration),
        ("Account", f"{now.account} / {now.virtual_account}" if now.account else "none"),
        ("Product instance", now.instance_id or "none"),
        ("License count", _count(now)),
        ("Export-controlled functions", "allowed" if now.export_allowed else "not allowed"),
        ("Evaluation left", span(now.eval_seconds_left)),
    ]
    if now.eval_end is not None:
        found.append(("Evaluation ends", f"{_when(now.eval_end)}; then calls are refused"))
    found += [
        ("Authorized on", _when(now.authorization_issued)),
        ("Next communication", _when(now.next_contact)),
        ("Communication deadline", _when(now.authorization_end)),
        ("ID certificate renewal", _when(now.certificate_renewal)),
        ("ID certificate ends", _when(now.certificate_end)),
        ("Last attempt", _when(now.last_attempt)),
        ("Last success", _when(now.last_success)),
    ]
    if now.out_of_compliance_since is not None:
        found.append(("Out of compliance since", _when(now.out_of_compliance_since)))
    if now.purchased is not None:
        found.append(("Purchased / in use", f"{now.purchased} / {now.in_use} in the account"))
    if now.failure:
        found.append(("Last failure", f"{now.failure} [{now.failure_code}]"))
    if to_do(now):
        found.append(("To do", to_do(now)))
    return found
