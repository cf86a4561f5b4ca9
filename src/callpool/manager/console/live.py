"""One signal for all open pages: something in the database has changed.

It carries nothing but the manager's time; a page that hears it asks for its live part again. At
most one a second goes out, less often while drawing a page costs much. A beat every few seconds
lets a page know that silence means that nothing has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from callpool.licensing.errors import CallpoolError
from callpool.manager.core import Manager

#: Open pages of one manager process.
MAX_PAGES: Final = 500
#: Seconds between two looks at the database, while pages are open.
_LOOK: Final = 0.2
#: Seconds between two signals, at least and at most.
_GAP, _LONGEST_GAP = 1.0, 15.0
#: Drawing may take this share of one core for each open page.
_SHARE: Final = 0.05
#: Seconds between two beats, and between two looks at whether the reader may still read.
BEAT: Final = 5.0
_CHECK: Final = 30.0


class Feed:
    """All open pages of one manager process."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._loop = asyncio.get_running_loop()
        self._watcher = manager.database.watcher()
        self._changed = asyncio.Condition()
        self._number = 0
        self._pages = 0
        self._open = asyncio.Event()
        self._closing = False
        self._cost = 0.0
        self._task = asyncio.create_task(self._watch())

    def took(self, seconds: float) -> None:
        """Note what drawing a live part took: costly ones are drawn less often."""
        self._cost += 0.2 * (seconds - self._cost)

    @property
    def gap(self) -> float:
        """Return the seconds between two signals."""
        return min(_LONGEST_GAP, max(_GAP, self._cost / _SHARE))

    async def _watch(self) -> None:
        while True:
            await self._open.wait()
            if self._watcher.changed():
                async with self._changed:
                    self._number += 1
                    self._changed.notify_all()
                await asyncio.sleep(self.gap)
            else:
                await asyncio.sleep(_LOOK)

    async def stream(self, still: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """Yield the signals of one page until `still` says that its reader may read no more."""
        if self._pages >= MAX_PAGES or self._closing:
            raise CallpoolError("too_many_streams", "The manager has no room for another stream.")
        self._pages += 1
        self._open.set()
        try:
            seen, checked = self._number, self._loop.time()
            yield b"retry: 2000\n" + self.event("beat")
            while not self._closing:
                await self._await_news(seen)
                if self._ended():
                    return
                if self._loop.time() - checked > _CHECK:
                    checked = self._loop.time()
                    if not await still():
                        return
                yield self.event("beat" if seen == self._number else "changed")
                seen = self._number
        finally:
            self._pages -= 1
            if not self._pages:
                self._open.clear()

    async def _await_news(self, seen: int) -> None:
        """Wait for a signal after number `seen`, at most until the next beat."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT), self._changed:
                await self._changed.wait_for(lambda: self._number != seen or self._closing)

    def _ended(self) -> bool:
        return self._closing

    def event(self, name: str) -> bytes:
        """Return one event of the stream."""
        data = msgspec.json.encode({"at": self._manager.clock.now().wall})
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"

    def close(self) -> None:
        """End every stream, so that the process can stop; safe from a signal handler."""
        self._closing = True

        async def wake() -> None:
            async with self._changed:
                self._changed.notify_all()

        with contextlib.suppress(RuntimeError):  # the loop has ended: so have the streams
            asyncio.run_coroutine_threadsafe(wake(), self._loop)

    async def stop(self) -> None:
        """Stop watching."""
        self.close()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._watcher.close()
