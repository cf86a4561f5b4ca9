"""What the device says of itself: page, command line, alarms and report read this one struct."""

from __future__ import annotations

import msgspec

from callpool import __version__
from callpool.device.alarms import Alarm
from callpool.device.ports import Usage
from callpool.device.smart_status import SmartStatus
from callpool.licensing.capacity import FAR_END_USERS, LICENSE_TYPES, SBC_SESSIONS, Capacity
from callpool.licensing.key import FEATURES
from callpool.licensing.lease import DeviceLicense
from callpool.wire.messages import MANAGED, NOT_LISTED, NOT_MANAGED, WaitingMessage

#: The software as reports and pages name it.
SOFTWARE = f"callpool {__version__}"

MODE_POOL = "License Pool"
MODE_LOCAL = "Local License Key"
MODE_SMART = "Smart Licensing"


class CapacityRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the SBC Capacity group; counts of the type's unit."""

    type: str
    label: str
    remote: int
    local: int
    actual: int
    #: What Actual becomes with a restart with save; equal to `actual` where nothing is pending.
    pending: int
    #: The device's maximum supported capacity; None where none is known.
    maximum: int | None
    in_use: int
    peak: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The device now. Times are seconds since 1970, by trusted time."""

    serial: str
    software: str
    #: Trusted time.
    time: float
    #: MODE_POOL, MODE_LOCAL or MODE_SMART.
    mode: str
    #: 'License Server Status', for people.
    server_status: str
    #: Whether the last contact was good.
    connected: bool
    enrolled: bool
    manager: str
    product_key: str
    local_key: str
    features: tuple[str, ...]
    capacity: tuple[CapacityRow, ...]
    #: A received change waits for a restart with save.
    pending: bool
    remote_version: int
    applied_version: int
    #: When the lease ends; None without one.
    lease_end: float | None
    #: Seconds of it left; None without one.
    lease_seconds: float | None
    last_contact: float | None
    #: Seconds until the next contact.
    next_contact_seconds: float
    #: Whether the hint stream stands.
    hints: bool
    emergency: int
    uncertain: int
    refused: dict[str, int]
    alarms: tuple[Alarm, ...]
    restart_done: int
    flash_generation: int
    #: none, fixed or smart: the one managed mode that is on.
    managed: str = "none"
    #: Whether new calls are admitted, and if not, why.
    in_service: bool = True
    out_of_service: str = ""
    #: What was asked for at the manager for this device and waits to be free, as last told.
    waiting: tuple[WaitingMessage, ...] = ()
    #: Whether configuration is in force that a restart of the device would lose.
    unsaved: bool = False
    #: Calls admitted in all; only rises while the gate's directory stands.
    admitted: int = 0
    #: The HA pair; None for a device of its own.
    pair: PairStatus | None = None
    #: Smart licensing; None on a device that has nothing to do with it.
    smart: SmartStatus | None = None


class PairStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The HA pair as this unit sees it."""

    #: active, redundant, alone or fault.
    role: str
    #: The service address with its prefix length.
    service: str
    #: Whether this unit knows all keys of the other one, and hears it.
    synchronised: bool
    #: The other unit's serial number and role, as it last said; the role is empty for never.
    peer: str
    peer_role: str
    #: Seconds since the other unit was heard; -1 for never.
    peer_age: float
    #: The grant version that each unit enforces, 0 for none.
    running_version: int
    peer_version: int
    #: Sessions and users that the other one counts.
    peer_sessions: int
    peer_users: int
    #: The last switchover order and how it ended.
    switch_done: int
    switch_result: str


def in_use(usage: Usage) -> Capacity:
    """Return what carries calls or registrations now, per license type."""
    return Capacity.of({SBC_SESSIONS: usage.sessions, FAR_END_USERS: usage.users})


def peak(usage: Usage) -> Capacity:
    """Return the most at once since the gate started, per license type."""
    return Capacity.of({SBC_SESSIONS: usage.peak_sessions, FAR_END_USERS: usage.peak_users})


def actual(held: DeviceLicense, time: float, *, trusted: bool) -> Capacity:
    """Return the 'Actual' column at trusted `time`; without trusted time only Local."""
    return held.actual_at(time) if trusted else held.clip(held.local_at(time))


def rows(
    held: DeviceLicense, now: Capacity, usage: Usage, time: float, *, trusted: bool
) -> tuple[CapacityRow, ...]:
    """Return the SBC Capacity group; `now` is what is enforced."""
    remote = held.remote_at(time)
    after = actual(held.restarted(save=True), time, trusted=trusted)
    local, used, most = held.local_at(time), in_use(usage), peak(usage)
    return tuple(
        CapacityRow(
            type=name,
            label=kind.label,
            remote=remote.get(name),
            local=local.get(name),
            actual=now.get(name),
            pending=after.get(name),
            maximum=held.maximum.get(name),
            in_use=used.get(name),
            peak=most.get(name),
        )
        for name, kind in LICENSE_TYPES.items()
        if kind.pooled or local.get(name)
    )


def server_status(*, manager: str, enrolled: bool, connected: bool, status: str) -> str:
    """Return the text of 'License Server Status'."""
    if not manager:
        return "None"
    if not enrolled:
        return "Not enrolled"
    if not connected:
        return "Disconnected"
    known = {
        MANAGED: "Connected",
        NOT_MANAGED: "Connected, not managed by the pool",
        NOT_LISTED: "Connected, not listed in the pool",
    }
    return known.get(status, "Connected")


def feature_labels(features: frozenset[str]) -> tuple[str, ...]:
    """Return the labels of a local key's features."""
    return tuple(FEATURES[name] for name in sorted(features))
