"""Who is in compliance: recomputed whenever anything that it stands on changes.

`settle` weighs one entitlement of one virtual account, raises or ends its alert, and tells
every instance whose last authorization says otherwise. `sweep` does what the clock brings.
Both run inside one `Change`; `due` says cheaply whether there is anything to sweep.
"""

from __future__ import annotations

from typing import Final

from callpool.licensing.compliance import (
    AUTHORIZATION_RENEW,
    DAY,
    EXPIRY_NOTICES,
    SILENCE,
    Compliance,
    Entitled,
    notice,
    weigh,
)
from callpool.manager.authority_alerts import (
    EXPIRED,
    EXPIRING,
    FAILED_TO_CONNECT,
    FAILED_TO_RENEW,
    INSUFFICIENT,
    MAJOR,
    MINOR,
    clear_alert,
    event,
    raise_alert,
)
from callpool.manager.change import CLOCK, Change
from callpool.manager.store.tx import Row
from callpool.wire.smart_messages import IN_COMPLIANCE, OUT_OF_COMPLIANCE

#: States of a product instance's row; all but the first have left the list.
REGISTERED: Final = "registered"
DEREGISTERED: Final = "deregistered"
REMOVED: Final = "removed"
REPLACED: Final = "replaced"
REVOKED: Final = "revoked"
EXPIRED_ID: Final = "expired"

#: Seconds after the renewal period before silence is worth an alert: a renewal that fails at
#: first is retried every 15 minutes for 2 hours, and then every 4 hours.
CONNECT_GRACE: Final = 6 * 3_600.0
#: Where the time of the next sweep is kept.
_NEXT: Final = "smart_next"


def hint_instance(change: Change, instance_id: str) -> None:
    """Tell an instance to ask for its authorization, once this change is on disk."""
    change.tx.run(
        "UPDATE product_instance SET hint_seq = :seq WHERE instance_id = :instance",
        seq=change.next_hint(),
        instance=instance_id,
    )


def compliance(change: Change, va: int, tag: str) -> Compliance:
    """Weigh one entitlement of a virtual account, now."""
    entitled = (
        Entitled(count=r["count"], starts=r["starts"], ends=r["ends"])
        for r in change.tx.rows(
            "SELECT e.count, o.starts, o.ends FROM entitlement e"
            " JOIN smart_order o ON o.order_id = e.order_id"
            " WHERE e.va_id = :va AND e.tag = :tag",
            va=va,
            tag=tag,
        )
    )
    configured = change.tx.value(
        "SELECT coalesce(sum(a.count), 0) FROM smart_authorization a"
        " JOIN product_instance i ON i.instance_id = a.instance_id"
        " WHERE i.va_id = :va AND a.tag = :tag AND i.state = 'registered' AND NOT i.silent",
        va=va,
        tag=tag,
    )
    return weigh(entitled, (int(configured),), change.now)


def settle(change: Change, va: int, tag: str, *, asking: str = "") -> tuple[Compliance, float]:
    """Weigh one entitlement anew; returns it and since when it is out of compliance (or 0.0).

    Instances whose last authorization says otherwise are told to ask again; all but the one
    that is `asking`.
    """
    found = compliance(change, va, tag)
    before = change.tx.row(
        "SELECT out_since FROM smart_compliance WHERE va_id = :va AND tag = :tag", va=va, tag=tag
    )
    was = before["out_since"] if before is not None else 0.0
    since = 0.0 if found.ok else was or change.now
    change.tx.run(
        "INSERT INTO smart_compliance (va_id, tag, purchased, in_use, out_since)"
        " VALUES (:va, :tag, :purchased, :in_use, :since) ON CONFLICT (va_id, tag) DO UPDATE SET"
        " purchased = excluded.purchased, in_use = excluded.in_use,"
        " out_since = excluded.out_since",
        va=va,
        tag=tag,
        purchased=found.purchased,
        in_use=found.in_use,
        since=since,
    )
    about = f"{va}/{tag}"
    if found.ok:
        if clear_alert(change, INSUFFICIENT, about):
            message = f"{found.in_use} {tag} are configured of {found.purchased}: in compliance."
            event(change, "in_compliance", message, va=va, tag=tag)
    else:
        message = f"{found.in_use} {tag} are configured, {found.purchased} are purchased."
        raise_alert(change, INSUFFICIENT, about, message, va=va, tag=tag)
    status = IN_COMPLIANCE if found.ok else OUT_OF_COMPLIANCE
    for r in change.tx.rows(
        "SELECT i.instance_id FROM smart_authorization a"
        " JOIN product_instance i ON i.instance_id = a.instance_id"
        " WHERE i.va_id = :va AND a.tag = :tag AND i.state = 'registered' AND a.count > 0"
        " AND a.status <> :status AND i.hint_seq <= i.hint_seen AND i.instance_id <> :asking",
        va=va,
        tag=tag,
        status=status,
        asking=asking,
    ):
        hint_instance(change, r["instance_id"])
    return found, since


def settle_all(change: Change, va: int) -> None:
    """Weigh every entitlement that a virtual account has or uses."""
    for r in change.tx.rows(
        "SELECT tag FROM entitlement WHERE va_id = :va UNION SELECT a.tag FROM"
        " smart_authorization a JOIN product_instance i ON i.instance_id = a.instance_id"
        " WHERE i.va_id = :va UNION SELECT tag FROM smart_compliance WHERE va_id = :va",
        va=va,
    ):
        settle(change, va, r["tag"])


def leave(change: Change, instance: Row, state: str) -> None:
    """Take an instance off the list: its counts return to the virtual account at once."""
    change.tx.run(
        "UPDATE product_instance SET state = :state, left_at = :now WHERE instance_id = :instance",
        state=state,
        now=change.now,
        instance=instance["instance_id"],
    )
    for kind in (FAILED_TO_CONNECT, FAILED_TO_RENEW):
        clear_alert(change, kind, instance["instance_id"])
    settle_all(change, instance["va_id"])
    plan(change)


def due(change: Change) -> bool:
    """Tell whether the clock brought something."""
    next_at = change.tx.meta(_NEXT)
    return bool(next_at) and change.now >= float(next_at)


def plan(change: Change) -> None:
    """Keep when the clock will bring something next."""
    notices = " UNION ALL ".join(
        f"SELECT ends - {days * DAY} FROM smart_order"  # noqa: S608  constants only
        for days in EXPIRY_NOTICES
    )
    found = change.tx.value(
        "SELECT min(at) FROM (SELECT starts AS at FROM smart_order"  # noqa: S608  constants only
        f" UNION ALL SELECT ends FROM smart_order UNION ALL {notices}"
        " UNION ALL SELECT last_contact + :connect FROM product_instance WHERE state = 'registered'"
        " UNION ALL SELECT last_contact + :silence FROM product_instance WHERE state = 'registered'"
        " UNION ALL SELECT certificate_until FROM product_instance WHERE state = 'registered')"
        " AS due WHERE at > :now",
        connect=AUTHORIZATION_RENEW + CONNECT_GRACE,
        silence=SILENCE,
        now=change.now,
    )
    change.tx.set_meta(_NEXT, "" if found is None else repr(float(found)))


def plan_contact(change: Change) -> None:
    """Bring the next sweep forward to when an instance that has just called will be missed."""
    missed, next_at = change.now + AUTHORIZATION_RENEW + CONNECT_GRACE, change.tx.meta(_NEXT)
    if not next_at or missed < float(next_at):
        change.tx.set_meta(_NEXT, repr(missed))


def sweep(change: Change) -> None:
    """Do what the clock brings: orders begin, near their end and end; instances fall silent."""
    asked_by, change.who = change.who, CLOCK
    _orders(change)
    _instances(change)
    for r in change.tx.rows("SELECT va_id FROM virtual_account"):
        settle_all(change, r["va_id"])
    plan(change)
    change.who = asked_by


def _orders(change: Change) -> None:
    for r in change.tx.rows(
        "SELECT e.order_id, e.tag, e.va_id, e.count, o.ends FROM entitlement e"
        " JOIN smart_order o ON o.order_id = e.order_id WHERE e.count > 0 AND o.ends <= :until",
        until=change.now + EXPIRY_NOTICES[0] * DAY,
    ):
        look_at_end(change, r)


def look_at_end(change: Change, row: Row) -> None:
    """Alert about the end of what a virtual account has of an order, where that is due."""
    va, tag = row["va_id"], row["tag"]
    about = f"{row['order_id']}/{tag}/{va}"
    what = f"{row['count']} {tag} of order {row['order_id']}"
    if row["ends"] <= change.now:
        clear_alert(change, EXPIRING, about)
        known = change.tx.row(
            "SELECT 1 FROM smart_alert WHERE kind = :kind AND about = :about",
            kind=EXPIRED,
            about=about,
        )
        if known is None:  # once: an operator may have dismissed it
            raise_alert(change, EXPIRED, about, f"{what} have expired.", va=va, tag=tag)
        return
    days = notice(row["ends"], change.now)
    if days is not None:
        raise_alert(
            change,
            EXPIRING,
            about,
            f"{what} expire within {days} day{'s' if days > 1 else ''}.",
            va=va,
            tag=tag,
            severity=MAJOR if days <= 7 else MINOR,
            due=row["ends"],
        )


def _instances(change: Change) -> None:
    for i in change.tx.rows(
        "SELECT * FROM product_instance WHERE state = 'registered' AND (certificate_until <= :now"
        " OR last_contact <= :connect)",
        now=change.now,
        connect=change.now - AUTHORIZATION_RENEW - CONNECT_GRACE,
    ):
        name, about = f"{i['instance_id']} ({i['serial']})", i["instance_id"]
        if i["certificate_until"] <= change.now:
            leave(change, i, EXPIRED_ID)
            raise_alert(
                change,
                FAILED_TO_RENEW,
                about,
                f"{name} did not renew its ID certificate and was removed.",
                va=i["va_id"],
                instance=about,
            )
        elif i["last_contact"] + SILENCE <= change.now:
            if i["silent"]:
                continue
            change.tx.run(
                "UPDATE product_instance SET silent = TRUE WHERE instance_id = :instance",
                instance=about,
            )
            clear_alert(change, FAILED_TO_CONNECT, about)
            raise_alert(
                change,
                FAILED_TO_RENEW,
                about,
                f"{name} has not called for {SILENCE / DAY:.0f} days: its counts are free.",
                va=i["va_id"],
                instance=about,
                due=i["certificate_until"],
            )
        else:
            raise_alert(
                change,
                FAILED_TO_CONNECT,
                about,
                f"{name} has not called within its renewal period.",
                va=i["va_id"],
                severity=MINOR,
                instance=about,
                due=i["last_contact"] + SILENCE,
            )
