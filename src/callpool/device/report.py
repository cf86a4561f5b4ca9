"""What the device says of itself, put together from its core: its status, and to its manager."""

from __future__ import annotations

import msgspec

from callpool.device import alarms as al
from callpool.device.active import active_alarms
from callpool.device.alarms import Alarm
from callpool.device.contact import contact_request, version
from callpool.device.core import Core
from callpool.device.modes import mode
from callpool.device.record import Pending
from callpool.device.service import out_of_service
from callpool.device.smart_status import SmartStatus, smart_status
from callpool.device.status import (
    MODE_LOCAL,
    MODE_POOL,
    MODE_SMART,
    SOFTWARE,
    Status,
    feature_labels,
    rows,
    server_status,
)
from callpool.licensing.capacity import SBC_SESSIONS
from callpool.licensing.smart_events import Moment
from callpool.wire.keys import SigningKey
from callpool.wire.messages import MANAGED, AlarmsMessage, UsageMinute


def report(
    core: Core, *, last_contact: float | None, next_contact_seconds: float, hints: bool
) -> Status:
    """Return the device now.

    `last_contact` is the trusted time of the last good contact since the start (seconds since
    1970), `next_contact_seconds` how long until the next, `hints` whether the stream stands.
    """
    now = core.now()
    opened, time, usage = core.opened, core.time(now), core.gate.usage()
    held, pool = opened.license, opened.record.pool
    smart = opened.record.smart
    leased = held.remote is not None or held.applied is not None
    connected = last_contact is not None and al.CONTACT_LOST not in core.faults
    enrolled = opened.ring is not None
    waiting = opened.latest.waiting if opened.latest and not pool.removed else ()
    capacity = rows(held, core.actual(now), usage, time, trusted=not core.mark.behind)
    if smart.agent.enabled:
        # Sessions and users are not limited: no restart brings any.
        capacity = tuple(msgspec.structs.replace(row, pending=row.actual) for row in capacity)
    after = next((row.pending for row in capacity if row.type == SBC_SESSIONS), 0)
    why = out_of_service(core.step(now), waiting, after_restart=after)
    managed = leased or (enrolled and pool.status == MANAGED)
    return Status(
        serial=core.settings.serial,
        software=SOFTWARE,
        time=time,
        mode=MODE_SMART if smart.agent.enabled else MODE_POOL if managed else MODE_LOCAL,
        server_status=server_status(
            manager=core.settings.manager,
            enrolled=enrolled,
            connected=connected,
            status=pool.status,
        ),
        connected=connected,
        enrolled=enrolled,
        manager=core.settings.manager,
        product_key=pool.product_key,
        local_key=opened.local_key.key_id if opened.local_key else "",
        features=feature_labels(
            opened.local_key.features_at(time) if opened.local_key else frozenset()
        ),
        capacity=capacity,
        pending=held.pending,
        remote_version=version(held.remote),
        applied_version=core.confirmed_version,
        lease_end=held.lease_end if leased else None,
        lease_seconds=held.lease_end - time if leased else None,
        last_contact=last_contact,
        next_contact_seconds=next_contact_seconds,
        hints=hints,
        emergency=usage.emergency,
        uncertain=usage.uncertain,
        refused=dict(usage.refused),
        admitted=usage.admitted,
        alarms=active_alarms(core, now),
        restart_done=pool.restart_done,
        flash_generation=core.flash.generation,
        managed=mode(core),
        in_service=not why,
        out_of_service=why,
        waiting=waiting,
        smart=smart_report(core) if smart.used or core.settings.smart else None,
        pair=core.pair.status() if core.pair is not None else None,
    )


def smart_report(core: Core) -> SmartStatus:
    """Return smart licensing now."""
    return smart_status(
        core.opened.record.smart,
        Moment.of(core.mark, core.now()),
        call_policy=core.settings.call_policy,
        cps_policy=core.settings.cps_policy,
        maximum=core.smart_maximum,
    )


def contact_now(
    core: Core,
    *,
    url: str,
    identity: SigningKey,
    reason: str,
    minutes: tuple[UsageMinute, ...] = (),
    alarms: tuple[Alarm, ...] = (),
    alarm_log: AlarmsMessage | None = None,
) -> Pending:
    """Sign a contact that says how the device is now; as `contact_request`."""
    now = core.now()
    return contact_request(
        core.opened,
        url=url,
        identity=identity,
        actual=core.actual(now),
        confirmed_version=core.confirmed_version,
        now=now,
        time=core.time(now),
        reason=reason,
        minutes=minutes,
        usage=core.gate.usage(),
        alarms=alarms,
        alarm_log=alarm_log,
        mode=mode(core),
        pair=core.pair.report() if core.pair is not None else None,
    )
