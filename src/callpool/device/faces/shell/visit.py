"""One connection: where it comes from, who has signed in on it, when it was last used."""

from __future__ import annotations

import time
from collections.abc import Callable


class Visit:
    """One connection."""

    def __init__(
        self,
        source: str,
        close: Callable[[str], None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Come from the address `source`; `close` ends it, with a sentence for the client."""
        self.source, self.close = source, close
        #: Who signed in; empty until then.
        self.name = ""
        #: Whether it has named a user: then its keys are exchanged.
        self.named = False
        #: Sessions that are open.
        self.channels = 0
        self._now = now
        self._began = self._touched = now()

    def touch(self) -> None:
        """Note that it is in use."""
        self._touched = self._now()

    def idle(self) -> float:
        """Return the seconds since it was last used."""
        return self._now() - self._touched

    def age(self) -> float:
        """Return the seconds since it came in."""
        return self._now() - self._began
