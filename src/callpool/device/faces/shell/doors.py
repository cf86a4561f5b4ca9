"""Who may be in: connections are bounded overall, by address, and while nobody has signed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from callpool.device.faces.shell.visit import Visit

#: Connections of people who have signed in, in all and from one address.
MAX_SIGNED_IN: Final = 32
MAX_FROM_ONE: Final = 16
#: Connections that nobody has signed in on yet.
MAX_STRANGERS: Final = 32
MAX_STRANGERS_FROM_ONE: Final = 16


class Doors:
    """The connections of one shell."""

    def __init__(self) -> None:
        """Begin with none."""
        self.visits: set[Visit] = set()

    def enter(self, source: str, close: Callable[[str], None]) -> Visit:
        """Take a connection in; where there is no room, the stranger that has been there longest
        makes it: who can sign in does so at once, who only holds a place does not keep it.
        """  # noqa: D205 - one sentence
        strangers = [v for v in self.visits if not v.name]
        mine = [v for v in strangers if v.source == source]
        if len(mine) >= MAX_STRANGERS_FROM_ONE:
            self._out(mine)
        elif len(strangers) >= MAX_STRANGERS:
            # Of the address that holds most places.
            most, _ = Counter(v.source for v in strangers).most_common(1)[0]
            self._out([v for v in strangers if v.source == most])
        visit = Visit(source, close)
        self.visits.add(visit)
        return visit

    def sign_in(self, visit: Visit, name: str) -> bool:
        """Let a stranger become the user `name`; False where there is no room."""
        known = [v for v in self.visits if v.name and v is not visit]
        mine = sum(v.source == visit.source for v in known)
        if len(known) >= MAX_SIGNED_IN or mine >= MAX_FROM_ONE:
            return False
        visit.name = name
        return True

    def leave(self, visit: Visit) -> None:
        """Forget a connection that has ended."""
        self.visits.discard(visit)

    def _out(self, some: list[Visit]) -> None:
        longest = min(some, key=lambda v: v.began)
        self.visits.discard(longest)
        longest.close("Others wait; sign in faster.")
