"""A contact: what a device reports is taken in, its lease renewed, its grant written, then sent.

Contact values tell a clone from its original. Each good contact hands out the next value:
- the current value is good;
- the same value with the nonce of the last request is that request repeated: it gets the same
  reply again, byte for byte;
- the previous value with another nonce is a lost reply: accepted once;
- a value of this manager's own that is newer: the database was restored from a backup
  (`restore.py`);
- anything else is a copied or rolled-back machine: the unit is locked until an operator
  decides, and its lease is not renewed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from callpool.licensing.errors import TrustError
from callpool.licensing.instant import SKEW_REFUSED, SKEW_REPORTED
from callpool.manager import hitless_runs, queue
from callpool.manager.alarm_report import take_report
from callpool.manager.change import Change
from callpool.manager.identity import Identity
from callpool.manager.ledger import (
    ACTIVE,
    FIXED,
    REPLACED,
    REVOKED,
    device_by_id,
    read_slices,
    regrant,
    sent_grants,
    settle_unit,
    unit_by_serial,
)
from callpool.manager.pairs import note_active
from callpool.manager.restore import judge, newer, next_contact
from callpool.manager.settings import Settings
from callpool.manager.standing import is_reset, note_reset
from callpool.manager.store.tx import Alone, Row, Tx
from callpool.manager.usage import take_usage
from callpool.manager.windows import calls_within, order_for
from callpool.wire.envelope import REPLY, sign
from callpool.wire.keys import PublicKey
from callpool.wire.messages import (
    MANAGED,
    NOT_LISTED,
    NOT_MANAGED,
    ContactReply,
    ContactRequest,
    GrantMessage,
    WaitingMessage,
)

#: Codes of a unit that is locked.
STALE_CONTACT = "stale_contact"
UNIT_LOCKED = "unit_locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back to the device: a signed reply, or why there is none."""

    #: The reply's envelope.
    reply: str = ""
    #: Why it is refused; what was written because of it (a lock) stays written.
    refusal: TrustError | None = None


def signers_of(tx: Tx, kids: Iterable[str]) -> dict[str, tuple[PublicKey, str, float]]:
    """Return by `kid` the key, the serial number that it is enrolled for and its lease's end.

    In seconds since 1970, 0 for none. A `kid` that no unit has is left out.
    """
    return {
        r["kid"]: (PublicKey.from_text(r["public_key"]), r["serial"], r["lease_end"] or 0.0)
        for r in tx.rows(
            "SELECT kid, public_key, serial, lease_end FROM unit WHERE kid IN TEXTS(:kids)",
            # An unverified word: what no key is called by must not spoil the question for others.
            kids=msgspec.json.encode([k for k in kids if k.isascii() and k.isprintable()]).decode(),
        )
    }


def check_skew(time: float, now: float) -> float:
    """Return a device's skew in seconds; raises TrustError `clock_skew` above an hour."""
    skew = time - now
    if abs(skew) > SKEW_REFUSED:
        raise TrustError(
            "clock_skew",
            f"The device's clock is {abs(skew):.0f} seconds "
            f"{'ahead of' if skew > 0 else 'behind'} the manager's; set one of them right.",
        )
    return skew


def contact(
    change: Change, request: ContactRequest, kid: str, identity: Identity, settings: Settings
) -> Answer:
    """Take one contact, verified by key `kid`; all is on disk before the answer leaves."""
    unit = unit_by_serial(change, request.serial)
    assert unit is not None  # its key was found a moment ago, and rows are never deleted
    if unit["state"] == REPLACED:
        change.journal("replaced_unit_called", serial=request.serial)
        return Answer(
            refusal=TrustError(
                "serial_replaced", f"Serial number {request.serial} has been replaced by another."
            )
        )
    if unit["kid"] != kid:  # released while the request was on its way
        return Answer(
            refusal=TrustError("unknown_signer", "The device's key is no longer trusted.")
        )
    if unit["locked"]:
        return Answer(refusal=locked(unit))
    try:
        skew = check_skew(request.time, change.now)
    except TrustError as error:
        change.journal("clock_skew_refused", serial=request.serial, skew=request.time - change.now)
        return Answer(refusal=error)
    asked = f"{request.contact} {request.nonce}"
    if asked == unit["last_request"]:
        return Answer(reply=unit["last_reply"])
    last = msgspec.json.decode(unit["report"]) if unit["report"] else {}
    current = request.contact == unit["contact_current"]
    fresh = newer(identity.anchor, unit, request.contact)
    if not current and not fresh:
        if request.time < last.get("time", 0.0):
            # A request that was overtaken by later ones (it lay in a manager that hung): old
            # news, and no sign of a clone, whose own time goes on.
            return Answer(
                refusal=TrustError(
                    "older_report", "This request is older than the last one and was not taken."
                )
            )
        if request.contact != unit["contact_previous"] or unit["previous_used"]:
            change.tx.run(
                "UPDATE unit SET locked = :why WHERE serial = :serial",
                why=STALE_CONTACT,
                serial=request.serial,
            )
            change.journal("unit_locked", serial=request.serial, reason=STALE_CONTACT)
            return Answer(refusal=_locked(STALE_CONTACT, request.serial))
    refusal = judge(change, unit, request, fresh=fresh)
    if refusal is not None:
        return Answer(refusal=refusal)
    take_usage(change, request.serial, request.usage, settings)
    if abs(skew) > SKEW_REPORTED:
        change.journal("clock_skew", serial=request.serial, skew=skew)
    before = unit["last_contact"]
    unit = _take_report(change, unit, request, current=current)
    if is_reset(unit):
        note_reset(change, unit)
    settle_unit(change, unit)
    device = device_by_id(change, unit["device_id"])
    listed = unit["state"] == ACTIVE and device["removed_at"] is None
    alarms_taken = take_report(change, unit, request.alarm_log) if listed else None
    again = regrant(change, device) or is_reset(unit)
    if listed and request.pair is not None:
        note_active(change, device, request.serial, before)
        hitless_runs.heard(change, device, request.serial, settings)
        again = True
    if again:
        unit = unit_by_serial(change, request.serial)
        assert unit is not None  # as above
    if is_reset(unit):
        settle_unit(change, unit)  # nothing is granted to it any more
    return Answer(reply=_reply(change, unit, device, request, identity, settings, alarms_taken))


def locked(unit: Row) -> TrustError:
    """Return why a locked unit is refused."""
    if unit["locked"] == REVOKED:
        return TrustError(
            REVOKED,
            f"The identity of serial number {unit['serial']} has been revoked; what it holds ends "
            "with its lease. An operator can release it at the license server.",
        )
    return _locked(UNIT_LOCKED, unit["serial"])


def _locked(code: str, serial: str) -> TrustError:
    return TrustError(
        code,
        f"Serial number {serial} is locked: a copied or rolled-back machine has called by it; "
        "an operator decides at the manager.",
    )


def kept_report(request: ContactRequest) -> str:
    """Return what is kept of a report: what stands elsewhere or is of use once is left out."""
    kept = msgspec.structs.replace(request, contact="", nonce="", usage=(), alarm_log=None)
    return msgspec.json.encode(kept).decode()


def _take_report(change: Change, unit: Row, request: ContactRequest, *, current: bool) -> Row:
    """Keep the report; the current contact value proves that the last reply arrived."""
    taken = change.tx.row(
        "UPDATE unit SET report = :report, last_contact = :now, hint_seen = hint_seq,"
        " floor_version = CASE WHEN :current THEN max(floor_version, sent_version)"
        "   ELSE floor_version END,"
        " keys_known = CASE WHEN :current THEN keys_sent ELSE keys_known END"
        " WHERE serial = :serial RETURNING *",
        report=kept_report(request),
        now=change.now,
        current=current,
        serial=unit["serial"],
    )
    assert taken is not None  # it was there a moment ago
    return taken


def _covered(change: Change, unit: Row) -> bool:
    """Tell whether what the device may be running is still held for it.

    A lease that ended here freed what was held beyond the targets; a device that has not
    noticed gets no renewal, so that it drops what it runs.
    """
    held = {
        (r["type"], r["order_id"], r["since"]): r["held"]
        for r in change.tx.rows(
            "SELECT type, order_id, since, held FROM holding WHERE serial = :serial",
            serial=unit["serial"],
        )
    }
    return all(
        count <= held.get((name, *key), 0)
        for grant in sent_grants(change, unit, unit["grant_version"] + 1)
        for name, counts in grant.items()
        for key, count in counts.items()
    )


def _reply(
    change: Change,
    unit: Row,
    device: Row,
    request: ContactRequest,
    identity: Identity,
    settings: Settings,
    alarms_taken: int | None,
) -> str:
    listed = unit["state"] == ACTIVE and device["removed_at"] is None
    managed = listed and device["mode"] == FIXED and not is_reset(unit)
    status = MANAGED if managed else NOT_MANAGED if listed else NOT_LISTED
    lease = settings.lease_seconds
    holds = change.tx.row("SELECT 1 FROM holding WHERE serial = :serial", serial=unit["serial"])
    spent = not unit["leased"] and not _covered(change, unit)
    if spent:
        lease = 0.0
    elif not managed:
        # No renewal: what is left of the lease is all it gets.
        lease = max(0.0, (unit["lease_end"] or 0.0) - change.now) if unit["leased"] else 0.0
    gives = managed or (holds is not None and not is_reset(unit))
    if gives and unit["sent_version"] != unit["grant_version"]:
        change.tx.run(
            "INSERT INTO grant_journal (serial, version, slices, at)"
            " VALUES (:serial, :version, :slices, :now) ON CONFLICT (serial, version) DO NOTHING",
            serial=unit["serial"],
            version=unit["grant_version"],
            slices=unit["grant_content"],
            now=change.now,
        )
        change.journal(
            "grant_sent",
            serial=unit["serial"],
            version=unit["grant_version"],
            reason=request.reason,
        )
    book = identity.key_book()
    restart = order_for(change, unit, request.restart_done) if listed else None
    run = hitless_runs.said_to(change, unit) if listed else hitless_runs.Said()
    if restart is not None and run.restart_until is not None:
        restart = msgspec.structs.replace(restart, until=run.restart_until)
    # Calls in progress keep units that are to be given back: ask again soon. A change that
    # waits for a restart is not hurried by asking.
    soon = spent or (
        request.applied_version == unit["grant_version"]
        and change.tx.row(
            "SELECT 1 FROM holding WHERE serial = :serial AND held > granted",
            serial=unit["serial"],
        )
        is not None
    )
    poll = settings.reclaim_poll_seconds if soon else settings.poll_seconds
    pace = queue.pace(change.tx, device["tenant_id"]) if managed else 0.0
    if pace and change.tx.beside:
        raise Alone  # what it reports may bring the requests on
    if pace:
        poll = min(poll, settings.waiting_poll_seconds * pace)
    asked = queue.request_of(change.tx, device["device_id"]) if pace else None
    answer = ContactReply(
        nonce=request.nonce,
        serial=unit["serial"],
        time=change.now,
        status=status,
        contact=next_contact(identity.anchor, unit, request.contact),
        grant=GrantMessage(
            version=unit["grant_version"],
            apply=device["apply"],
            slices=read_slices(unit["grant_content"]),
        )
        if gives
        else None,
        lease_end=change.now + lease,
        lease_seconds=lease,
        poll_seconds=poll,
        retry_seconds=settings.retry_seconds,
        retry_later_seconds=settings.retry_later_seconds,
        retry_later_after=settings.retry_later_after,
        restart=restart,
        usage_seconds=settings.usage_seconds if listed else 0.0,
        alarms_taken=alarms_taken,
        key_set=book.envelope if unit["keys_known"] < book.serial else "",
        waiting=tuple(
            WaitingMessage(type=name, count=count, sentence=asked.why.get(name, ""))
            for name, count in asked.wanted.items()
        )
        if asked
        else (),
        switch=run.switch,
        expect_ha_alarms_until=run.alarms_until,
    )
    if run.running:
        answer = msgspec.structs.replace(
            answer,
            poll_seconds=min(answer.poll_seconds, hitless_runs.POLL),
            # A manager that is killed meanwhile is found again within the run's deadlines.
            retry_seconds=min(answer.retry_seconds, hitless_runs.RETRY),
        )
    within = calls_within(change, unit) if listed else None
    if within is not None:
        answer = msgspec.structs.replace(answer, poll_seconds=min(answer.poll_seconds, within))
    reply = sign(identity.signer(unit["keys_known"], change.now), REPLY, answer)
    renews = lease > 0.0
    change.tx.run(
        "UPDATE unit SET contact_previous = :used, contact_current = :next,"
        " previous_used = :lost, last_request = :asked, last_reply = :reply,"
        " keys_sent = :keys, sent_version = CASE WHEN :gives THEN grant_version"
        "   ELSE sent_version END,"
        " leased = leased OR :renews,"
        " lease_end = CASE WHEN :renews THEN max(coalesce(lease_end, 0), :lease_end)"
        "   ELSE lease_end END,"
        " lease_elapsed = CASE WHEN :renews THEN max(coalesce(lease_elapsed, 0), :lease_elapsed)"
        "   ELSE lease_elapsed END"
        " WHERE serial = :serial",
        used=request.contact,
        next=answer.contact,
        lost=request.contact != unit["contact_current"]
        and not newer(identity.anchor, unit, request.contact),
        asked=f"{request.contact} {request.nonce}",
        reply=reply,
        keys=book.serial,
        gives=gives,
        renews=renews,
        lease_end=answer.lease_end,
        lease_elapsed=change.elapsed + lease,
        serial=unit["serial"],
    )
    return reply
