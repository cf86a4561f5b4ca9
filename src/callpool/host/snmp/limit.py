"""How many messages are looked at: what is beyond costs nothing but a count.

Decoding and verifying an SNMPv3 message takes milliseconds, so a flood is cut off before it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

#: Sources that are remembered; of more, those that were silent longest are forgotten.
MOST_SOURCES: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many at once, and so many a second in the long run."""

    burst: float
    second: float


#: From one address, and from all.
EACH: Final = Rate(burst=200, second=20)
ALL: Final = Rate(burst=600, second=100)


class Limiter:
    """Token buckets, one for each source and one for all."""

    def __init__(self, each: Rate = EACH, every: Rate = ALL) -> None:
        """Start with full buckets."""
        self._each, self._every = each, every
        self._total = (every.burst, 0.0)
        self._sources: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, source: str, now: float) -> bool:
        """Tell whether a message from `source` is looked at; `now` only rises, in seconds."""
        mine = _filled(self._sources.pop(source, (self._each.burst, now)), self._each, now)
        every = _filled(self._total, self._every, now)
        good = mine >= 1.0 and every >= 1.0
        self._sources[source] = (mine - good, now)
        self._total = (every - good, now)
        if len(self._sources) > MOST_SOURCES:
            self._sources.popitem(last=False)
        return good


def _filled(bucket: tuple[float, float], rate: Rate, now: float) -> float:
    left, at = bucket
    return min(rate.burst, left + max(0.0, now - at) * rate.second)
