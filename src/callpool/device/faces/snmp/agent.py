"""The agent's loop: reads the core, refreshes what is served, tells the receivers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from callpool.device.alarm_book import AlarmReport
from callpool.device.control import ask
from callpool.device.faces.reader import PATIENCE, Reader
from callpool.device.faces.snmp.smart_face import SmartFace, SmartKept
from callpool.device.faces.snmp.tree import alarm_objects, license_objects, system_objects
from callpool.device.settings import Layout
from callpool.device.smart_switches import SmartNotices
from callpool.device.status import Status
from callpool.host.files import write_durably
from callpool.host.snmp import notify
from callpool.host.snmp.engine import Engine
from callpool.host.snmp.notify import Receiver, VarBinds
from callpool.host.snmp.settings import SnmpSettings, read_settings
from callpool.host.snmp.values import View
from callpool.licensing.errors import CallpoolError

#: Seconds between two readings of the core.
EVERY: Final = 0.5
#: Seconds before an address that could not be listened on is tried again.
AGAIN: Final = 10.0


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """`snmp.state.json`: what the agent must remember across its own restarts."""

    #: How often the engine has been started (snmpEngineBoots).
    boots: int = 0
    #: The core's run that was last told of, by its start.
    core: float = 0.0
    #: The last alarm event that the receivers were told of.
    told: int = 0
    #: The last restart that they were told of as asked for, and as done.
    asked: float = 0.0
    done: float = 0.0
    smart: SmartKept = SmartKept()


class SnmpAgent:
    """One device's SNMP agent."""

    def __init__(self, layout: Layout, settings: SnmpSettings, reader: Reader) -> None:
        """Serve the device in `layout` once `run`."""
        self._layout, self._settings, self._reader = layout, settings, reader
        self._view = View({})
        self._began = time.monotonic()
        self._kept = self._load()
        self._receivers: list[Receiver] = []
        self._smart = SmartFace(layout, self._kept.smart, self._receivers)
        self._told_start = False

    def _load(self) -> Kept:
        try:
            return msgspec.json.decode(self._layout.snmp_state.read_bytes(), type=Kept)
        except (OSError, msgspec.DecodeError):
            return Kept()

    def _keep(self, kept: Kept) -> None:
        self._kept = kept
        with contextlib.suppress(OSError):  # the disk is full: the core has that alarm
            write_durably(self._layout.snmp_state, msgspec.json.encode(kept))

    def _uptime(self) -> int:
        """Return sysUpTime in hundredths of a second."""
        return int((time.monotonic() - self._began) * 100) % 2**32

    async def run(self) -> None:
        """Serve until cancelled; raises CallpoolError `snmp_address`."""
        self._keep(msgspec.structs.replace(self._kept, boots=self._kept.boots + 1))
        serial = self._layout.load().serial
        engine = Engine(
            self._settings,
            serial=serial,
            boots=self._kept.boots,
            view=lambda: self._view,
            writable=self._smart.writable,
        )
        tasks: list[asyncio.Task[None]] = []
        try:
            await engine.listening()
            for number, target in enumerate(self._settings.targets):
                receiver = Receiver(partial(engine.send, number, target.kind))
                self._receivers.append(receiver)
                tasks.append(asyncio.create_task(receiver.run()))
            while True:
                with contextlib.suppress(CallpoolError):  # the core is away: it will be back
                    await self._look(engine)
                for task in tasks:
                    if task.done():
                        task.result()  # a defect is not hidden: the faces end and say it
                await asyncio.sleep(EVERY)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            engine.close()

    async def _look(self, engine: Engine) -> None:
        status = await self._reader.status()
        told = await asyncio.to_thread(
            ask, self._layout.control, "alarms", after=0, timeout=PATIENCE
        )
        report = msgspec.convert(told, AlarmReport)
        notices = await self._smart.look(status)
        self._refresh(engine, status, report)
        self._tell(report, status, notices)

    def _refresh(self, engine: Engine, status: Status, report: AlarmReport) -> None:
        now, uptime = report.started + report.uptime, self._uptime()

        def uptime_at(at: float) -> int:
            return min(uptime, max(0, uptime - int((now - at) * 100)))

        self._view = View(
            {
                **system_objects(
                    status,
                    contact=self._settings.contact,
                    location=self._settings.location,
                    uptime=self._uptime,
                ),
                **engine.own_objects(),
                **license_objects(status),
                **alarm_objects(report, uptime_at),
                **self._smart.objects(status, uptime=report.uptime),
            }
        )

    def _tell(self, report: AlarmReport, status: Status, notices: SmartNotices | None) -> None:
        """Queue what has happened since the last look, the start first."""
        serial = status.serial
        kept, uptime = self._kept, self._uptime()
        notifications: list[VarBinds] = []
        if kept.core != report.started:
            # The manager reads the active alarms anew on coldStart.
            notifications.append(notify.standard(notify.COLD_START, uptime))
            notifications.append(notify.started(report.started, serial=serial, uptime=uptime))
        elif not self._told_start:
            notifications.append(notify.standard(notify.WARM_START, uptime))
        self._told_start = True
        asked, done = report.restart_asked, report.restart_done
        if asked not in (0.0, kept.asked):
            notifications.append(notify.resetting(asked, serial=serial, uptime=uptime))
        told = kept.told
        if told > report.sequence:
            told = 0  # the core's log was begun anew
        notifications += [
            notify.varbinds(event, serial=serial, uptime=uptime)
            for event in report.history
            if event.sequence > told
        ]
        if done != kept.done and done >= asked > 0.0:
            notifications.append(notify.started(done, serial=serial, uptime=uptime))
        if notices is not None:
            notifications += [s.varbinds(uptime) for s in self._smart.tell(status, notices)]
        for notification in notifications:
            for receiver in self._receivers:
                receiver.put(notification)
        new = msgspec.structs.replace(
            kept,
            core=report.started,
            told=report.sequence,
            asked=asked,
            done=done,
            smart=self._smart.kept,
        )
        if new != kept:
            self._keep(new)


async def serve_snmp(layout: Layout, reader: Reader) -> None:
    """Serve SNMP until cancelled; an address that is taken is tried again, and the log says so."""
    log: Any = structlog.get_logger("callpool.device.snmp")
    while True:
        try:
            await SnmpAgent(layout, read_settings(layout.snmp), reader).run()
        except CallpoolError as error:
            log.error("snmp_failed", code=error.code, text=error.sentence)
        await asyncio.sleep(AGAIN)
