"""Calls a second, now and over the last minute, out of counters that are read now and then.

CISCO-USP-MIB asks for three figures of each count: of the last second, and the mean and the most
of the last minute (P, facts 2.6). Which mean is held against the license is not said: we take
the minute's, for it is the one that the MIB shows beside the limit (D).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

#: Seconds of the mean and of the most.
MINUTE: Final = 60.0
#: Seconds of "now".
SECOND: Final = 1.0
#: Once told, more calls than licensed are not told again before the mean has been this share of
#: the limit or less.
CLEAR_AT: Final = 0.80


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Calls a second of one count."""

    now: float = 0.0
    mean: float = 0.0
    most: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    at: float
    counts: tuple[int, ...]
    #: Calls a second at that moment.
    rates: tuple[float, ...]


class CallRates:
    """A minute of readings of counters that only rise; times are seconds of a steady clock."""

    def __init__(self) -> None:
        """Begin without a reading."""
        self._samples: deque[_Sample] = deque()

    def look(self, now: float, *counts: int) -> None:
        """Take a reading; counters that fell have begun anew, and so does the minute."""
        held = self._samples
        if held and (now < held[-1].at or any(a < b for a, b in _pairs(counts, held[-1]))):
            held.clear()
        before = next(
            (s for s in reversed(held) if s.at <= now - SECOND), held[0] if held else None
        )
        rates = tuple(0.0 for _ in counts)
        if before is not None:
            span = max(SECOND, now - before.at)
            rates = tuple((a - b) / span for a, b in _pairs(counts, before))
        held.append(_Sample(at=now, counts=counts, rates=rates))
        while len(held) > 1 and held[1].at <= now - MINUTE:
            held.popleft()

    @property
    def whole(self) -> bool:
        """Whether a whole minute has been seen."""
        held = self._samples
        return len(held) > 1 and held[-1].at - held[0].at >= MINUTE

    def rate(self, index: int) -> Rate:
        """Return the rates of count number `index`, by the last reading.

        Before a minute has been seen the mean is what was counted, over a whole minute.
        """
        held = self._samples
        if not held:
            return Rate()
        first, last = held[0], held[-1]
        span = max(MINUTE, last.at - first.at)
        return Rate(
            now=last.rates[index],
            mean=(last.counts[index] - first.counts[index]) / span,
            most=max(s.rates[index] for s in held),
        )


def _pairs(counts: tuple[int, ...], before: _Sample) -> zip[tuple[int, int]]:
    return zip(counts, before.counts, strict=True)


def exceeded(mean: float, limit: int, *, was: bool, whole: bool) -> bool:
    """Tell whether the mean of calls a second counts as above the licensed `limit`.

    From above the limit on, and until a `whole` minute's mean is CLEAR_AT of it or less. Where
    nothing is licensed nothing can be exceeded: that is told otherwise.
    """
    if limit <= 0:
        return False
    if mean > limit:
        return True
    return was and (not whole or mean > CLEAR_AT * limit)
