"""`callpool device run`: composes the core, serves its socket, starts and watches the faces.

A stop that was asked for (SIGTERM, SIGINT, `callpool device stop`) ends the faces, writes the
call book and the mark, and ends Kamailio. A core that is killed leaves Kamailio at work along
its policy's own steps; the next run takes it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from callpool.device import alarms as al
from callpool.device.agent import Agent
from callpool.device.alarm_book import AlarmBook
from callpool.device.control import Command, Control
from callpool.device.core import Core
from callpool.device.errors import DeviceError
from callpool.device.flash import Flash
from callpool.device.gate import KamailioGate
from callpool.device.gate.driver import Alarm as GateAlarm
from callpool.device.gate.settings import GateSettings
from callpool.device.journal import FileJournal
from callpool.device.keeper import Faces
from callpool.device.logs import configure_log
from callpool.device.manager_link import ManagerLink
from callpool.device.settings import Layout, Settings
from callpool.device.smart_door import SmartDoor
from callpool.device.vitals import vitals_of
from callpool.host.clock import clock_for
from callpool.host.files import write_durably


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`: what runs, for whoever looks after it."""

    pid: int
    kamailio_pid: int
    faces_pid: int
    #: host:port of the first UDP listen address.
    sip: str
    #: host:port of the pages; empty for none.
    pages: str


def gate_settings(settings: Settings, layout: Layout, *, secret: str = "") -> GateSettings:
    """Return what the gate is told; raises GateError or DeviceError `bad_gate_settings`.

    `secret` stands in for the device's own where there is none yet.
    """
    unknown = sorted(set(settings.gate) - set(GateSettings.__struct_fields__))
    if unknown:
        raise DeviceError("bad_gate_settings", f"The gate has no setting {unknown[0][:40]!r}.")
    try:
        return msgspec.convert(
            {
                **settings.gate,
                "directory": str(layout.gate),
                "mac_secret": secret or layout.gate_secret.read_text().strip(),
            },
            type=GateSettings,
        )
    except msgspec.ValidationError as error:
        raise DeviceError("bad_gate_settings", f"The gate's settings: {error}.") from error
    except FileNotFoundError as error:
        raise DeviceError("no_secret", f"{layout.gate_secret} is missing.") from error


def sip_address(gate: GateSettings) -> str:
    """Return host:port of the gate's first UDP listen address."""
    first = next(a for a in gate.listen if a.startswith("udp:"))
    return first.removeprefix("udp:")


@contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """Hold the directory's lock; raises DeviceError `already_running`."""
    with layout.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DeviceError(
                "already_running", f"A device already runs in {layout.root}."
            ) from error
        yield


class Device:
    """Everything of one running device."""

    def __init__(self, directory: Path) -> None:
        """Compose it; nothing is started. Raises CallpoolError on settings that cannot be."""
        self.layout = Layout(directory.resolve())
        self.settings = settings = self.layout.load()
        clock = clock_for(settings.lab_clock)
        self.journal = FileJournal(self.layout.journal)
        self.gate_settings = gate_settings(settings, self.layout)
        self.gate = KamailioGate(self.gate_settings, clock, on_alarm=self._gate_alarm)
        flash = Flash(self.layout.flash, self.layout.load_secret())
        self.core = Core(
            settings=settings, flash=flash, clock=clock, gate=self.gate, journal=self.journal
        )
        link = (
            ManagerLink(settings.manager, ca_file=settings.ca_file, proxy=settings.proxy)
            if settings.manager
            else None
        )
        self.agent = Agent(
            core=self.core, layout=self.layout, identity=self.layout.load_identity(), link=link
        )
        self.alarms = AlarmBook(self.layout.alarms, self.core)
        self.control = Control(self.layout.control, self._commands())
        self.faces = Faces(self.layout.root, self.core)
        self._gate_restarts = 0
        self._end_sip = True

    def _gate_alarm(self, alarm: GateAlarm) -> None:
        if alarm.code in ("gate_down", "gate_silent"):
            self.core.fault(al.GATE_DOWN, alarm.sentence)
            self.agent.nudge()
        else:
            self._gate_restarts += alarm.code == "gate_restarted"
            self.core.note(alarm.code, text=alarm.sentence)

    def _commands(self) -> dict[str, Command]:
        agent, core = self.agent, self.core

        async def status(_: dict[str, Any]) -> Any:
            return agent.status()

        async def alarms(request: dict[str, Any]) -> Any:
            after = request.get("after")
            return self.alarms.report(after=after if isinstance(after, int) else None)

        async def running(_: dict[str, Any]) -> Any:
            return self.running()

        async def vitals(_: dict[str, Any]) -> Any:
            return vitals_of(
                core, gate_restarts=self._gate_restarts, faces_starts=self.faces.starts
            )

        async def restart(request: dict[str, Any]) -> Any:
            save = request.get("save") is True
            await agent.ask(lambda: agent.restart(save=save))
            return agent.status()

        async def pull(_: dict[str, Any]) -> Any:
            return await agent.ask(agent.pull)

        async def enrol(_: dict[str, Any]) -> Any:
            return await agent.ask(agent.enrol)

        async def install(request: dict[str, Any]) -> Any:
            key = await agent.ask(lambda: core.install_key(str(request.get("envelope", ""))))
            return key.key_id

        async def calls(_: dict[str, Any]) -> Any:
            usage = self.gate.usage()
            return {name: getattr(usage, name) for name in usage.__dataclass_fields__}

        async def forget() -> int:
            # Noted first: an answer that Kamailio owes may still come and be acted on.
            uncertain = self.gate.usage().uncertain
            core.note("forget_uncertain", cause="asked", who="local", sessions=uncertain)
            return await self.gate.forget_uncertain()

        async def forget_uncertain(_: dict[str, Any]) -> Any:
            return await agent.ask(forget)

        async def stop(request: dict[str, Any]) -> Any:
            self._end_sip = request.get("leave_sip") is not True
            agent.stop()

        async def floating(request: dict[str, Any]) -> Any:
            if request.get("on") is True:
                await agent.ask(agent.floating)
            return agent.status()

        async def factory_reset(request: dict[str, Any]) -> Any:
            serial = str(request.get("serial", ""))
            return await (await agent.ask(lambda: agent.factory_reset(serial)))

        smart = SmartDoor(agent)

        return {
            "smart": smart.command,
            "status": status,
            "alarms": alarms,
            "running": running,
            "vitals": vitals,
            "restart": restart,
            "pull": pull,
            "enrol": enrol,
            "key_install": install,
            "calls": calls,
            "forget_uncertain": forget_uncertain,
            "floating": floating,
            "factory_reset": factory_reset,
            "stop": stop,
        }

    def running(self) -> Running:
        """Return process ids and addresses."""
        return Running(
            pid=os.getpid(),
            kamailio_pid=self.gate.kamailio_pid,
            faces_pid=self.faces.pid,
            sip=sip_address(self.gate_settings),
            pages=self.settings.pages,
        )

    async def run(self) -> None:
        """Run until asked to stop; raises CallpoolError where the device cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.agent.stop)
        faces: asyncio.Task[None] | None = None
        try:
            await self.agent.start()
            await self.alarms.start()
            await self.control.start()
            if self.settings.pages or self.layout.snmp.exists() or self.layout.syslog.exists():
                faces = asyncio.create_task(self.faces.run())
                await asyncio.sleep(0)
            beside = [
                asyncio.create_task(self._keep_run_file()),
                asyncio.create_task(self.alarms.run()),
            ]
            try:
                await self.agent.run()
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
        finally:
            if faces is not None:
                faces.cancel()
                await asyncio.gather(faces, return_exceptions=True)
            await self.control.stop()
            if hasattr(self.core, "opened"):
                if not self._end_sip:
                    await self.gate.detach()
                await self.agent.close(end_sip=self._end_sip)
            self.layout.run.unlink(missing_ok=True)

    async def _keep_run_file(self) -> None:
        """Write `run.json` whenever a process id changes."""
        written: Running | None = None
        while True:
            now = self.running()
            if now != written:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(
                        write_durably, self.layout.run, msgspec.json.encode(now)
                    )
                    written = now
            await asyncio.sleep(0.25)


def run_device(directory: Path) -> None:
    """Run a device in the foreground; raises CallpoolError with the reason it cannot."""
    configure_log()
    layout = Layout(directory.resolve())
    layout.load()
    with only_one(layout):
        device = Device(directory)
        asyncio.run(device.run())
