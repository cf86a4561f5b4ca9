"""One contact, as values: the request that is signed, and what a verified reply changes.

Nothing here does I/O; the agent writes the outcome to flash before it is sent or enforced.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import msgspec

from callpool.device.alarms import Alarm
from callpool.device.ports import Usage
from callpool.device.record import Opened, Pending, Pool, SignedReply, lease_end
from callpool.device.schedule import Cadence
from callpool.device.status import SOFTWARE, in_use, peak
from callpool.device.trust import KeyRing, certificate_request, fresh_reply
from callpool.licensing.capacity import Capacity
from callpool.licensing.instant import HighWaterMark, Instant
from callpool.licensing.lease import DeviceLicense, Grant
from callpool.wire.envelope import CONTACT, ENROL, sign
from callpool.wire.keys import SigningKey
from callpool.wire.messages import (
    CONTACT_PATH,
    ENROL_PATH,
    MANAGED,
    AlarmsMessage,
    ContactReply,
    ContactRequest,
    EnrolReply,
    EnrolRequest,
    PairReport,
    UsageMinute,
    new_nonce,
)

#: Seconds for which the same bytes are repeated: well inside the skew that is refused.
REPEAT_FOR: Final = 1800.0
#: A reply to bytes older than this (seconds) is followed by a contact with fresh ones.
FRESH: Final = 60.0


def contact_request(
    opened: Opened,
    *,
    url: str,
    identity: SigningKey,
    actual: Capacity,
    confirmed_version: int,
    now: Instant,
    time: float,
    reason: str,
    minutes: tuple[UsageMinute, ...] = (),
    usage: Usage,
    alarms: tuple[Alarm, ...],
    alarm_log: AlarmsMessage | None = None,
    mode: str,
    pair: PairReport | None = None,
) -> Pending:
    """Sign a contact at `now`, trusted `time`; `actual` is what is enforced.

    `confirmed_version` is the grant that the gate is confirmed to enforce: what the manager
    frees on this word must be out of use (law 1). `minutes` are the use to report.
    """
    held, pool = opened.license, opened.record.pool
    used, nonce = in_use(usage), new_nonce()
    body = ContactRequest(
        url=url,
        nonce=nonce,
        serial=held.serial,
        contact=pool.contact,
        time=now.wall,
        reason=reason,
        remote_version=version(held.remote),
        applied_version=confirmed_version,
        remote_in_use=held.remote_in_use(used, time).to_dict(),
        in_use=used.to_dict(),
        peak=peak(usage).to_dict(),
        refused=dict(usage.refused),
        usage=minutes,
        local=held.local_at(time).to_dict(),
        maximum=dict(held.maximum),
        actual=actual.to_dict(),
        restart_done=pool.restart_done,
        alarms=tuple(a.code for a in alarms),
        alarm_log=alarm_log,
        software=SOFTWARE,
        mode=mode,
        pair=pair,
    )
    return Pending(
        path=CONTACT_PATH,
        envelope=sign(identity, CONTACT, body),
        nonce=nonce,
        reason=reason,
        boottime=now.boottime,
        boot_id=now.boot_id,
        usage_until=minutes[-1].at if minutes else 0,
        remote_version=body.remote_version,
        applied_version=body.applied_version,
        in_use=body.remote_in_use,
        mode=mode,
    )


def enrol_request(
    *, secret: str, url: str, serial: str, identity: SigningKey, now: Instant
) -> Pending:
    """Sign an enrolment at `now` with a registration token's secret part."""
    nonce = new_nonce()
    body = EnrolRequest(
        url=url,
        nonce=nonce,
        token=secret,
        serial=serial,
        public_key=identity.public.text,
        request=certificate_request(identity, serial),
    )
    return Pending(
        path=ENROL_PATH,
        envelope=sign(identity, ENROL, body),
        nonce=nonce,
        reason="enrol",
        boottime=now.boottime,
        boot_id=now.boot_id,
    )


def repeatable(pending: Pending | None, path: str, now: Instant) -> bool:
    """Tell whether the same bytes may be sent again: this boot's, and young."""
    return (
        pending is not None
        and pending.path == path
        and pending.boot_id == now.boot_id
        and now.boottime - pending.boottime < REPEAT_FOR
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one verified reply amounts to."""

    opened: Opened
    mark: HighWaterMark
    reply: ContactReply
    cadence: Cadence
    #: The reply gives no lease: Remote is discarded.
    ended: bool
    #: Contact again at once: the request was old when it was answered.
    again: bool


def take(
    opened: Opened, pending: Pending, envelope: str, *, mark: HighWaterMark, now: Instant
) -> Taken:
    """Judge the reply `envelope` to `pending`; nothing changes where it raises.

    The reply's time was written at some moment since the request was first sent. The latest
    time that it can be now is believed: a reply that somebody held back buys no time.
    Raises TrustError or LicenseError.
    """
    ring = opened.ring
    if ring is None:  # pragma: no cover - the agent asks only once enrolled
        raise ValueError("not enrolled")
    held, pool = opened.license, opened.record.pool
    reply, ring = fresh_reply(
        envelope, ring, serial=held.serial, nonce=pending.nonce, now=mark.time(now)
    )
    age = max(0.0, now.boottime - pending.boottime)
    mark = mark.signed(reply.time + age, now)
    time = mark.time(now)
    latest = opened.latest
    pool = msgspec.structs.replace(
        pool,
        contact=reply.contact,
        status=reply.status,
        was_managed=pool.was_managed or reply.status == MANAGED,
        key_set=ring.envelope,
        pending=None,
    )
    if reply.grant is not None:
        grant = reply.grant.grant(held.serial)
        held = held.receive(grant, lease_end(reply), time)
        signed = SignedReply(reply=envelope, key_set=ring.envelope)
        pool = msgspec.structs.replace(
            pool,
            latest=signed,
            removed=False,
            seen_version=held.seen_version,
            applied=signed if held.applied == grant else pool.applied,
        )
        latest = reply
    else:
        held = removed(held, time)
        pool = msgspec.structs.replace(
            pool, removed=True, applied=pool.applied if held.applied else None
        )
    opened = msgspec.structs.replace(
        opened.recording(pool=pool), license=held, ring=ring, latest=latest
    )
    ended = held.ended(time)
    if ended:
        opened = discarded(opened)
    return Taken(
        opened=opened,
        mark=mark,
        reply=reply,
        cadence=Cadence(
            poll=reply.poll_seconds,
            retry=reply.retry_seconds,
            retry_later=reply.retry_later_seconds,
            retry_later_after=reply.retry_later_after,
            usage=reply.usage_seconds,
        ),
        ended=ended,
        again=age > FRESH,
    )


def version(grant: Grant | None) -> int:
    """Return a grant's version, 0 for none."""
    return grant.version if grant else 0


def removed(held: DeviceLicense, time: float) -> DeviceLicense:
    """Take Remote away: the manager no longer manages this unit.

    What is applied stands until a restart with save or the lease's end, as any other change;
    where it gives nothing there is nothing to restart for.
    """
    gone = replace(held, remote=None)
    return gone if gone.applied and gone.applied.peak(time) else replace(gone, applied=None)


def discarded(opened: Opened) -> Opened:
    """Drop Remote and what was applied of it, in the record and in the license."""
    pool = msgspec.structs.replace(opened.record.pool, latest=None, applied=None, removed=False)
    return msgspec.structs.replace(
        opened.recording(pool=pool), license=opened.license.discarded(), latest=None
    )


def restarted(opened: Opened, *, save: bool, number: int = 0) -> Opened:
    """Begin a restart of the SIP service; with `save`, Remote becomes applied.

    `number` is the manager's wish that it carries out, 0 for a local one.
    """
    pool = opened.record.pool
    held = opened.license.restarted(save=save)
    if save:
        gone = pool.removed
        pool = msgspec.structs.replace(
            pool,
            applied=None if gone else pool.latest,
            latest=None if gone else pool.latest,
            removed=False,
        )
    pool = msgspec.structs.replace(pool, restart_done=max(pool.restart_done, number))
    return msgspec.structs.replace(opened.recording(pool=pool, restarting=True), license=held)


def enrolled(opened: Opened, reply: EnrolReply, ring: KeyRing) -> Opened:
    """Take an enrolment. Another manager's grants and versions do not outlive it."""
    pool = opened.record.pool
    same = pool.anchor == reply.anchor
    if not same:
        opened, pool = discarded(opened), Pool()
    pool = msgspec.structs.replace(
        pool,
        anchor=reply.anchor,
        key_set=ring.envelope,
        certificate=reply.certificate,
        product_key=reply.product_key,
        contact=reply.contact,
        pending=None,
    )
    held = opened.license if same else replace(opened.license, seen_version=0, lease_end=0.0)
    return msgspec.structs.replace(opened.recording(pool=pool), license=held, ring=ring)
