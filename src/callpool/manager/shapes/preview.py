"""What a change would do: counts before and after."""

from __future__ import annotations

from typing import Any

import msgspec

from callpool.manager.shapes.base import Shape
from callpool.manager.shapes.pool import Request


class CountPair(Shape, frozen=True, kw_only=True):
    """A count before and after; null is none, or no bound."""

    before: int | None
    after: int | None


class TextPair(Shape, frozen=True, kw_only=True):
    """A text before and after; null where there is no device."""

    before: str | None
    after: str | None


class RequestPair(Shape, frozen=True, kw_only=True):
    """A device's request before and after."""

    before: Request | None
    after: Request | None


class ToReclaim(Shape, frozen=True, kw_only=True):
    """What a unit would have to give back."""

    serial: str
    count: int
    waits_for: str | None
    lease_end: float | None


class PreviewCounts(Shape, frozen=True, kw_only=True):
    """One license type of one device; `clipped`: what is asked, and what it supports."""

    target: CountPair
    granted: CountPair
    held: CountPair
    cost: CountPair
    to_reclaim: list[ToReclaim]
    clipped: CountPair | msgspec.UnsetType = msgspec.UNSET


class PreviewDevice(Shape, frozen=True, kw_only=True):
    """A device that would change."""

    device: str
    tenant: TextPair
    apply: TextPair
    mode: TextPair
    types: dict[str, PreviewCounts]
    restart_needed: bool
    request: RequestPair


class PreviewShare(Shape, frozen=True, kw_only=True):
    """A tenant's share that would change."""

    share: CountPair
    held: CountPair


class PreviewTenant(Shape, frozen=True, kw_only=True):
    """A tenant that would change."""

    tenant: str
    types: dict[str, PreviewShare]


class PreviewType(Shape, frozen=True, kw_only=True):
    """A license type of the pool that would change."""

    purchased: CountPair
    held: CountPair
    free: CountPair
    reclaiming: CountPair


class Preview(Shape, frozen=True, kw_only=True):
    """What a change would do; `answer` is what it would answer."""

    preview: bool
    answer: Any
    devices: list[PreviewDevice]
    tenants: list[PreviewTenant]
    types: dict[str, PreviewType]
