"""Asks devices for their active alarms: after a coldStart, after a loss, at our own start.

A device is asked where the settings say, or where a notification of its came from; there only
as an SNMPv3 user, for a community sent to an address that anybody can write would be given away.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final

from callpool.host.snmp.station import Received, Station
from callpool.host.snmp.trap import ACTIVE, oid_of, read_table
from callpool.licensing.errors import CallpoolError
from callpool.manager.alarm_process.intake import WHO
from callpool.manager.alarm_process.inventory import Inventory
from callpool.manager.alarms import MANAGER, MOST_ACTIVE, WALK, reconcile
from callpool.manager.change import Change
from callpool.manager.core import Manager
from callpool.manager.snmp_settings import StationSettings

#: Seconds from a notification to the question: what it announces is in the table then.
SOON: Final = 1.0
#: Seconds between two questions to one device.
BETWEEN: Final = 10.0
#: Seconds after which a device that did not answer is asked again; then no more.
AGAIN: Final = (5.0, 30.0, 300.0)
#: Devices that are asked at once, and that wait for it at most.
AT_ONCE: Final = 4
MOST_WAITING: Final = 20_000
#: Seconds by which a device's table may lag behind what it has told.
LAG: Final = 5.0
#: Columns of the table.
_COLUMNS: Final = 13


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    at: float
    address: tuple[str, int]
    user: str
    tries: int = 0


class Walks:
    """Which devices are to be asked, and when."""

    def __init__(
        self,
        manager: Manager,
        settings: StationSettings,
        inventory: Inventory,
        station: Station | None,
    ) -> None:
        """Ask through `station`; without one nobody is asked."""
        self._manager, self._settings = manager, settings
        self._inventory, self._station = inventory, station
        self._prefixes = tuple(oid_of(p) for p in settings.prefixes)
        self._due: dict[str, _Due] = {}
        self._asked: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._more = asyncio.Event()
        self.counts: Counter[str] = Counter()

    def want(self, serial: str, received: Received | None = None) -> None:
        """Ask a unit soon; `received` is what it was heard by, where it was."""
        found = self._where(serial, received)
        if found is None or len(self._due) >= MOST_WAITING:
            self.counts["not_asked"] += 1
            return
        now = time.monotonic()
        at = max(now + SOON, self._asked.get(serial, now - BETWEEN) + BETWEEN)
        held = self._due.get(serial)
        if held is None or at < held.at or held.tries:
            self._due[serial] = _Due(at=at, address=found[0], user=found[1])
            self._more.set()

    def want_all(self) -> None:
        """Ask every unit whose address is set: what it told while nobody listened is lost."""
        for serial, entry in self._inventory.entries.items():
            if entry.address:
                self.want(serial)

    def _where(self, serial: str, received: Received | None) -> tuple[tuple[str, int], str] | None:
        if self._station is None:
            return None
        entry = self._inventory.entry(serial)
        user = entry.ask_user or self._settings.ask_user
        if entry.address:
            return (entry.asked_at(), user) if user or self._settings.community else None
        if user and received is not None and received.user:
            # The vendor's devices send from the port where they are asked (C, facts 4.3).
            return received.source, user
        return None

    async def run(self) -> None:
        """Ask who is due until cancelled."""
        try:
            while True:
                now = time.monotonic()
                for serial, due in sorted(self._due.items(), key=lambda d: d[1].at):
                    if len(self._running) >= AT_ONCE or due.at > now:
                        break
                    if serial not in self._running:
                        del self._due[serial]
                        task = asyncio.create_task(self._ask(serial, due))
                        self._running[serial] = task
                self._more.clear()
                await _first(self._more.wait(), 0.25 if self._due or self._running else 60.0)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _ask(self, serial: str, due: _Due) -> None:
        began = self._manager.clock.now().wall
        self._asked[serial] = time.monotonic()
        assert self._station is not None  # nobody is due without it
        try:
            found = await self._station.walk(due.address, due.user, ACTIVE, MOST_ACTIVE * _COLUMNS)
            listed = read_table(found, self._prefixes, began)

            def work(change: Change) -> tuple[int, int]:
                return reconcile(
                    change,
                    serial,
                    listed,
                    WALK,
                    at=change.now,
                    mine=lambda row: row["source"] != MANAGER,
                    newer=lambda number, at: at >= began - LAG,
                )

            raised, cleared = await asyncio.to_thread(
                self._manager.change, WHO, due.address[0], work
            )
            self.counts["walks"] += 1
            self.counts["walk_raised"] += raised
            self.counts["walk_cleared"] += cleared
        except CallpoolError:
            self.counts["walks_failed"] += 1
            if due.tries < len(AGAIN) and serial not in self._due:
                at = time.monotonic() + AGAIN[due.tries]
                self._due[serial] = _Due(
                    at=at, address=due.address, user=due.user, tries=due.tries + 1
                )
        finally:
            del self._running[serial]
            self._more.set()


async def _first(work: Awaitable[object], within: float) -> None:
    try:
        async with asyncio.timeout(within):
            await work
    except TimeoutError:
        return
