"""Keeps the alarm process up while there is anything for it to do."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Final

from callpool.host.keeper import Keeper
from callpool.manager.settings import Layout

#: Seconds between two looks at the settings.
_LOOK: Final = 1.0

_log = logging.getLogger(__name__)


async def alarm_process(layout: Layout) -> None:
    """Run the alarm process until cancelled: anew whenever its settings change, not without any."""
    while True:
        found = _stamp(layout)
        if not any(found):
            await asyncio.sleep(_LOOK)
            continue
        words = (sys.executable, "-m", "callpool.manager.alarm_process", str(layout.directory))
        task = asyncio.create_task(Keeper(words, ended=_ended).run())
        try:
            while _stamp(layout) == found and not task.done():
                await asyncio.wait({task}, timeout=_LOOK)
        finally:
            task.cancel()
            # Waited for so that being cancelled meanwhile, as when the manager stops, is not lost.
            (failure,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(failure, Exception):  # none could be started: again, but not at once
            _log.warning("The alarm process cannot be started: %s.", failure)
            await asyncio.sleep(_LOOK)


def _ended(status: int) -> None:
    _log.warning("The alarm process has ended with status %d; it is started again.", status)


def _stamp(layout: Layout) -> tuple[object, ...]:
    """Return what tells one version of the settings from another; all None for none."""
    stamps: list[object] = []
    for file in (layout.snmp, layout.syslog):
        try:
            found = file.stat()
            stamps.append((found.st_mtime_ns, found.st_ino))
        except OSError:
            stamps.append(None)
    return tuple(stamps)
