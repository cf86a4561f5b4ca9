"""True refusals told apart from repeats, by what Kamailio tells of each refusal.

A refusal whose caller was refused for the same number less than 30 seconds ago (a REGISTER: the
same address of record) is a repeat, and puts the end of the 30 seconds off. It is decided here
and not inside Kamailio: a table there has no bound on its entries (a flood of refused callers
would fill the memory that calls need), expires by the wall clock, and costs the call's path.
Seconds are Kamailio's ticks. What was not told (a datagram lost, no core at the time) shows in
Kamailio's own counters and counts as true refusals.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from callpool.licensing.admission import CPS_LIMIT, NO_LICENSE, SESSION_LIMIT, USER_LIMIT
from callpool.licensing.capacity import CPS, FAR_END_USERS, SBC_SESSIONS

#: The license type that was wanting, per reason. Other reasons are no want of capacity.
_WANTING: Final = {
    SESSION_LIMIT: SBC_SESSIONS,
    USER_LIMIT: FAR_END_USERS,
    CPS_LIMIT: CPS,
    NO_LICENSE: SBC_SESSIONS,
}
#: Callers that are remembered at most; one that is forgotten counts as a true refusal again.
MOST: Final = 50_000


class Refusals:
    """Counts of one gate since its driver started."""

    def __init__(self, seconds: int) -> None:
        """Take refusals less than `seconds` apart for repeats."""
        self._seconds = seconds
        self._counts: dict[str, list[int]] = {}
        #: Hash of a caller and what he asked for -> tick of his last refusal, the oldest first.
        self._last: OrderedDict[int, int] = OrderedDict()

    def told(self, reason: str, *, register: bool, who: tuple[str, str], tick: int) -> None:
        """Count one refusal at `tick`; `who` is the caller and whom he called."""
        wanting = _WANTING.get(reason)
        if wanting is None:
            return
        if register and reason == NO_LICENSE:
            wanting = FAR_END_USERS
        key = hash((register, who))
        before = self._last.pop(key, None)
        self._last[key] = tick
        if len(self._last) > MOST:
            self._last.popitem(last=False)
        repeat = before is not None and abs(tick - before) < self._seconds
        self._counts.setdefault(wanting, [0, 0])[repeat] += 1

    def untold(self, reason: str, count: int) -> None:
        """Count refusals that only Kamailio's own counter knows of."""
        if (wanting := _WANTING.get(reason)) is not None:
            self._counts.setdefault(wanting, [0, 0])[0] += count

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return (true refusals, repeats) per license type."""
        return {name: (true, repeats) for name, (true, repeats) in self._counts.items()}
