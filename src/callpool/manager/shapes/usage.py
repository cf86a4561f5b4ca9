"""Use: its course, and what it says."""

from __future__ import annotations

from callpool.manager.shapes.base import Shape


class Point(Shape, frozen=True, kw_only=True):
    """One minute, hour or day; `at` is its start."""

    at: int
    minutes: int
    peak: int
    mean: float
    cap: int
    admitted: int
    refused: int
    repeated: int
    worst: int


class Series(Shape, frozen=True, kw_only=True):
    """The course of one license type of one device."""

    tenant: str
    device: str
    type: str
    points: list[Point]


class Course(Shape, frozen=True, kw_only=True, rename={"start": "from"}):
    """The course of use."""

    start: float
    to: float
    by: str
    series: list[Series]


class Judged(Shape, frozen=True, kw_only=True):
    """What the use of one license type of one device says."""

    tenant: str
    device: str
    type: str
    now: int
    allocated: int
    local: int
    maximum: int | None
    cost: int
    verdict: str
    peak: int
    p95: int
    refused: int
    repeated: int
    days_refused: int
    trend: float | None
    spare: int
    frees: int
    needs: int
    allocate: int
    costs: int
    at_cap_since: int | None
    last: int | None
    answer: str


class Brief(Shape, frozen=True, kw_only=True):
    """Who can spare, or is short."""

    tenant: str
    device: str
    type: str
    spare: int
    frees: int
    needs: int
    allocate: int
    costs: int
    answer: str


class TenantUse(Shape, frozen=True, kw_only=True):
    """The sums of a tenant."""

    tenant: str
    type: str
    devices: int
    allocated: int
    now: int
    peak: int
    p95: int
    refused: int
    repeated: int
    trend: float | None
    frees: int
    costs: int


class Advice(Shape, frozen=True, kw_only=True, rename={"start": "from"}):
    """Who can spare licenses and who is short; `next`: the name to go on after."""

    start: float
    to: float
    tenants: list[TenantUse]
    devices: list[Judged]
    can_spare: list[Brief]
    is_short: list[Brief]
    next: str
