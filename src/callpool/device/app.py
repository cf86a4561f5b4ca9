"""`callpool device run`: composes the core, serves its socket, starts and watches the faces.

A stop that was asked for (SIGTERM, SIGINT, `callpool device stop`) ends the faces, writes the
call book and the mark, and ends Kamailio. A core that is killed leaves Kamailio at work along
its policy's own steps; the next run takes it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from callpool.device import alarms as al
from callpool.device.agent import Agent
from callpool.device.alarm_book import AlarmBook
from callpool.device.config_book import ConfigBook, Doorkeeper
from callpool.device.config_door import ConfigDoor, asker
from callpool.device.control import Command, Control
from callpool.device.core import Core
from callpool.device.drain import check_wait
from callpool.device.errors import DeviceError
from callpool.device.flash import Flash
from callpool.device.gate.driver import Alarm as GateAlarm
from callpool.device.gate.driver import KamailioGate
from callpool.device.journal import FileJournal
from callpool.device.keeper import Faces
from callpool.device.logs import configure_log
from callpool.device.manager_link import ManagerLink
from callpool.device.pair import Pair
from callpool.device.pair_address import ServiceAddress
from callpool.device.pair_link import PairLink
from callpool.device.pair_settings import derived, read_pair, read_secret
from callpool.device.running import Running, gate_settings, only_one, sip_address
from callpool.device.settings import Layout
from callpool.device.smart_door import SmartDoor
from callpool.device.smart_switches import SwitchBook
from callpool.device.ssh_settings import read_ssh
from callpool.device.vitals import vitals_of
from callpool.host import structs
from callpool.host.clock import clock_for
from callpool.host.files import write_durably


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
        self.pair = self._pair()
        self.alarms = AlarmBook(self.layout.alarms, self.core)
        self.config = ConfigBook(self.layout.config, self.core.note)
        self.agent.on_reset = self.config.forget
        self.agent.contacts.alarms.read = lambda: self.alarms.log
        self.alarms.on_event = self.agent.nudge
        self.switches = SwitchBook(self.layout.smart_switches, self.core)
        self.control = Control(self.layout.control, self._commands())
        self.faces = Faces(self.layout.root, self.core)
        # A process of its own: key exchanges of a flood must not hold up pages and SNMP either.
        self.shell = Faces(self.layout.root, self.core, "callpool.device.faces.shell")
        ssh = read_ssh(self.layout.ssh)
        self._ssh = ssh.listen if ssh else ""
        self._gate_restarts = 0
        self._end_sip = True
        #: Whether the device is to begin anew once it has ended.
        self.again = False

    def _pair(self) -> Pair | None:
        settings, layout = read_pair(self.layout.pair), self.layout
        if settings is None:
            return None
        pair = Pair(
            core=self.core,
            gate=self.gate,
            settings=settings,
            link=PairLink(
                secret=derived(read_secret(layout.pair_secret), "cores"),
                address=settings.address, peer=settings.peer, port=settings.core_port,
            ),
            address=ServiceAddress(settings, self.settings.serial, layout.root),
            post=self.agent.post,
            directory=layout.root,
        )  # fmt: skip
        pair.on_active = lambda: self.agent.contact("switchover")
        self.core.pair = pair
        return pair

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
            return msgspec.structs.replace(agent.status(), unsaved=self.config.unsaved)

        async def alarms(request: dict[str, Any]) -> Any:
            after = request.get("after")
            return self.alarms.report(after=after if isinstance(after, int) else None)

        async def notices(request: dict[str, Any]) -> Any:
            after = request.get("after")
            return self.switches.notices(after if isinstance(after, int) else 0)

        async def switch(request: dict[str, Any]) -> Any:
            wanted = request.get("switches")
            return await self.switches.change(
                wanted if isinstance(wanted, dict) else {}, who=asker(request)
            )

        async def running(_: dict[str, Any]) -> Any:
            return self.running()

        async def vitals(_: dict[str, Any]) -> Any:
            return vitals_of(
                core, gate_restarts=self._gate_restarts, faces_starts=self.faces.starts
            )

        async def restart(request: dict[str, Any]) -> Any:
            save, who = request.get("save") is True, asker(request)
            await agent.ask(lambda: agent.restart(save=save, who=who))
            return agent.status()

        async def drain(request: dict[str, Any]) -> Any:
            who, save = asker(request), request.get("save") is True
            if request.get("cancel") is True:
                return await agent.ask(lambda: agent.cancel_restart(who=who))
            seconds = check_wait(request.get("seconds"))
            waits = await agent.ask(lambda: agent.restart_gracefully(seconds, save=save, who=who))
            usage = self.gate.usage()
            return {"until": waits.until, "calls": usage.sessions + usage.emergency}

        async def reload(request: dict[str, Any]) -> Any:
            core.note("reload", cause="asked", who=asker(request))
            self.again = True
            agent.stop()

        async def pull(request: dict[str, Any]) -> Any:
            core.note("pull", cause="asked", who=asker(request))
            return await agent.ask(agent.pull)

        async def enrol(_: dict[str, Any]) -> Any:
            return await agent.ask(agent.enrol)

        async def install(request: dict[str, Any]) -> Any:
            who, envelope = asker(request), str(request.get("envelope", ""))
            key = await agent.ask(lambda: core.install_key(envelope, who=who))
            return key.key_id

        async def switchover(request: dict[str, Any]) -> Any:
            if self.pair is None:
                raise DeviceError("no_pair", "This device is no unit of an HA pair.")
            core.note("ha_switchover", cause="asked", who=asker(request))
            return await self.pair.switch()

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
            serial, who = str(request.get("serial", "")), asker(request)
            return await (await agent.ask(lambda: agent.factory_reset(serial, who=who)))

        smart = SmartDoor(agent)
        keeper = Doorkeeper(self.config, core.note, time.monotonic)

        return {
            **ConfigDoor(self.config, keeper).commands(),
            "smart": smart.command,
            "status": status,
            "alarms": alarms,
            "notices": notices,
            "switch": switch,
            "running": running,
            "vitals": vitals,
            "restart": restart,
            "drain": drain,
            "reload": reload,
            "pull": pull,
            "enrol": enrol,
            "key_install": install,
            "calls": calls,
            "switchover": switchover,
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
            shell_pid=self.shell.pid,
            ssh=self._ssh,
        )

    async def run(self) -> None:
        """Run until asked to stop; raises CallpoolError where the device cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.agent.stop)
        faces: list[asyncio.Task[None]] = []
        try:
            await self.config.start()
            if self.pair is not None:
                await self.pair.start()
                self.gate.pair(self.pair, serving=self.pair.serving)
            await self.agent.start()
            if self.pair is not None:
                self.pair.run()
            await self.alarms.start()
            await self.switches.start()
            await self.control.start()
            wanted = (self.layout.snmp, self.layout.syslog)
            if self.settings.pages or any(file.exists() for file in wanted):
                faces.append(asyncio.create_task(self.faces.run()))
            if self._ssh:
                faces.append(asyncio.create_task(self.shell.run()))
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
            for task in faces:
                task.cancel()
            await asyncio.gather(*faces, return_exceptions=True)
            await self.control.stop()
            if self.pair is not None:
                if self._end_sip:
                    await self.pair.leave()
                await self.pair.close()
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
    structs.ready_for_threads()
    configure_log()
    layout = Layout(directory.resolve())
    layout.load()
    with only_one(layout):
        device = Device(directory)
        asyncio.run(device.run())
    if device.again:
        # The same process with the same command line: whoever looks after it sees no end.
        sys.stderr.flush()
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606  our own command line, no shell
