"""Reads the core's status for the pages: at most twice a second, however many ask."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

import msgspec

from callpool.device.control import ask
from callpool.device.status import Status
from callpool.device.vitals import Vitals

#: Seconds for which one reading is shown.
FRESH: Final = 0.5
#: Seconds that the core may take to answer a page.
PATIENCE: Final = 3.0


class Reader:
    """One cached reading of the core."""

    def __init__(self, socket_file: Path) -> None:
        """Read from the core that serves `socket_file`."""
        self._file = socket_file
        self._lock = asyncio.Lock()
        self._status: Status | None = None
        self._read_at = 0.0

    async def status(self) -> Status:
        """Return the device now; raises CallpoolError where the core does not answer."""
        async with self._lock:
            if self._status is None or time.monotonic() - self._read_at > FRESH:
                told = await asyncio.to_thread(ask, self._file, "status", timeout=PATIENCE)
                self._status = msgspec.convert(told, Status)
                self._read_at = time.monotonic()
            return self._status

    def forget(self) -> None:
        """Read anew the next time: something was changed by hand."""
        self._status = None

    async def vitals(self) -> Vitals:
        """Return what the metrics tell beyond the status; raises as `status`."""
        told = await asyncio.to_thread(ask, self._file, "vitals", timeout=PATIENCE)
        return msgspec.convert(told, Vitals)
