"""What `show license ...` says, with the field's labels (facts: the classic agent's layout).

Times are absolute and as the authority gave them, so two readings differ only where something
has changed. Beside each deadline stands what happens then.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from callpool.device.alarms import span
from callpool.device.smart_status import SmartStatus, to_do
from callpool.device.status import SOFTWARE, Status
from callpool.licensing.admission import REASONS
from callpool.licensing.smart import Registration, State

#: The product's name in the UDI.
PID: Final = "CALLPOOL-DEVICE"

_REGISTRATION: Final = {
    Registration.NOT_REGISTERED: "UNREGISTERED",
    Registration.COMPLETE: "REGISTERED",
    Registration.IN_PROGRESS: "REGISTERING",
    Registration.RETRY: "UNREGISTERED - REGISTRATION FAILED, RETRYING",
    Registration.FAILED: "UNREGISTERED - REGISTRATION FAILED",
}
_AUTHORIZATION: Final = {
    State.UNCONFIGURED: "No Licenses in Use",
    State.UNIDENTIFIED: "EVAL MODE",
    State.REGISTERED: "EVAL MODE",
    State.EVAL_EXPIRED: "EVAL EXPIRED",
    State.AUTHORIZED: "AUTHORIZED",
    State.OUT_OF_COMPLIANCE: "OUT OF COMPLIANCE",
    State.AUTHORIZATION_EXPIRED: "AUTHORIZATION EXPIRED",
    State.TRANSIENT: "TRANSIENT",
}


def when(seconds: float | None, otherwise: str = "None") -> str:
    """Return a time (seconds since 1970) in UTC, to the second."""
    if seconds is None:
        return otherwise
    return datetime.fromtimestamp(round(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def whole(status: Status) -> list[str]:
    """`show license all`."""
    parts = (standing(status), usage(status), udi(status), version(), reservation())
    return [line for part in parts for line in (*part, "")][:-1]


def standing(status: Status) -> list[str]:
    """`show license status`."""
    smart = status.smart
    lines = _enabled(smart)
    lines += ["", "Utility:", "  Status: DISABLED"]
    lines += ["", "Data Privacy:", "  Sending Hostname: no"]
    lines += ["    Callhome hostname privacy: DISABLED"]
    lines += ["    Smart Licensing hostname privacy: DISABLED", "  Version privacy: DISABLED"]
    lines += ["", "Transport:", "  Type: Smart", f"  URL: {status.manager or 'None'}"]
    if smart is not None:
        lines += ["", *_registration(smart), "", *_authorization(smart), "", *_deadlines(smart)]
    return lines


def summary(status: Status) -> list[str]:
    """`show license summary`."""
    smart = status.smart
    lines = _enabled(smart)
    if smart is not None:
        lines += ["", "Registration:", f"  Status: {_registered(smart)}"]
        lines += _accounts(smart)
        lines += [f"  Export-Controlled Functionality: {_export(smart)}"]
        lines += [f"  Last Renewal Attempt: {_renewed(smart)}"]
        lines += [f"  Next Renewal Attempt: {when(smart.certificate_renewal)}"]
        lines += ["", "License Authorization:", f"  Status: {_authorized(smart)}"]
        lines += [f"  Last Communication Attempt: {_communicated(smart)}"]
        lines += [f"  Next Communication Attempt: {when(smart.next_contact)}"]
    return [*lines, "", *usage(status)]


def usage(status: Status) -> list[str]:
    """`show license usage`."""
    smart = status.smart
    lines = ["License Usage"]
    if smart is None or not smart.count:
        return [*lines, "  No licenses in use"]
    state = State(smart.state)
    lines += [
        "  Calls per second (cps):",
        "    Description: calls that may be set up in a second",
        f"    Count: {smart.count}",
        "    Version: 1.0",
        f"    Status: {_AUTHORIZATION[state]}",
        f"    Enforcement mode: {smart.enforcement_mode}",
        f"    In force: {smart.limit} calls/s of at most {smart.maximum}, judged by "
        f"{smart.cps_policy}; new calls: {_calls(smart)}",
        "    Export status: NOT RESTRICTED",
    ]
    if smart.purchased is not None:
        lines.append(f"    In the account: {smart.purchased} purchased, {smart.in_use} in use")
    return lines


def udi(status: Status) -> list[str]:
    """`show license udi`."""
    return ["Product Information", f"  UDI: PID:{PID},SN:{status.serial}"]


def version() -> list[str]:
    """Return the agent's version."""
    return ["Agent Version", f"  Smart Agent for Licensing: {SOFTWARE}"]


def reservation() -> list[str]:
    """Return the reservation's part: there is none."""
    return ["Reservation Info", "  License reservation: DISABLED"]


def pool(status: Status) -> list[str]:
    """`show license pool`."""
    lines = [
        f"Mode: {status.mode}",
        f"License Server Status: {status.server_status}",
        f"OVOC Product Key: {status.product_key or 'None'}",
        f"Local License Key: {status.local_key or 'None'}",
        f"Features: {', '.join(status.features) or 'None'}",
        f"In Service: {'Yes' if status.in_service else 'No: ' + status.out_of_service}",
        f"Last Contact: {when(status.last_contact)}",
        f"Lease Ends: {when(status.lease_end)}",
    ]
    if status.lease_end is not None:
        lines.append(
            "  Then: Remote is discarded, and the SIP service restarts on the local key; calls "
            "that are up go on."
        )
    lines += [
        "",
        f"{'SBC Capacity':18}{_columns('Remote', 'Local', 'Actual', 'Pending', 'In Use')}",
    ]
    for row in status.capacity:
        pending = str(row.pending) if row.pending != row.actual else "-"
        counts = (str(row.remote), str(row.local), str(row.actual), pending, str(row.in_use))
        lines.append(f"{row.label:18}{_columns(*counts)}")
    if status.pending:
        lines += ["", "Pending: `restart save` applies it; calls that are up survive it."]
    for wait in status.waiting:
        lines.append(f"Waiting: {wait.count} {wait.type}: {wait.sentence}")
    return lines


def _columns(*texts: str) -> str:
    return "".join(f"{text:>9}" for text in texts)


def _enabled(smart: SmartStatus | None) -> list[str]:
    on = smart is not None and State(smart.state) is not State.UNCONFIGURED
    lines = [f"Smart Licensing is {'ENABLED' if on else 'DISABLED'}"]
    if smart is not None:
        lines.append(f"License State: {smart.state}; new calls: {_calls(smart)}")
        if to_do(smart):
            lines.append(f"To do: {_words_here(to_do(smart))}")
    return lines


def _words_here(sentence: str) -> str:
    """Return a sentence with the shell's own commands in the place of the host's."""
    for host, here in (
        ("callpool device smart enable", "license smart enable"),
        ("callpool device smart count N", "license smart count N"),
        (
            "callpool device smart register --token-file FILE",
            "license smart register idtoken TOKEN",
        ),
    ):
        sentence = sentence.replace(host, here)
    return sentence


def _calls(smart: SmartStatus) -> str:
    why = f" ({REASONS.get(smart.refusal, smart.refusal_text)})" if smart.refusal else ""
    listening = "; notification listen mode" if smart.listening else ""
    word = "refused" if smart.calls == "reject" else "admitted"
    return f"{word}{why}, call policy {smart.call_policy}{listening}"


def _registered(smart: SmartStatus) -> str:
    return _REGISTRATION[Registration(smart.registration)]


def _accounts(smart: SmartStatus) -> list[str]:
    if not smart.account:
        return []
    return [f"  Smart Account: {smart.account}", f"  Virtual Account: {smart.virtual_account}"]


def _export(smart: SmartStatus) -> str:
    return "ALLOWED" if smart.export_allowed else "NOT ALLOWED"


def _renewed(smart: SmartStatus) -> str:
    if smart.renewal_failing:
        return "FAILED, tried again at the next attempt"
    return f"SUCCEEDED on {when(smart.renewed_at)}" if smart.renewed_at is not None else "None"


def _registration(smart: SmartStatus) -> list[str]:
    lines = ["Registration:", f"  Status: {_registered(smart)}", *_accounts(smart)]
    lines.append(f"  Export-Controlled Functionality: {_export(smart)}")
    if smart.registered_at is not None:
        lines.append(f"  Initial Registration: SUCCEEDED on {when(smart.registered_at)}")
    lines.append(f"  Last Renewal Attempt: {_renewed(smart)}")
    lines.append(f"  Next Renewal Attempt: {when(smart.certificate_renewal)}")
    lines.append(f"  Registration Expires: {when(smart.certificate_end)}")
    return lines


def _authorized(smart: SmartStatus) -> str:
    at = smart.out_of_compliance_since or smart.authorization_issued
    word = _AUTHORIZATION[State(smart.state)]
    return f"{word} on {when(at)}" if at is not None else word


def _communicated(smart: SmartStatus) -> str:
    if smart.last_attempt is None:
        return "None"
    if smart.failure_code or smart.failure:
        return f"FAILED on {when(smart.last_attempt)}"
    return f"SUCCEEDED on {when(smart.last_attempt)}"


def _authorization(smart: SmartStatus) -> list[str]:
    lines = ["License Authorization:", f"  Status: {_authorized(smart)}"]
    if smart.authorization_issued is None:
        left = span(smart.eval_seconds_left)
        ends = f"; it ends {when(smart.eval_end)}" if smart.eval_end is not None else ""
        use = "in use" if smart.evaluating else "not in use"
        lines.append(f"  Evaluation Period Remaining: {left}, {use}{ends}")
    lines.append(f"  Last Communication Attempt: {_communicated(smart)}")
    if smart.failure:
        lines.append(f"    Failure reason: {smart.failure} [{smart.failure_code}]")
    lines.append(f"  Next Communication Attempt: {when(smart.next_contact)}")
    lines.append(f"  Communication Deadline: {when(smart.authorization_end)}")
    return lines


def _deadlines(smart: SmartStatus) -> list[str]:
    """Return what is due, when, and what happens then."""
    if not smart.timers:
        return ["Deadlines: none"]
    return [
        "Deadlines:",
        *(
            line
            for timer in smart.timers
            for line in (f"  {when(timer.at)}  {timer.what}", f"    Then: {timer.then}")
        ),
    ]
