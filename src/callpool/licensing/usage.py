"""What usage says: who can spare licenses, who is short, and where it is going.

Pure arithmetic on what devices report. A **true refusal** is a caller who was turned away for
want of a license; the same caller turned away again within 30 seconds is a repeat and says
nothing about demand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

MINUTE: Final = 60
HOUR: Final = 3_600
DAY: Final = 86_400

#: What is kept beyond the highest use seen, as a share of it.
HEADROOM: Final = 0.10
#: A rising trend is followed so many days ahead.
AHEAD_DAYS: Final = 7
#: Whole days of peaks below which nothing is called a trend.
TREND_DAYS: Final = 3
#: Seconds from the first report to the last below which nobody is said to be able to spare.
ENOUGH: Final = 12 * HOUR
#: A unit whose last report is older than this (seconds) is not judged.
SILENT: Final = DAY

#: True refusals: the device needs more.
SHORT: Final = "short"
#: More is allocated than the highest use and its headroom ask for.
SPARE: Final = "spare"
#: Neither.
FITS: Final = "fits"
#: Too few reports, or none of late.
UNKNOWN: Final = "unknown"


def aligned(at: float, step: int) -> int:
    """Return the start of the minute, hour or day (UTC) that `at` lies in; seconds."""
    return math.floor(at / step) * step


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The use of one license type in one minute, hour or day; counts are of the type's unit."""

    #: Its start, seconds since 1970.
    at: int
    #: Minutes of it that were reported.
    minutes: int = 1
    #: The most in use at once.
    peak: int = 0
    #: The sum of the means of its minutes.
    total: float = 0.0
    #: The lowest cap in force.
    cap: int = 0
    #: Calls admitted.
    admitted: int = 0
    #: True refusals, and repeats of them.
    refused: int = 0
    repeated: int = 0
    #: The most true refusals in one minute.
    worst: int = 0

    @property
    def mean(self) -> float:
        """Return the mean use over the minutes that were reported."""
        return self.total / self.minutes if self.minutes else 0.0

    def plus(self, other: Period) -> Period:
        """Return both as one period that starts where this one does (other minutes, one unit)."""
        return replace(
            self,
            minutes=self.minutes + other.minutes,
            peak=max(self.peak, other.peak),
            total=self.total + other.total,
            cap=min(self.cap, other.cap),
            admitted=self.admitted + other.admitted,
            refused=self.refused + other.refused,
            repeated=self.repeated + other.repeated,
            worst=max(self.worst, other.worst),
        )

    def beside(self, other: Period) -> Period:
        """Return both units of an HA pair as one device: calls are on one of them at a time."""
        return replace(
            self.plus(other),
            minutes=max(self.minutes, other.minutes),
            total=max(self.total, other.total),
        )


def rolled(periods: Iterable[Period], step: int) -> list[Period]:
    """Return periods gathered into longer ones of `step` seconds, in order of time."""
    out: dict[int, Period] = {}
    for period in periods:
        at = aligned(period.at, step)
        out[at] = out[at].plus(period) if at in out else replace(period, at=at)
    return [out[at] for at in sorted(out)]


def percentile(values: Sequence[int], share: float) -> int:
    """Return the nearest-rank percentile (`share` 0.95 for the 95th), 0 of nothing."""
    if not values:
        return 0
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def trend(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the slope of (day, value) points, or None for fewer than TREND_DAYS of them.

    The Theil-Sen estimator, the median of the slopes of all pairs: one odd day does not bend it.
    """
    if len(points) < TREND_DAYS:
        return None
    slopes = sorted(
        (y2 - y1) / (x2 - x1)
        for i, (x1, y1) in enumerate(points)
        for x2, y2 in points[i + 1 :]
        if x1 != x2
    )
    if not slopes:
        return None
    middle = len(slopes) // 2
    if len(slopes) % 2:
        return slopes[middle]
    return (slopes[middle - 1] + slopes[middle]) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one device has of one license type; counts are per unit."""

    #: Allocated to it from the pool.
    allocated: int
    #: Of its local key.
    local: int = 0
    #: What it can carry at most; None where that is not known.
    maximum: int | None = None
    #: Units that are paid for: 2 for an HA pair.
    cost: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What the usage of one device says about one license type."""

    #: SHORT, SPARE, FITS or UNKNOWN.
    verdict: str
    #: The most in use at once, and the 95th percentile of the peaks of its busy hours.
    peak: int = 0
    p95: int = 0
    refused: int = 0
    repeated: int = 0
    #: Days on which there were true refusals.
    days_refused: int = 0
    #: Change of the daily peak per day; None for too little data.
    trend: float | None = None
    #: What can be taken from its allocation, and what that frees in the pool (twice for a pair).
    spare: int = 0
    frees: int = 0
    #: About what it would have to be able to carry, local key included; 0 unless short.
    needs: int = 0
    #: What its allocation would be then, within its maximum, and what that costs the pool more.
    allocate: int = 0
    costs: int = 0
    #: The first hour in which as much was in use as it could carry; None where there was none.
    at_cap_since: int | None = None
    #: The time of the last report, seconds since 1970; None for none.
    last: int | None = None


def advise(hours: Sequence[Period], holding: Holding, *, now: float) -> Advice:
    """Judge one device's `hours` (in order, of the window that is looked at) at `now`.

    The rules:
    - short: any true refusal. A caller turned away would have held a license about as long as
      the others did, so an hour needed its peak times offered / admitted, and at least its peak
      and those turned away in its worst minute; the highest hour counts.
    - spare: no true refusal, reports over ENOUGH time, the last one not SILENT. What
      stays is the highest use seen, lifted by a rising trend AHEAD_DAYS ahead; the local key is
      used first, and the rest of the allocation can be taken.
    To both HEADROOM is added.
    """
    if not hours:
        return Advice(verdict=UNKNOWN)
    peak = max(h.peak for h in hours)
    refused = sum(h.refused for h in hours)
    days = rolled(hours, DAY)
    # The day that is still going on has not had its busy hour yet.
    whole = [d for d in days if d.at + DAY <= now]
    slope = trend([(d.at / DAY, float(d.peak)) for d in whole])
    at_cap = [h.at for h in hours if h.peak >= h.cap > 0]
    found = Advice(
        verdict=FITS,
        peak=peak,
        p95=percentile([h.peak for h in hours if h.peak], 0.95),
        refused=refused,
        repeated=sum(h.repeated for h in hours),
        days_refused=sum(1 for d in days if d.refused),
        trend=slope,
        at_cap_since=at_cap[0] if at_cap else None,
        last=hours[-1].at,
    )
    if refused:
        needs = _headed(max(_offered(h) for h in hours))
        most = needs if holding.maximum is None else min(needs, holding.maximum)
        allocate = max(holding.allocated, most - holding.local)
        return replace(
            found,
            verdict=SHORT,
            needs=needs,
            allocate=allocate,
            costs=(allocate - holding.allocated) * holding.cost,
        )
    end = hours[-1].at + HOUR
    if end - hours[0].at < ENOUGH or now - end > SILENT:
        return replace(found, verdict=UNKNOWN)
    keep = _headed(peak + max(0.0, slope or 0.0) * AHEAD_DAYS)
    spare = max(0, holding.allocated - max(0, keep - holding.local))
    if not spare:
        return found
    return replace(found, verdict=SPARE, spare=spare, frees=spare * holding.cost)


def _offered(hour: Period) -> float:
    """Return about how many licenses an hour would have used had nobody been turned away."""
    if not hour.refused:
        return float(hour.peak)
    scaled = hour.peak * (1 + hour.refused / hour.admitted) if hour.admitted else 0.0
    return max(float(hour.peak + hour.worst), scaled)


def _headed(count: float) -> int:
    # Whole thousandths first: 1.1 * 30 is a little above 33 in binary.
    return math.ceil(round(count * (1 + HEADROOM), 3))


def words(advice: Advice, holding: Holding, *, days: float, day: str = "") -> str:
    """Return the answer for people; `days` is the window, `day` names `at_cap_since`."""
    window = f"{days:g} day{'' if days == 1 else 's'}"
    going = _going(advice.trend)
    if advice.verdict == SHORT:
        parts = [
            f"{_counted(advice.refused, 'true refusal')} on {_counted(advice.days_refused, 'day')}"
        ]
        if day:
            parts.append(f"peak at the cap since {day}")
        need = f"would need about {advice.needs}"
        if holding.maximum is not None and advice.needs > holding.maximum:
            need += f", above its maximum of {holding.maximum}"
        elif advice.allocate > holding.allocated:
            need += f": allocate {advice.allocate}"
            need += f", {advice.costs} more of the pool"
        else:
            need += ", which it has now"
        return f"short: {'; '.join([*parts, need])}"
    if advice.verdict == SPARE:
        pair = f", {advice.frees} in the pool" if advice.frees != advice.spare else ""
        return (
            f"can spare {advice.spare}{pair} (peak {advice.peak} of"
            f" {holding.allocated + holding.local} in {window}, {going})"
        )
    if advice.verdict == FITS:
        return f"fits (peak {advice.peak} of {holding.allocated + holding.local}, {going})"
    return "too little data"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _going(slope: float | None) -> str:
    if slope is None:
        return "too little data for a trend"
    if abs(slope) < 0.05:
        return "steady"
    return f"{'rising' if slope > 0 else 'falling'} {abs(slope):.1f} a day"
