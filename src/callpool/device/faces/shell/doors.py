"""Who may be in: connections are paced by address, and bounded overall, by address, and while
nobody has signed in.
"""  # noqa: D205 - one sentence

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from callpool.device.faces.shell.visit import Visit

#: Key exchanges that begin in a second for one address; so many may begin at once.
PACE, BURST = 12.0, 8
#: Seconds that a connection is held for its turn at most, and how many are held at once.
LONGEST_HOLD: Final = 20.0
MAX_HELD: Final = 512
#: Connections of people who have signed in, in all and from one address.
MAX_SIGNED_IN, MAX_SIGNED_IN_FROM_ONE = 64, 48
#: Connections that nobody has signed in on yet.
MAX_STRANGERS, MAX_STRANGERS_FROM_ONE = 128, 64
#: Seconds that a stranger may stay though others wait: before it names a user, and after.
UNNAMED_STAY, NAMED_STAY = 3.0, 20.0


class Doors:
    """The connections of one shell."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin with none; `now` is monotonic, in seconds."""
        self._now = now
        self.visits: set[Visit] = set()
        self._held = 0
        #: When the next connection of an address may begin.
        self._next: dict[str, float] = {}
        self._tidy_at = 0.0

    async def enter(self, source: str, close: Callable[[str], None]) -> Visit | None:
        """Take a connection in when its turn comes; None where there is no room for it."""
        wait = self.turn(source)
        if wait > LONGEST_HOLD or self._held >= MAX_HELD:
            return None
        self._held += 1
        try:
            await asyncio.sleep(wait)
        finally:
            self._held -= 1
        if not self._make_room(source):
            return None
        visit = Visit(source, close, now=self._now)
        self.visits.add(visit)
        return visit

    def turn(self, source: str) -> float:
        """Return the seconds until it is `source`'s turn, and take that turn if it will be."""
        now = self._now()
        if len(self._next) > MAX_HELD and now >= self._tidy_at:
            self._tidy_at = now + 1.0
            self._next = {s: at for s, at in self._next.items() if at > now}
        # A stored time and an allowance: the rate limiter known as GCRA.
        at = max(self._next.get(source, 0.0), now)
        wait = max(0.0, at - now - (BURST - 1) / PACE)
        if wait <= LONGEST_HOLD:
            self._next[source] = at + 1.0 / PACE
        return wait

    def sign_in(self, visit: Visit, name: str) -> bool:
        """Let a stranger become the user `name`; False where there is no room."""
        known = [v for v in self.visits if v.name and v is not visit]
        mine = sum(v.source == visit.source for v in known)
        if len(known) >= MAX_SIGNED_IN or mine >= MAX_SIGNED_IN_FROM_ONE:
            return False
        visit.name = name
        return True

    def leave(self, visit: Visit) -> None:
        """Forget a connection that has ended."""
        self.visits.discard(visit)

    def _make_room(self, source: str) -> bool:
        """Tell whether there is room, after a stranger that only holds a place has lost it."""
        strangers = [v for v in self.visits if not v.name]
        mine = [v for v in strangers if v.source == source]
        if len(mine) >= MAX_STRANGERS_FROM_ONE:
            return self._out(mine)
        if len(strangers) >= MAX_STRANGERS:
            # Of the address that holds most places.
            most, _ = Counter(v.source for v in strangers).most_common(1)[0]
            return self._out([v for v in strangers if v.source == most])
        return True

    def _out(self, some: list[Visit]) -> bool:
        overdue = {v: v.age() - (NAMED_STAY if v.named else UNNAMED_STAY) for v in some}
        longest = max(some, key=overdue.__getitem__)
        if overdue[longest] < 0.0:
            return False
        self.visits.discard(longest)
        longest.close("Others wait.")
        return True
