"""Tells open pages when there is something new: one stream a page, hints only.

A page that hears a hint fetches itself anew, so what it shows has one source.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from callpool.device.config_book import ConfigReport
from callpool.device.faces.reader import Reader
from callpool.device.status import Status
from callpool.licensing.errors import CallpoolError

#: Seconds between two looks.
LOOK: Final = 1.0
#: Looks after which a page is refreshed though nothing has changed: its ages grow.
REFRESH: Final = 15
#: Streams at once.
MAX_STREAMS: Final = 32

_CHANGED: Final = b"event: changed\ndata: 1\n\n"
_AWAY: Final = b"event: away\ndata: 1\n\n"


def _seen(status: Status, config: ConfigReport, log: Path) -> bytes:
    """Return what stands for everything a page shows but the ages."""
    kept = msgspec.structs.replace(
        status, time=0.0, lease_seconds=None, next_contact_seconds=0.0, smart=None
    )
    parts = [msgspec.json.encode(kept), msgspec.json.encode(config)]
    if status.smart is not None:
        smart = msgspec.structs.replace(
            status.smart, eval_seconds_left=0.0, eval_end=None, timers=()
        )
        parts.append(msgspec.json.encode(smart))
    try:
        at = log.stat()
        parts.append(f"{at.st_ino} {at.st_size}".encode())
    except OSError:
        parts.append(b"-")
    return hashlib.sha256(b"\0".join(parts)).digest()


class Live:
    """All open streams of one faces process."""

    def __init__(
        self, reader: Reader, config: Callable[[], Awaitable[ConfigReport]], log: Path
    ) -> None:
        """Watch the core through `reader` and `config`, and `log`, the device's sml.log."""
        self._reader, self._config, self._log = reader, config, log
        self.open = 0

    async def stream(self, still: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """Yield hints until `still` says that the visitor is gone."""
        if self.open >= MAX_STREAMS:
            yield b"retry: 30000\n\n"
            return
        self.open += 1
        last, looks = b"", 0
        try:
            yield b"retry: 2000\n\n"
            while True:
                looks += 1
                try:
                    if not await still():
                        yield _CHANGED  # the page fetches itself and is led to the way in
                        return
                    seen = _seen(await self._reader.status(), await self._config(), self._log)
                except CallpoolError:
                    seen = b"away"
                if seen == b"away":
                    yield _AWAY
                elif (seen != last and last) or looks >= REFRESH:
                    yield _CHANGED
                    looks = 0
                last = seen
                await asyncio.sleep(LOOK)
        finally:
            self.open -= 1
