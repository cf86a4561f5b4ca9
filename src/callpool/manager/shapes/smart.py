"""Smart licensing: accounts, entitlements, instances, alerts, events."""

from __future__ import annotations

from typing import Literal

from callpool.manager.shapes.base import Shape
from callpool.manager.shapes.pool import OrderDocument


class Account(Shape, frozen=True, kw_only=True):
    """An account and its virtual accounts."""

    name: str
    virtual_accounts: list[str]


class Accounts(Shape, frozen=True, kw_only=True):
    """All accounts."""

    accounts: list[Account]


class Entitlement(Shape, frozen=True, kw_only=True):
    """Purchased, In use and Balance."""

    account: str
    virtual_account: str
    tag: str
    purchased: int
    in_use: int
    balance: int
    status: Literal["in_compliance", "out_of_compliance"]
    out_of_compliance_since: float | None


class EntitlementPage(Shape, frozen=True, kw_only=True):
    """A page of entitlements."""

    entitlements: list[Entitlement]
    next: str | None


class SmartOrder(Shape, frozen=True, kw_only=True):
    """What a virtual account has of an order."""

    account: str
    virtual_account: str
    order_id: str
    tag: str
    count: int
    starts: float
    ends: float
    in_date: bool
    imported_at: float


class SmartOrderPage(Shape, frozen=True, kw_only=True):
    """A page of orders."""

    orders: list[SmartOrder]
    next: str | None


class SmartOrderImported(OrderDocument, frozen=True, kw_only=True):
    """An order as its vendor has signed it, and where its licenses went."""

    account: str
    virtual_account: str


class Certificate(Shape, frozen=True, kw_only=True):
    """The dates of an ID certificate."""

    not_before: float
    renew_at: float
    not_after: float


class Authorization(Shape, frozen=True, kw_only=True):
    """The latest authorization of an instance."""

    tag: str
    count: int
    version: int
    status: str
    issued_at: float
    renew_at: float
    expires_at: float


class Instance(Shape, frozen=True, kw_only=True):
    """A product instance."""

    instance_id: str
    account: str
    virtual_account: str
    serial: str
    name: str
    status: str
    counted: bool
    agent_state: str
    software: str
    maximum: int | None
    export_allowed: bool
    registered_at: float
    left_at: float | None
    last_contact: float
    hint_waiting: bool
    certificate: Certificate
    authorizations: list[Authorization]


class InstancePage(Shape, frozen=True, kw_only=True):
    """A page of instances."""

    instances: list[Instance]
    next: str | None


class InstanceChanged(Shape, frozen=True, kw_only=True):
    """The instance that was changed."""

    instance_id: str
    serial: str


class VirtualAccountNamed(Shape, frozen=True, kw_only=True):
    """A virtual account."""

    account: str
    virtual_account: str


class SmartToken(Shape, frozen=True, kw_only=True):
    """A registration token, without its secret."""

    id: int
    account: str
    virtual_account: str
    description: str
    uses_left: int
    expires: float
    export_allowed: bool
    revoked: bool
    usable: bool
    made_at: float
    made_by: str


class SmartTokenPage(Shape, frozen=True, kw_only=True):
    """A page of registration tokens."""

    tokens: list[SmartToken]
    next: str | None


class Transferred(Shape, frozen=True, kw_only=True):
    """Licenses that were moved."""

    tag: str
    count: int
    source: str
    target: str


class Alert(Shape, frozen=True, kw_only=True):
    """An alert."""

    id: int
    kind: str
    severity: str
    account: str
    virtual_account: str
    instance: str | None
    message: str
    action: str
    action_due: float | None
    raised_at: float
    cleared_at: float | None


class AlertPage(Shape, frozen=True, kw_only=True):
    """A page of alerts."""

    alerts: list[Alert]
    next: str | None


class Event(Shape, frozen=True, kw_only=True):
    """One line of the event log."""

    id: int
    at: float
    who: str
    source: str
    kind: str
    account: str | None
    virtual_account: str | None
    instance: str | None
    tag: str | None
    message: str


class EventPage(Shape, frozen=True, kw_only=True):
    """A page of the event log."""

    events: list[Event]
    next: str | None


class Overview(Shape, frozen=True, kw_only=True):
    """Accounts, licenses, instances and open alerts."""

    accounts: list[Account]
    entitlements: list[Entitlement]
    instances: list[Instance]
    alerts: list[Alert]
