"""Steady contacts: many devices whose reports change nothing but their own rows, in one commit.

Nearly every contact brings some minutes of use and fetches a new lease; nothing is granted, given
back, raised or asked for by it. Such contacts of many devices are read by one statement, judged
one by one, and written by a few statements and one durable commit. Whatever is not certain to be
of that kind is left to `contacts.contact`, which knows all rules; what both do must be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from callpool.licensing.instant import SKEW_REPORTED
from callpool.manager.change import Change
from callpool.manager.contacts import kept_report
from callpool.manager.identity import Identity
from callpool.manager.ledger import ACTIVE, FIXED, read_slices
from callpool.manager.restore import next_contact
from callpool.manager.restored import restored
from callpool.manager.settings import Settings
from callpool.manager.store.tx import Row
from callpool.manager.usage import Hours, by_hour, take_many
from callpool.wire.envelope import REPLY, sign
from callpool.wire.messages import (
    FACTORY_RESET,
    MANAGED,
    MODE_SMART,
    ContactReply,
    ContactRequest,
    GrantMessage,
    SliceMessage,
)

#: Contacts that are taken in one commit at most.
MOST: Final = 64

_UNITS: Final = (
    "SELECT u.serial, u.device_id, u.kid, u.state, u.locked, u.leased, u.contact_current,"
    " u.grant_version, u.grant_content, u.sent_version, u.floor_version, u.keys_sent,"
    " u.restart_number, u.alarm_log, u.alarm_taken, d.tenant_id, d.mode, d.apply, d.removed_at,"
    # What is held is what is granted and allocated, of orders that outlast the lease.
    " EXISTS (SELECT 1 FROM holding h JOIN purchase_order o ON o.order_id = h.order_id"
    "  WHERE h.serial = u.serial AND (h.held <> h.granted OR h.since <> 0"
    "  OR o.starts > :now OR o.ends <= :until)) AS moving,"
    " EXISTS (SELECT 1 FROM allocation a WHERE a.device_id = u.device_id AND a.target <>"
    "  (SELECT coalesce(sum(h.granted), 0) FROM holding h WHERE h.serial = u.serial"
    "  AND h.type = a.type)) AS short,"
    " EXISTS (SELECT 1 FROM holding h WHERE h.serial = u.serial AND NOT EXISTS"
    "  (SELECT 1 FROM allocation a WHERE a.device_id = u.device_id AND a.type = h.type)) AS beyond,"
    " EXISTS (SELECT 1 FROM unit o WHERE o.device_id = u.device_id AND o.serial <> u.serial)"
    " AS others,"
    " EXISTS (SELECT 1 FROM alarm a WHERE a.serial = u.serial) AS alarmed,"
    " EXISTS (SELECT 1 FROM meta m WHERE m.name = 'restart_window:' || CAST(u.device_id AS TEXT))"
    " AS windowed,"
    " EXISTS (SELECT 1 FROM hitless_run x WHERE x.device_id = u.device_id) AS hitless,"
    " EXISTS (SELECT 1 FROM request w JOIN device e ON e.device_id = w.device_id"
    "  WHERE e.tenant_id = d.tenant_id) AS waiting"
    " FROM unit u JOIN device d ON d.device_id = u.device_id"
    " WHERE u.serial IN TEXTS(:serials) ORDER BY u.serial LOCKED(u)"
)
#: Of those any makes a contact one that is not steady.
_STIRRED: Final = (
    "locked", "moving", "short", "beyond", "others", "alarmed", "windowed", "hitless", "waiting",
)  # fmt: skip

_KEEP: Final = (
    "UPDATE unit SET report = r.report, last_contact = :now, hint_seen = hint_seq,"
    " contact_previous = r.used, contact_current = r.next, previous_used = FALSE,"
    " last_request = r.asked, last_reply = r.reply, keys_known = keys_sent, keys_sent = :keys,"
    " lease_end = max(coalesce(lease_end, 0), :lease_end),"
    " lease_elapsed = max(coalesce(lease_elapsed, 0), :lease_elapsed)"
    " FROM ROWS(:rows; serial text, report text, used text, next text, asked text, reply text)"
    " WHERE unit.serial = r.serial"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A contact whose signature is verified, and by which key."""

    request: ContactRequest
    kid: str


def take(
    change: Change, asked: Sequence[Asked], identity: Identity, settings: Settings
) -> list[str]:
    """Take those contacts that are steady; returns a reply for each of `asked`.

    It is empty for one that is to be taken by `contacts.contact`, of which nothing was done here.
    """
    replies = [""] * len(asked)
    if restored(change.tx) is not None:
        return replies
    first = {a.request.serial: n for n, a in reversed(list(enumerate(asked)))}
    rows = change.tx.rows(
        _UNITS,
        serials=_json(sorted(first)),
        now=change.now,
        until=change.now + settings.lease_seconds,
    )
    steady: dict[str, tuple[Row, tuple[SliceMessage, ...]]] = {}
    reports: dict[str, tuple[int, Hours]] = {}
    for row in rows:
        one = asked[first[row["serial"]]]
        if not _is_steady(row, one, change.now):
            continue
        slices = read_slices(row["grant_content"])
        if all(s.since == 0.0 and s.until > change.now + settings.lease_seconds for s in slices):
            steady[row["serial"]] = row, slices
            hours = by_hour(one.request.usage, change.now, settings)
            reports[row["serial"]] = row["tenant_id"], hours
    take_many(change, reports)
    kept = []
    for serial, (row, slices) in steady.items():
        one = asked[first[serial]]
        answer = _answer(change, row, slices, one.request, identity, settings)
        reply = sign(identity.signer(row["keys_sent"], change.now), REPLY, answer)
        replies[first[serial]] = reply
        kept.append(
            {
                "serial": serial,
                "report": kept_report(one.request),
                "used": one.request.contact,
                "next": answer.contact,
                "asked": f"{one.request.contact} {one.request.nonce}",
                "reply": reply,
            }
        )
    if kept:
        change.tx.later(
            _KEEP,
            rows=_json(kept),
            now=change.now,
            keys=identity.key_book().serial,
            lease_end=change.now + settings.lease_seconds,
            lease_elapsed=change.elapsed + settings.lease_seconds,
        )
    return replies


def _is_steady(row: Row, asked: Asked, now: float) -> bool:
    request, log = asked.request, asked.request.alarm_log
    return (
        row["kid"] == asked.kid
        and row["state"] == ACTIVE
        and row["removed_at"] is None
        and row["mode"] == FIXED
        and bool(row["leased"])
        and not any(row[name] for name in _STIRRED)
        and request.contact == row["contact_current"]
        and "\0" not in request.nonce  # no text for PostgreSQL: it must fail for itself alone
        and abs(request.time - now) <= SKEW_REPORTED
        and request.reason != FACTORY_RESET
        and request.mode != MODE_SMART
        and request.pair is None
        and max(request.remote_version, request.applied_version) <= row["grant_version"]
        and row["sent_version"] == row["grant_version"] == row["floor_version"]
        and row["restart_number"] <= request.restart_done
        and (
            log is None
            or (
                log.log == row["alarm_log"] != ""
                and not log.active
                and all(event.sequence <= row["alarm_taken"] for event in log.events)
            )
        )
    )


def _answer(
    change: Change,
    row: Row,
    slices: tuple[SliceMessage, ...],
    request: ContactRequest,
    identity: Identity,
    settings: Settings,
) -> ContactReply:
    book = identity.key_book()
    return ContactReply(
        nonce=request.nonce,
        serial=row["serial"],
        time=change.now,
        status=MANAGED,
        contact=next_contact(identity.anchor, row, request.contact),
        grant=GrantMessage(version=row["grant_version"], apply=row["apply"], slices=slices),
        lease_end=change.now + settings.lease_seconds,
        lease_seconds=settings.lease_seconds,
        poll_seconds=settings.poll_seconds,
        retry_seconds=settings.retry_seconds,
        retry_later_seconds=settings.retry_later_seconds,
        retry_later_after=settings.retry_later_after,
        restart=None,
        usage_seconds=settings.usage_seconds,
        alarms_taken=None if request.alarm_log is None else row["alarm_taken"],
        key_set=book.envelope if row["keys_sent"] < book.serial else "",
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
