"""The pool: types, tenants, devices, units, orders, requests, registration tokens, journal."""

from __future__ import annotations

from typing import Any, Literal

from callpool.manager.shapes.base import Counts, Shape
from callpool.manager.shapes.hitless import Pair

Apply = Literal["restart", "live"]
Mode = Literal["fixed", "none"]


class TypeRow(Shape, frozen=True, kw_only=True):
    """One license type of the pool; null where the pool alone bounds a tenant's operator."""

    label: str
    purchased: int | None
    held: int
    free: int | None
    reclaiming: int


class Share(Shape, frozen=True, kw_only=True):
    """A tenant's share of one license type; null is bounded by the pool alone."""

    share: int | None
    held: int
    free: int | None
    reclaiming: int


class Tenant(Shape, frozen=True, kw_only=True):
    """A tenant and its shares, per license type."""

    name: str
    shares: dict[str, Share]
    etag: str


class TenantPage(Shape, frozen=True, kw_only=True):
    """A page of tenants."""

    tenants: list[Tenant]
    next: str | None


class TenantChanged(Shape, frozen=True, kw_only=True):
    """A tenant's shares as they were set."""

    name: str
    shares: dict[str, int | None]


class Unit(Shape, frozen=True, kw_only=True):
    """One unit of a device; what it last reported is null until it has."""

    serial: str
    role: int
    status: Literal["new", "enrolled", "locked", "released", "reset"]
    locked: str | None
    remote: Counts
    granted: Counts
    held: Counts
    reclaiming: Counts
    reclaim_waits_for: Literal["contact", "restart", "calls", "lease", "hitless"] | None
    grant_version: int
    remote_version: int
    applied_version: int
    pending: bool
    restart_waiting: bool
    leased: bool
    lease_end: float | None
    last_contact: float | None
    skew: float | None
    actual: Counts | None
    in_use: Counts | None
    peak: Counts | None
    local: Counts | None
    maximum: Counts | None
    refused: Counts | None
    alarms: list[str] | None
    software: str | None
    mode: str | None


class LeavingUnit(Unit, frozen=True, kw_only=True):
    """A unit that is out of the inventory and still holds something."""

    device: str


class RestartWindow(Shape, frozen=True, kw_only=True):
    """A restart that waits for its window."""

    window: str
    save: bool
    asked_at: float
    open: bool
    opens: float
    waits_for: list[str]


class Device(Shape, frozen=True, kw_only=True):
    """A device and its units."""

    name: str
    tenant: str
    apply: Apply
    mode: Mode
    added_at: float
    allocation: Counts
    units: list[Unit]
    restart_window: RestartWindow | None
    cost: int
    #: null for a device of one unit.
    pair: Pair | None
    pending: bool
    short: Counts
    etag: str


class DevicePage(Shape, frozen=True, kw_only=True):
    """A page of devices; `total` where it was asked for."""

    devices: list[Device]
    next: str | None
    total: int | None


class DeviceAdded(Shape, frozen=True, kw_only=True):
    """A device that was added."""

    name: str
    serials: list[str]


class Allocated(Shape, frozen=True, kw_only=True):
    """What a device is to have; `waiting` where it was queued."""

    name: str
    allocation: Counts
    notes: list[str]
    waiting: bool


class SerialReplaced(Shape, frozen=True, kw_only=True):
    """A device and its new serial number."""

    name: str
    serial: str


class Restarting(Shape, frozen=True, kw_only=True):
    """A restart that was asked for."""

    name: str
    save: bool
    window: str | None


class Resent(Shape, frozen=True, kw_only=True):
    """A device that was told again that there is something to fetch."""

    name: str
    serials: list[str]


class RestartCancelled(Shape, frozen=True, kw_only=True):
    """A restart that was cancelled; some units may have had the order already."""

    name: str
    given_already: list[str]


class Unlocked(Shape, frozen=True, kw_only=True):
    """A unit that was released, and the token by which one machine goes on as it."""

    serial: str
    token: str
    id: int


class Revoked(Shape, frozen=True, kw_only=True):
    """A unit whose identity was revoked."""

    serial: str


class Request(Shape, frozen=True, kw_only=True):
    """A request that waits for licenses."""

    device: str
    tenant: str
    wanted: Counts
    asked_at: float
    who: str
    state: Literal["waiting", "moving"]
    #: A sentence per license type that is missing.
    why: dict[str, str]


class RequestPage(Shape, frozen=True, kw_only=True):
    """A page of requests."""

    requests: list[Request]
    next: str | None


class Restored(Shape, frozen=True, kw_only=True):
    """The state of a manager that was restored from a backup."""

    since: float
    reason: str
    journal_agrees: bool
    waiting_for: list[str]
    ends_at_latest: float


class Pool(Shape, frozen=True, kw_only=True):
    """The whole pool; of many devices read the lists, page by page."""

    time: float
    product_key: str
    restored: Restored | None
    types: dict[str, TypeRow]
    tenants: list[Tenant]
    #: At most 1,000, the first by name: `devices_total` tells how many there are.
    devices: list[Device]
    devices_total: int
    leaving: list[LeavingUnit]
    requests: list[Request]


class Order(Shape, frozen=True, kw_only=True):
    """An imported order."""

    order_id: str
    starts: float
    ends: float
    imported_at: float
    in_date: bool
    counts: Counts
    held: Counts


class OrderPage(Shape, frozen=True, kw_only=True):
    """A page of orders."""

    orders: list[Order]
    next: str | None


class OrderDocument(Shape, frozen=True, kw_only=True):
    """An order as its vendor has signed it."""

    version: int
    role: str
    order_id: str
    product_key: str
    counts: Counts
    starts: float
    ends: float
    issued_at: float


class RegistrationToken(Shape, frozen=True, kw_only=True):
    """A registration token, without its secret."""

    id: int
    uses_left: int
    expires: float
    revoked: bool
    serial: str | None
    tenant: str | None
    usable: bool


class RegistrationTokenPage(Shape, frozen=True, kw_only=True):
    """A page of registration tokens."""

    tokens: list[RegistrationToken]
    next: str | None


class JournalLine(Shape, frozen=True, kw_only=True):
    """One line of the journal."""

    entry: int
    at: float
    who: str
    source: str
    cause: str
    detail: dict[str, Any]


class JournalPage(Shape, frozen=True, kw_only=True):
    """A page of the journal."""

    journal: list[JournalLine]
    next: str | None


class BulkRow(Shape, frozen=True, kw_only=True):
    """One row of a bulk file; a field that is missing or null stays as it is."""

    device: str
    sbc_sessions: int | None = None
    far_end_users: int | None = None
    tenant: str | None = None
    apply: str | None = None


class BulkFile(Shape, frozen=True, kw_only=True):
    """A bulk file; the list alone does as well."""

    devices: list[BulkRow]


class BulkDone(Shape, frozen=True, kw_only=True):
    """What a bulk file did."""

    rows: int
    notes: list[str]
    waiting: list[str]
