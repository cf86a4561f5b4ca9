"""The authority's alerts and its event log (facts 5.1, public).

An alert holds while its condition does and is raised once about one thing; an event says what
happened, when, by whom. Both are written in the change that caused them.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from callpool.manager.audit import SMART
from callpool.manager.change import Change

MAJOR: Final = "major"
MINOR: Final = "minor"

#: Usage exceeds what is purchased.
INSUFFICIENT: Final = "insufficient_licenses"
#: No contact within the renewal period.
FAILED_TO_CONNECT: Final = "failed_to_connect"
#: No renewal within the longest time allowed: its counts were freed, or it was removed.
FAILED_TO_RENEW: Final = "failed_to_renew"
#: An order is about to end: 90, 60, 30, 14, 7, 3 and 1 days before.
EXPIRING: Final = "licenses_expiring"
#: An order has ended.
EXPIRED: Final = "licenses_expired"
#: Two machines live on one serial number.
DUPLICATE: Final = "duplicate_identity"
#: The authority's database is older than what it has given out: it was restored from a backup.
RESTORED: Final = "authority_restored"

#: Alerts about what has happened: an operator dismisses them. The others end with their cause.
DISMISSABLE: Final = (EXPIRED, DUPLICATE, FAILED_TO_RENEW, RESTORED)
KINDS: Final = (
    INSUFFICIENT,
    FAILED_TO_CONNECT,
    FAILED_TO_RENEW,
    EXPIRING,
    EXPIRED,
    DUPLICATE,
    RESTORED,
)

#: What the event log tells of: every alert, and these.
EventKind = Literal[
    "insufficient_licenses",
    "failed_to_connect",
    "failed_to_renew",
    "licenses_expiring",
    "licenses_expired",
    "duplicate_identity",
    "authority_restored",
    "account_added",
    "virtual_account_added",
    "token_made",
    "token_revoked",
    "licenses_added",
    "licenses_moved",
    "in_compliance",
    "instance_registered",
    "instance_replaced",
    "instance_called",
    "instance_moved",
    "instance_removed",
    "instance_deregistered",
    "count_set",
    "certificate_renewed",
    "certificate_revoked",
    "alert_dismissed",
    "renewal_asked",
]
EVENTS: Final[tuple[str, ...]] = get_args(EventKind)

#: What a person does about each.
_ACTIONS: Final = {
    INSUFFICIENT: "Buy licenses, move some here, or configure smaller counts.",
    FAILED_TO_CONNECT: "See whether the device runs and reaches the authority.",
    FAILED_TO_RENEW: "Register the device again, or remove it.",
    EXPIRING: "Buy licenses that follow.",
    EXPIRED: "Buy licenses, or configure smaller counts.",
    DUPLICATE: "Find out which machine is the right one, remove the instance, register it anew.",
    RESTORED: "Repeat the registrations, removals and revocations made since the backup.",
}


def raise_alert(
    change: Change,
    kind: EventKind,
    about: str,
    message: str,
    *,
    va: int,
    severity: str = MAJOR,
    instance: str | None = None,
    tag: str | None = None,
    due: float | None = None,
) -> bool:
    """Raise an alert of `kind` `about` a thing, or bring its message up to date.

    `due` is until when something is to be done, seconds since 1970. Returns whether it is new;
    a new one, or a new message, is an event as well.
    """
    found = change.tx.row(
        "SELECT alert_id, message FROM smart_alert"
        " WHERE kind = :kind AND about = :about AND cleared_at IS NULL",
        kind=kind,
        about=about,
    )
    if found is not None and found["message"] == message:
        return False
    if found is None:
        change.tx.run(
            "INSERT INTO smart_alert (kind, severity, about, va_id, instance_id, message, action,"
            " action_due, raised_at) VALUES (:kind, :severity, :about, :va, :instance, :message,"
            " :action, :due, :now)",
            kind=kind,
            severity=severity,
            about=about,
            va=va,
            instance=instance,
            message=message,
            action=_ACTIONS[kind],
            due=due,
            now=change.now,
        )
    else:
        change.tx.run(
            "UPDATE smart_alert SET message = :message, severity = :severity, action_due = :due"
            " WHERE alert_id = :alert",
            message=message,
            severity=severity,
            due=due,
            alert=found["alert_id"],
        )
    event(change, kind, message, va=va, instance=instance, tag=tag)
    return found is None


def clear_alert(change: Change, kind: str, about: str) -> bool:
    """End the open alert of `kind` `about` a thing; returns whether there was one."""
    return bool(
        change.tx.run(
            "UPDATE smart_alert SET cleared_at = :now"
            " WHERE kind = :kind AND about = :about AND cleared_at IS NULL",
            kind=kind,
            about=about,
            now=change.now,
        )
    )


def event(
    change: Change,
    kind: EventKind,
    message: str,
    *,
    account: int | None = None,
    va: int | None = None,
    instance: str | None = None,
    tag: str | None = None,
) -> None:
    """Write one line of the event log: of a virtual account where `va` is given."""
    if account is None and va is not None:
        account = change.tx.value("SELECT account_id FROM virtual_account WHERE va_id = :v", v=va)
    change.tx.run(
        "INSERT INTO smart_event (at, who, source, kind, account_id, va_id, instance_id, tag,"
        " message) VALUES (:now, :who, :source, :kind, :account, :va, :instance, :tag, :message)",
        now=change.now,
        who=change.who,
        source=change.source,
        kind=kind,
        account=account,
        va=va,
        instance=instance,
        tag=tag,
        message=message,
    )
    # The event log is for people who look after accounts; the audit log misses nothing.
    change.journal(f"{SMART}{kind}", message=message, instance=instance, tag=tag)
