"""How many failed sign-ins are taken, by address and by name, in tables that cannot grow.

An address is shut out after ten failures within a minute. A name, so that a guess from many
addresses is slow as well, after thirty within five minutes: but only for addresses from which it
has not signed in before, so that a stranger cannot shut an operator out of where he works.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final

from callpool.licensing.errors import CallpoolError

#: Failed sign-ins from one address, within so many seconds.
ADDRESS_FAILURES: Final = 10
ADDRESS_SECONDS: Final = 60.0
#: Failed sign-ins for one name from addresses that it is not known to come from.
NAME_FAILURES: Final = 30
NAME_SECONDS: Final = 300.0
#: Rows of each table; the one that has been quiet longest makes room.
MOST_ROWS: Final = 10_000


def too_many_from_address() -> CallpoolError:
    """Return the refusal of an address."""
    return CallpoolError("too_many_failures", "Too many failed sign-ins; try again in a minute.")


def too_many_for_name() -> CallpoolError:
    """Return the refusal of a name."""
    return CallpoolError(
        "too_many_failures",
        "Too many failed sign-ins for this name; try again in five minutes, or from where "
        "it has signed in before.",
    )


class Limits:
    """The tables of one process; all in memory, forgotten by a restart.

    What failed at other managers on the same PostgreSQL database counts by the journal.
    """

    def __init__(self, real_time: Callable[[], float]) -> None:
        """Count by `real_time`, seconds of a monotonic clock."""
        self._real_time = real_time
        self._addresses: OrderedDict[str, deque[float]] = OrderedDict()
        self._names: OrderedDict[str, deque[float]] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def check(self, username: str, source: str) -> None:
        """Refuse one more try; raises CallpoolError `too_many_failures`."""
        by_address = self._recent(self._addresses, source, ADDRESS_SECONDS)
        if by_address >= ADDRESS_FAILURES:
            raise too_many_from_address()
        if (username, source) in self._known:
            return
        if self._recent(self._names, username, NAME_SECONDS) >= NAME_FAILURES:
            raise too_many_for_name()

    def failed(self, username: str, source: str) -> bool:
        """Count a failure; returns whether it was the last that is taken for now."""
        now = self._real_time()
        last = _count(self._addresses, source, now, ADDRESS_FAILURES)
        if (username, source) not in self._known:
            last = _count(self._names, username, now, NAME_FAILURES) or last
        return last

    def succeeded(self, username: str, source: str) -> None:
        """Remember where a name signs in from."""
        self._known[username, source] = None
        self._known.move_to_end((username, source))
        _bound(self._known)

    def _recent(self, table: OrderedDict[str, deque[float]], key: str, seconds: float) -> int:
        found = table.get(key)
        if found is None:
            return 0
        while found and found[0] < self._real_time() - seconds:
            found.popleft()
        return len(found)


def _count(table: OrderedDict[str, deque[float]], key: str, now: float, most: int) -> bool:
    found = table.setdefault(key, deque(maxlen=most))
    found.append(now)
    table.move_to_end(key)
    _bound(table)
    return len(found) == most


def _bound(table: OrderedDict[Any, Any]) -> None:
    while len(table) > MOST_ROWS:
        table.popitem(last=False)
