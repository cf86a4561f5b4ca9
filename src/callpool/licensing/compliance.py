"""The authority's arithmetic: configured counts against what is purchased and in date.

Seed `000`: the license usage state compares the sum of the servers' *configured* counts with
the purchased count; it is not the real-time rate of calls. design.md: the sum over all
instances of one virtual account, against what is purchased and in date there. Nothing here
depends on a measured rate, and nothing is shared out: either the whole virtual account is in
compliance for an entitlement, or every instance that uses it is not.

Durations are seconds; times, seconds since 1970 by the authority's clock. Counts are calls a
second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from callpool.licensing.errors import LicenseError

DAY: Final = 86_400.0

#: A configured count is a multiple of this (facts 2.3, public).
COUNT_STEP: Final = 5
#: An authorization is renewed after this, and has expired after that (seed `000`).
AUTHORIZATION_RENEW: Final = 30 * DAY
AUTHORIZATION_LIFE: Final = 90 * DAY
#: An instance that is out of compliance asks again after this (facts 3.4, dated).
RECHECK: Final = 12 * 3_600.0
#: An ID certificate is renewed after this, and has expired after that (facts 3.2, public).
CERTIFICATE_RENEW: Final = 180 * DAY
CERTIFICATE_LIFE: Final = 365 * DAY
#: An instance that has not called for this long is not counted any more (facts 3.2, weak).
SILENCE: Final = 90 * DAY
#: Days before an order's end at which people are told (facts 5.1, public), the first first.
EXPIRY_NOTICES: Final = (90, 60, 30, 14, 7, 3, 1)


def check_configured(count: int, maximum: int) -> int:
    """Return `count` if a device that carries at most `maximum` calls a second may ask for it.

    Raises LicenseError `bad_count` (negative, or no multiple of 5), `above_maximum`.
    """
    if count < 0 or count % COUNT_STEP:
        raise LicenseError(
            "bad_count", f"A count is a multiple of {COUNT_STEP} from 0 up, not {count}."
        )
    if count > maximum:
        raise LicenseError(
            "above_maximum",
            f"{count} calls a second cannot be configured: the device carries at most {maximum}.",
        )
    return count


def carried(count: int, maximum: int) -> int:
    """Return what counts of a configured `count` on a device that carries at most `maximum`.

    A newer local key may name less than was configured under the one before.
    """
    return count if count <= maximum else maximum - maximum % COUNT_STEP


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitled:
    """What one virtual account has of one order."""

    count: int
    #: In date from `starts` up to, and not including, `ends`.
    starts: float
    ends: float

    def at(self, now: float) -> int:
        """Return how many count at `now`."""
        return self.count if self.starts <= now < self.ends else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Compliance:
    """One entitlement of one virtual account, weighed."""

    #: Purchased and in date.
    purchased: int
    #: The sum of configured counts.
    in_use: int

    @property
    def balance(self) -> int:
        """Return what is left; below 0 where too much is configured."""
        return self.purchased - self.in_use

    @property
    def ok(self) -> bool:
        """Tell whether the virtual account is in compliance."""
        return self.in_use <= self.purchased


def weigh(entitled: Iterable[Entitled], configured: Iterable[int], now: float) -> Compliance:
    """Weigh what is configured against what is purchased and in date at `now`."""
    return Compliance(purchased=sum(e.at(now) for e in entitled), in_use=sum(configured))


def notice(ends: float, now: float) -> int | None:
    """Return the notice that is due for an order that ends at `ends`: days, or None.

    It is the smallest of EXPIRY_NOTICES that the time left does not exceed; None while more
    is left than the largest, and once the order has ended.
    """
    left = (ends - now) / DAY
    due = [days for days in EXPIRY_NOTICES if left <= days]
    return min(due) if due and left > 0 else None
