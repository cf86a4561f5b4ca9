"""From notifications to the database, in batches; what does not fit is counted and asked for.

An inform is acknowledged once what it says is on disk. Of an alarm that flaps within one batch
the last event is kept and some before it: the state is right, the history of the flapping short.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from callpool.host.snmp.station import Received
from callpool.host.snmp.trap import oid_of, read
from callpool.licensing.alarm_feed import BOARD_STARTED, Heard
from callpool.licensing.errors import CallpoolError
from callpool.manager.alarm_process.inventory import Inventory
from callpool.manager.alarms import TRAP, take
from callpool.manager.change import Change
from callpool.manager.core import Manager
from callpool.manager.snmp_settings import StationSettings

#: Events that wait at most, and how many of one alarm.
MOST: Final = 5_000
MOST_EACH: Final = 4
#: Events of one transaction, and the seconds between two: contacts come in between.
BATCH: Final = 50
PAUSE: Final = 0.05
#: Seconds before a database that could not be written is tried again.
AGAIN: Final = 1.0
#: Who: what SNMP brings.
WHO: Final = "snmp"

_log = logging.getLogger(__name__)

Key = tuple[str, str, str]


class _Waiting:
    """One event, and the informs that told it."""

    __slots__ = ("acknowledge", "heard", "serial", "source")

    def __init__(self, serial: str, heard: Heard, received: Received) -> None:
        self.serial, self.heard, self.source = serial, heard, received.source[0]
        self.acknowledge = [received.acknowledge]


class Intake:
    """What waits to be written."""

    def __init__(
        self,
        manager: Manager,
        settings: StationSettings,
        inventory: Inventory,
        *,
        begun: Callable[[str, Received | None], None],
    ) -> None:
        """Write through `manager`; `begun` hears of units whose alarms are to be asked for."""
        self._manager, self._inventory, self._begun = manager, inventory, begun
        self._prefixes = tuple(oid_of(p) for p in settings.prefixes)
        self._waiting: list[_Waiting] = []
        self._each: dict[Key, list[_Waiting]] = {}
        self._more = asyncio.Event()
        self.counts: Counter[str] = Counter()

    def hear(self, received: Received) -> None:
        """Take one notification; it is written by `run`."""
        told = read(received.binds, self._prefixes, time.time())
        if told is None:
            self.counts["not_ours"] += 1
            received.acknowledge()
            return
        serial, refused = self._inventory.speaker(received, told.serial)
        if refused:
            self.counts[refused] += 1
            if told.cold_start:
                # It names nobody, and what follows it does: the sender must not wait here.
                received.acknowledge()
            return
        started = told.heard is not None and told.heard.oid == BOARD_STARTED
        if told.cold_start or started:
            self.counts["started"] += 1
            self._begun(serial, received)
        if told.heard is None:
            received.acknowledge()
            return
        self.counts["taken"] += 1
        self._put(serial, told.heard, received)

    def _put(self, serial: str, heard: Heard, received: Received) -> None:
        mine = self._each.setdefault((serial, heard.about, heard.oid), [])
        if len(mine) >= MOST_EACH:
            self.counts["coalesced"] += 1
            last = mine[-1]
            last.heard = heard
            last.acknowledge.append(received.acknowledge)
            return
        if len(self._waiting) >= MOST:
            # Not acknowledged: an inform comes again, and the unit's own list is asked for.
            self.counts["overflowed"] += 1
            if not mine:
                del self._each[serial, heard.about, heard.oid]
            self._begun(serial, received)
            return
        waiting = _Waiting(serial, heard, received)
        self._waiting.append(waiting)
        mine.append(waiting)
        self._more.set()

    async def run(self) -> None:
        """Write what waits until cancelled."""
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            batch = self._waiting[:BATCH]
            self._settle(batch)
            if not await self._written(batch):
                await asyncio.sleep(AGAIN)
                continue
            del self._waiting[: len(batch)]
            for waiting in batch:
                for acknowledge in waiting.acknowledge:
                    acknowledge()
            await asyncio.sleep(PAUSE)

    def _settle(self, batch: list[_Waiting]) -> None:
        """Let what is about to be written be changed no more."""
        for waiting in batch:
            key = waiting.serial, waiting.heard.about, waiting.heard.oid
            mine = self._each.get(key, [])
            if waiting in mine:
                mine.remove(waiting)
            if not mine:
                self._each.pop(key, None)

    async def _written(self, batch: list[_Waiting]) -> bool:
        def work(change: Change) -> None:
            for waiting in batch:
                change.source = waiting.source
                take(change, waiting.serial, waiting.heard, TRAP)

        try:
            await asyncio.to_thread(self._manager.change, WHO, "", work)
        except CallpoolError as error:
            if error.code == "grant_journal_unusable":
                return True  # the change stands
            self.counts["not_written"] += 1
            _log.warning("%s", error.sentence)
            return False
        return True
