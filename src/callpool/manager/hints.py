"""Hints: each device holds one stream open; a change makes it pull.

A hint carries nothing but the wish that the device make a contact. Changes made by other
manager processes on the same database are seen through `PRAGMA data_version`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from callpool.licensing.errors import CallpoolError
from callpool.manager.core import Manager

#: The most streams that one manager process keeps open.
MAX_STREAMS: Final = 20_000
#: Seconds between two looks at what other processes changed, while streams are open.
_LOOK: Final = 0.05
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
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._open = asyncio.Event()
        self._watcher = manager.database.watcher()
        self._version = 0
        self._seen = 0
        self._look()
        self._task = asyncio.create_task(self._watch())
        manager.on_hint = self.wake

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def wake(self) -> None:
        """Look for new hints at once; callable from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: so have the streams
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        # In WAL mode a read waits for nobody, so it may run on the loop itself.
        for serial, seq in self._watcher.execute(
            "SELECT serial, hint_seq FROM unit WHERE hint_seq > ?1 UNION ALL"
            " SELECT ?2 || instance_id, hint_seq FROM product_instance WHERE hint_seq > ?1",
            (self._seen, _INSTANCE),
        ).fetchall():
            self._seen = max(self._seen, seq)
            if serial in self._streams:
                self._streams[serial].set()

    async def _watch(self) -> None:
        while True:
            await self._open.wait()
            (version,) = self._watcher.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                self._look()
            await asyncio.sleep(_LOOK)

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
            yield b": callpool hints\n\n"
            while self._streams.get(serial) is event and not self._closing:
                try:
                    async with asyncio.timeout(KEEP_ALIVE):
                        await event.wait()
                except TimeoutError:
                    if self._loop.time() > end:
                        return
                    yield b": still here\n\n"
                    continue
                event.clear()
                if self._streams.get(serial) is event and not self._closing:
                    yield _HINT
        finally:
            if self._streams.get(serial) is event:
                del self._streams[serial]
            if not self._streams:
                self._open.clear()

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
