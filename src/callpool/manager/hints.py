"""Hints: each device holds one stream open; a change makes it pull.

A hint carries nothing but the wish that the device make a contact. What other manager processes
on the same database change is seen as well: by SQLite's `PRAGMA data_version`, by PostgreSQL's
LISTEN, so that a device hears of every change whichever manager its stream is open at.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from callpool.licensing.errors import CallpoolError
from callpool.manager.core import Manager

#: The most streams that one manager process keeps open.
MAX_STREAMS: Final = 20_000
#: Seconds between two looks at what other processes changed, while streams are open.
_LOOK: Final = 0.05
#: Seconds before a database that could not be asked is asked again.
_AGAIN: Final = 0.5
#: Seconds between two keep-alive comments.
KEEP_ALIVE: Final = 15.0
#: Seconds after which a stream ends by itself; the device opens it again.
_LIFE: Final = 6 * 3_600.0

#: What a product instance's stream is known by before its id: no serial number has a colon.
_INSTANCE: Final = "smart:"

_HINT: Final = b'data: {"hint":"pull"}\n\n'


def instance_stream(instance_id: str) -> str:
    """Return what the stream of a smart product instance is known by."""
    return f"{_INSTANCE}{instance_id}"


class Hub:
    """All open streams of one manager process."""

    def __init__(self, manager: Manager) -> None:
        self._streams: dict[str, asyncio.Event] = {}
        self._rate = manager.settings.reconnects_per_second
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._open = asyncio.Event()
        self._watcher = manager.database.watcher()
        # What was to be pulled before is told as a stream is opened.
        self._seen = int(manager.database.read(lambda tx: tx.meta("hint_seq")) or 0)
        self._news = asyncio.Event()
        #: Whether something is known to have changed that was not looked at.
        self._behind = False
        self._task = asyncio.create_task(self._watch())
        manager.on_hint = self.wake

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def wake(self) -> None:
        """Look for new hints at once; callable from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: so have the streams
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._watcher.instant:
            self._tell(self._watcher.hints(self._seen, _INSTANCE))
        else:
            self._news.set()

    def _tell(self, found: list[tuple[str, int]]) -> None:
        for serial, seq in found:
            self._seen = max(self._seen, seq)
            if serial in self._streams:
                self._streams[serial].set()

    async def _watch(self) -> None:
        while True:
            await self._open.wait()
            self._news.clear()
            if self._watcher.changed() or self._behind:
                await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._news.wait()
                self._behind = True

    async def _look(self) -> None:
        """Look for hints; where the database cannot be asked, soon again."""
        self._behind = False
        try:
            self._tell(
                self._watcher.hints(self._seen, _INSTANCE)
                if self._watcher.instant
                else await asyncio.to_thread(self._watcher.hints, self._seen, _INSTANCE)
            )
        except SQLAlchemyError:
            self._behind = True
            await asyncio.sleep(_AGAIN)

    def open(self, serial: str, *, waiting: bool) -> AsyncIterator[bytes]:
        """Open a unit's stream; a newer one of the same unit ends the older.

        `waiting` says that there is something to pull already. Raises CallpoolError
        `too_many_streams`.
        """
        if len(self._streams) >= MAX_STREAMS or self._closing:
            raise CallpoolError("too_many_streams", "The manager has no room for another stream.")
        event = asyncio.Event()
        older = self._streams.get(serial)
        self._streams[serial] = event
        if older is not None:
            older.set()
        if waiting:
            event.set()
        self._open.set()
        return self._stream(serial, event)

    async def _stream(self, serial: str, event: asyncio.Event) -> AsyncIterator[bytes]:
        end = self._loop.time() + _LIFE
        try:
            yield b": callpool hints\n" + self._spread()
            while self._streams.get(serial) is event and not self._closing:
                try:
                    async with asyncio.timeout(KEEP_ALIVE):
                        await event.wait()
                except TimeoutError:
                    if self._loop.time() > end:
                        return
                    yield b": still here\n" + self._spread()
                    continue
                event.clear()
                if self._streams.get(serial) is event and not self._closing:
                    yield _HINT
        finally:
            if self._streams.get(serial) is event:
                del self._streams[serial]
            if not self._streams:
                self._open.clear()

    def _spread(self) -> bytes:
        """Return over how long these streams are to be opened again, should they all end at once.

        The `retry` field of server-sent events, in milliseconds.
        """
        return b"retry: %d\n\n" % (1000 * len(self._streams) / self._rate)

    def close(self) -> None:
        """End every stream, so that the process can stop; safe from a signal handler."""
        self._closing = True
        for event in list(self._streams.values()):
            self._loop.call_soon_threadsafe(event.set)

    async def stop(self) -> None:
        """Stop watching."""
        self.close()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._watcher.close()
