"""The alarm process: `python -m callpool.manager.alarm_process DIR`, started by the manager.

It ends when its standard input closes, so a manager that is killed leaves none behind. Of
several managers on one directory, or on one PostgreSQL database, one has it at work; the others'
wait for the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from callpool.host import structs
from callpool.host.files import write_durably
from callpool.host.snmp.limit import ALL, Limiter
from callpool.host.snmp.station import Station
from callpool.licensing.errors import CallpoolError
from callpool.manager.alarm_process.intake import Intake
from callpool.manager.alarm_process.inventory import Inventory, listed
from callpool.manager.alarm_process.north import targets_of
from callpool.manager.alarm_process.walks import Walks
from callpool.manager.alarm_state import Kept, load_kept
from callpool.manager.core import Manager
from callpool.manager.own_alarms import RECEIVER
from callpool.manager.settings import Layout
from callpool.manager.snmp_settings import StationSettings, SyslogSettings, read_settings
from callpool.manager.store.database import Claim
from callpool.manager.store.tx import Tx

#: Seconds between two looks at the inventory, and between two writings of what is counted.
_REFRESH: Final = 2.0
#: Seconds before an address that could not be listened on is tried again.
_AGAIN: Final = 5.0

_log = logging.getLogger(__name__)


class AlarmProcess:
    """One manager's alarm process."""

    def __init__(self, layout: Layout, manager: Manager) -> None:
        """Read the settings; raises CallpoolError."""
        self._layout, self._manager = layout, manager
        self._snmp = read_settings(layout.snmp, StationSettings) if layout.snmp.exists() else None
        self._syslog = (
            read_settings(layout.syslog, SyslogSettings)
            if layout.syslog.exists()
            else SyslogSettings()
        )
        kept = load_kept(layout.alarm_state)
        self._kept = Kept(boots=kept.boots + 1, pid=os.getpid())
        self._keep()

    def _keep(self) -> None:
        with contextlib.suppress(OSError):  # the disk is full: the manager has that alarm
            write_durably(self._layout.alarm_state, msgspec.json.encode(self._kept))

    def _station(
        self, settings: StationSettings, inventory: Inventory, *, receives: bool, **more: Any
    ) -> Station:
        return Station(
            listen=settings.listen if receives else _any(settings),
            receives=receives,
            users=settings.users,
            community=settings.community,
            identity=self._manager.product_key(),
            boots=self._kept.boots,
            targets=() if receives else settings.targets,
            knows=inventory.knows_engine,
            **more,
        )

    async def run(self) -> None:
        """Receive, ask and forward until cancelled."""
        jobs: list[Coroutine[Any, Any, None]] = []
        teller: Station | None = None
        settings = self._snmp
        descriptions: dict[str, str] = {}
        if settings is not None:
            inventory = Inventory(settings)
            await self._refresh(inventory)
            descriptions = {d.serial: d.description for d in settings.devices}
            if settings.targets or settings.asks:
                # By an engine of its own: a flood of what comes in delays no answer.
                teller = self._station(
                    settings,
                    inventory,
                    receives=False,
                    received=lambda received: None,
                    limiter=Limiter(ALL, ALL),
                )
                await teller.listening()
            if settings.listen:
                jobs.append(self._receiving(settings, inventory, teller))
        forwarders, beside = targets_of(
            self._manager,
            teller,
            settings.targets if settings else (),
            self._syslog.targets,
            descriptions,
        )
        for forwarder in forwarders:
            await forwarder.started()
        await self._forget_others([f.name for f in forwarders])
        async with asyncio.TaskGroup() as group:
            for job in (*jobs, *beside, *(f.run() for f in forwarders)):
                group.create_task(job)  # type: ignore[arg-type]  # all are coroutines

    async def _forget_others(self, names: list[str]) -> None:
        """Drop the positions of targets that are no more."""

        def work(tx: Tx) -> None:
            for row in tx.rows("SELECT name FROM alarm_target"):
                if row["name"] not in names:
                    tx.run("DELETE FROM alarm_target WHERE name = :name", name=row["name"])

        await asyncio.to_thread(self._manager.database.write, work)

    async def _refresh(self, inventory: Inventory) -> None:
        with contextlib.suppress(CallpoolError):
            inventory.refresh(await asyncio.to_thread(self._manager.database.read, listed))

    async def _receiving(
        self, settings: StationSettings, inventory: Inventory, teller: Station | None
    ) -> None:
        walks = Walks(self._manager, settings, inventory, teller)
        intake = Intake(self._manager, settings, inventory, begun=walks.want)
        station = await self._listening(settings, inventory, intake.hear)

        def limited(address: str) -> None:
            for serial in inventory.units_at(address):
                walks.want(serial)

        station.on_limited = limited
        walks.want_all()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(intake.run())
                group.create_task(walks.run())
                group.create_task(self._keeping(inventory, station, intake, walks))
        finally:
            station.close()

    async def _listening(
        self, settings: StationSettings, inventory: Inventory, heard: Any
    ) -> Station:
        """Return a station that listens; an address that is taken is tried again, and alarmed."""
        failed = False
        while True:
            try:
                station = self._station(settings, inventory, receives=True, received=heard)
                try:
                    await station.listening()
                except CallpoolError:
                    station.close()
                    raise
            except CallpoolError as error:
                if not failed:
                    _log.error("%s", error.sentence)
                failed = True
                await asyncio.to_thread(note_receiver, self._manager, error.sentence)
                await asyncio.sleep(_AGAIN)
                continue
            if failed:
                await asyncio.to_thread(note_receiver, self._manager, "")
            return station

    async def _keeping(
        self, inventory: Inventory, station: Station, intake: Intake, walks: Walks
    ) -> None:
        """Look at the inventory, and keep what is counted, again and again."""
        listen = self._snmp.listen if self._snmp else ""
        while True:
            await self._refresh(inventory)
            counts = {**station.counters(), **intake.counts, **walks.counts}
            kept = msgspec.structs.replace(self._kept, counts=counts, listen=listen)
            if kept != self._kept:
                self._kept = kept
                await asyncio.to_thread(self._keep)
            await asyncio.sleep(_REFRESH)


def note_receiver(manager: Manager, failure: str) -> None:
    """Keep why notifications cannot be received, empty where they can: the manager alarms it."""
    now = manager.clock.now().wall

    def work(tx: Tx) -> None:
        tx.run("DELETE FROM alarm_target WHERE name = :name AND :failure = ''",
               name=RECEIVER, failure=failure)  # fmt: skip
        if failure:
            tx.run(
                "INSERT INTO alarm_target (name, told, failing_since, failure)"
                " VALUES (:name, 0, :now, :failure)"
                " ON CONFLICT (name) DO UPDATE SET failure = excluded.failure",
                name=RECEIVER,
                now=now,
                failure=failure,
            )

    manager.database.write(work)


def _any(settings: StationSettings) -> str:
    """Return any free port of the family that is listened on or told."""
    return "[::]:0" if settings.bound_to.startswith("[") else "0.0.0.0:0"


async def _alone(layout: Layout) -> Any:
    """Return the lock's file once no other process has it."""
    lock = (layout.directory / ".alarms.lock").open("w")
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(1.0)
            continue
        return lock


async def _until(claim: Claim, *, held: bool) -> None:
    """Wait until the claim is held, or is not."""
    while await asyncio.to_thread(claim.held) is not held:  # noqa: ASYNC110  asked of the database
        await asyncio.sleep(1.0)


async def _first(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run until one of `jobs` ends; raises what it raises."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _closed() -> None:
    """Return once standard input is closed."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.read(4096):
        pass


async def _serve(layout: Layout) -> None:
    async def work() -> None:
        lock = await _alone(layout)
        manager = Manager(layout)
        claim = manager.database.claim("alarm process")
        try:
            await _until(claim, held=True)
            try:
                process = AlarmProcess(layout, manager)
            except CallpoolError as error:
                note_receiver(manager, error.sentence)
                raise
            await _first(process.run(), _until(claim, held=False))
        finally:
            claim.close()
            manager.close()
            lock.close()

    tasks = [asyncio.create_task(_closed()), asyncio.create_task(work())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


def main() -> None:
    """Run the alarm process of the manager in the directory that is named."""
    logging.basicConfig(level=logging.WARNING, format="callpool alarms: %(message)s")
    os.nice(5)  # contacts come first
    structs.ready_for_threads()
    try:
        asyncio.run(_serve(Layout(Path(sys.argv[1]))))
    except CallpoolError as error:
        _log.error("%s", error.sentence)
        sys.exit(1)


if __name__ == "__main__":
    main()
