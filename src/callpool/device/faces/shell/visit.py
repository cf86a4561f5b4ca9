"""One connection that has signed in, or is about to: when it was last used, and by whom."""

from __future__ import annotations

import time
from collections.abc import Callable


class Visit:
    """One connection."""

    def __init__(self, source: str, close: Callable[[str], None]) -> None:
        """Come from the address `source`; `close` ends it, with a sentence for the client."""
        self.source, self.close = source, close
        #: Who signed in; empty until then.
        self.name = ""
        #: Channels that are open.
        self.channels = 0
        self.began = self._touched = time.monotonic()

    def touch(self) -> None:
        """Note that it is in use."""
        self._touched = time.monotonic()

    def idle(self) -> float:
        """Return the seconds since it was last used."""
        return time.monotonic() - self._touched
