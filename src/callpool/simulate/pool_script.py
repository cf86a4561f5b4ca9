"""The script of a pool simulation: what is bought, who shares it, and what happens when.

Strict: an unknown field or event, a number out of range or of another type is refused with its
place (`$.events[2].sbc_sessions`) and the reason. What the product itself would refuse (an
unknown device, more than the pool has) is no fault of the script: the run shows the refusal.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from callpool.licensing.capacity import MAX_COUNT, POOL_TYPES
from callpool.simulate.reading import MAX_DAYS, MAX_EVENTS, read_strictly, refused

#: Seconds in a day.
DAY: Final = 86_400.0
#: The most devices in a script.
MAX_DEVICES: Final = 1000

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Seconds = Annotated[float, Meta(ge=0, le=MAX_DAYS * DAY)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]


class Counts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A count per pool license type; a type may be left out."""

    sbc_sessions: Count | UnsetType = UNSET
    far_end_users: Count | UnsetType = UNSET

    def named(self) -> dict[str, int]:
        """Return the counts of the types that are named."""
        return named(self)


def named(holder: object) -> dict[str, int]:
    """Return the counts of the pool's types that `holder` (Counts, or an event) names."""
    found = {name: getattr(holder, name) for name in POOL_TYPES}
    return {name: count for name, count in found.items() if count is not UNSET}


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="do", forbid_unknown_fields=True):
    """Something that happens `at_seconds` after the script's start."""

    at_seconds: Seconds

    @property
    def do(self) -> str:
        """Return what is done, as the script names it."""
        return str(self.__struct_config__.tag)


class WithCounts(Event, frozen=True, kw_only=True):
    """An event that names a count of one license type or more."""

    sbc_sessions: Count | UnsetType = UNSET
    far_end_users: Count | UnsetType = UNSET


class Allocate(WithCounts, frozen=True, kw_only=True, tag="allocate"):
    """The operator sets a device's share of the types named; `wait` queues what cannot be had."""

    device: str
    wait: bool = False


class Order(WithCounts, frozen=True, kw_only=True, tag="order"):
    """A further purchase is imported; it ends `ends_at_seconds` after the script's start."""

    ends_at_seconds: Seconds | UnsetType = UNSET


class TenantShare(WithCounts, frozen=True, kw_only=True, tag="tenant"):
    """The operator sets a tenant's share of the types named."""

    tenant: str


class Active(WithCounts, frozen=True, kw_only=True, tag="active"):
    """From now on so many calls (and users) are in progress on the device."""

    device: str


class ContactLost(Event, frozen=True, kw_only=True, tag="contact_lost"):
    """Device and manager cannot reach each other from now on."""

    device: str


class ContactBack(Event, frozen=True, kw_only=True, tag="contact_back"):
    """They can again; a device that was reset has been enrolled anew."""

    device: str


class Restart(Event, frozen=True, kw_only=True, tag="restart"):
    """The device restarts in no time; with `save` what it received is applied."""

    device: str
    save: bool = True


class FactoryReset(Event, frozen=True, kw_only=True, tag="factory_reset"):
    """The device goes back to factory defaults; its serial number and local key stay."""

    device: str


class Remove(Event, frozen=True, kw_only=True, tag="remove"):
    """The operator takes the device out of the inventory."""

    device: str


class NewLocalKey(WithCounts, frozen=True, kw_only=True, tag="local_key"):
    """A local key with these counts (0 for a type it does not name) is installed."""

    device: str


AnyEvent = (
    Allocate | Order | TenantShare | Active | ContactLost | ContactBack | Restart
    | FactoryReset | Remove | NewLocalKey
)  # fmt: skip


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device, enrolled and in contact at the start."""

    name: Name
    #: None: the tenant `default`, whose share is not limited.
    tenant: str | None = None
    #: The local key's counts.
    local: Counts = Counts()
    #: The most that the device supports; a type that is not named is not limited.
    maximum: Counts = Counts()
    apply: Literal["restart", "live"] = "restart"


class PoolScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One simulation of one pool."""

    #: In date from the start, without end.
    purchased: Counts = Counts()
    #: Each tenant's share; a type that is not named is bounded by the pool alone.
    tenants: dict[Name, Counts] = {}
    devices: Annotated[tuple[Device, ...], Meta(max_length=MAX_DEVICES)]
    #: The simulation ends after so many days; what is due at its very end still happens.
    until_days: Annotated[float, Meta(gt=0, le=MAX_DAYS)]
    events: Annotated[tuple[AnyEvent, ...], Meta(max_length=MAX_EVENTS)] = ()

    def in_order(self) -> list[AnyEvent]:
        """Return the events in order of time; those of one instant in the script's order."""
        return sorted(self.events, key=lambda event: event.at_seconds)


def read_pool_script(raw: bytes) -> PoolScript:
    """Read a script; raises LicenseError `bad_script` with the place and the reason."""
    script = read_strictly(raw, PoolScript)
    seen: set[str] = set()
    for index, device in enumerate(script.devices):
        if device.name in seen:
            raise refused(f"$.devices[{index}].name", f"{device.name!r} is there twice.")
        seen.add(device.name)
    for index, event in enumerate(script.events):
        place = f"$.events[{index}]"
        if event.at_seconds > script.until_days * DAY:
            raise refused(
                f"{place}.at_seconds",
                f"{event.at_seconds:g} is after until_days, {script.until_days:g}.",
            )
        if isinstance(event, Allocate | Order | TenantShare | Active) and not named(event):
            raise refused(place, f"{event.do} names at least one of {', '.join(POOL_TYPES)}.")
    return script
