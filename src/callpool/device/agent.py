"""The agent: the one loop that ties the rules to flash, gate and manager.

What is asked, answered or hinted comes in one queue and is handled one piece at a time, so
every change is whole. Contacts with the pool's manager are in `pool.py`, those with the smart
authority in `smart.py`, what is written and enforced in `core.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from callpool.device.core import Core
from callpool.device.drain import LOOK_EVERY, Drain
from callpool.device.errors import DeviceError
from callpool.device.modes import check_floating
from callpool.device.pool import Contacts
from callpool.device.ports import Link, Post
from callpool.device.report import report, smart_report
from callpool.device.reset import HEARING, FactoryReset, Outcome
from callpool.device.settings import Layout
from callpool.device.smart import Smart
from callpool.device.smart_status import SmartStatus
from callpool.device.status import Status
from callpool.licensing.errors import CallpoolError
from callpool.wire.keys import SigningKey


@dataclass(frozen=True, slots=True)
class _Asked:
    work: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]


class Agent:
    """One device's loop."""

    def __init__(
        self, *, core: Core, layout: Layout, identity: SigningKey, link: Link | None
    ) -> None:
        """Make an agent; `link` is None for a device without a manager."""
        self.core, self._link = core, link
        self._events: asyncio.Queue[_Asked] = asyncio.Queue()
        self.contacts = Contacts(
            core=core, layout=layout, identity=identity, link=link, post=self._post
        )
        self.smart = Smart(core=core, layout=layout, link=link, post=self._post)
        self._reset = FactoryReset(core, layout)
        self._stopping = False
        #: Real seconds between two looks at the clock where nothing is due.
        self.look_every = 10.0
        #: Called when a factory reset has dropped what the directory held.
        self.on_reset: Callable[[], None] = lambda: None

    # -- life

    async def start(self) -> None:
        """Start the core, then reach for the manager; raises as `Core.start` does."""
        await self.core.start()
        self.contacts.start()
        await self.smart.start()

    async def run(self) -> None:
        """Handle events and timers until `stop` is asked for."""
        while not self._stopping:
            await self.tick()
            wait = min(self.core.clock.real_seconds(self.next_due()), self._look_every())
            try:
                async with asyncio.timeout(wait):
                    asked = await self._events.get()
            except TimeoutError:
                continue
            await self._handle(asked)

    def _look_every(self) -> float:
        """Return how often the mark is brought forward; a lab's clock may be stepped any time."""
        return 0.2 if self.core.settings.lab_clock else self.look_every

    async def settle(self) -> None:
        """Handle all that is under way, without waiting for a timer."""
        while self.contacts.busy or self.smart.busy or not self._events.empty():
            await self._handle(await self._events.get())

    def stop(self) -> None:
        """Ask the loop to end after the event it is at."""

        async def end() -> None:
            self._stopping = True

        self._post(end)

    async def close(self, *, end_sip: bool) -> None:
        """After the loop: end the tasks, write the mark, and with `end_sip` end the SIP service."""
        await self.smart.close()
        await self.contacts.close()
        await self.core.stop(end_sip=end_sip)

    def nudge(self) -> None:
        """Have the loop look at once at what is due; callable from the event loop only."""

        async def nothing() -> None:
            return

        self._post(nothing)

    @property
    def post(self) -> Post:
        """What queues work for the loop."""
        return self._post

    def contact(self, reason: str) -> None:
        """Have the loop contact the manager, where there is one."""

        async def want() -> None:
            if self.contacts.possible:
                self.contacts.want(reason)

        self._post(want)

    def _post(self, work: Callable[[], Awaitable[Any]]) -> asyncio.Future[Any]:
        """Have the loop do `work` between two events; callable from the event loop only."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._events.put_nowait(_Asked(work, done))
        return done

    async def ask(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run `work` inside the loop, between two events, and return what it returns."""
        return await self._post(work)

    async def _handle(self, asked: _Asked) -> None:
        try:
            result = await asked.work()
        except CallpoolError as error:
            if not asked.done.cancelled():
                asked.done.set_exception(error)
        else:
            if not asked.done.cancelled():
                asked.done.set_result(result)

    # -- timers

    def next_due(self) -> float:
        """Return the seconds (of the device's clock) until something is due."""
        now = self.core.now()
        waits = [self.core.next_due(now)]
        if not self._reset.under_way:
            waits += [self.smart.next_due(), self.contacts.next_due()]
        elif not self.contacts.busy:
            waits.append(self._reset.next_due(now))
        if self.core.drain is not None:
            waits.append(LOOK_EVERY)
        return max(0.0, min(waits))

    async def tick(self) -> None:
        """Do all that is due now: lease end, policy, calls that ended, contact."""
        if await self.core.tick():
            self.contacts.want("restart")
        if self._reset.under_way:
            await self._go_on_resetting()
            return
        await self._go_on_draining()
        await self.smart.tick()
        await self.contacts.tick()

    async def _go_on_resetting(self) -> None:
        """Take the next step of a factory reset: the last contact, then the end."""
        if self.contacts.busy:
            return
        pending = await self._reset.last_contact(self._link, self.contacts.identity)
        if pending is not None:
            self.contacts.send(pending, self._reset.answered, HEARING)
        elif self._reset.next_due(self.core.now()) <= 0.0:
            identity = await self._reset.finish()
            if identity is not None:
                self.smart.dropped()
                self.on_reset()
                await self.contacts.dropped(identity)

    async def _go_on_draining(self) -> None:
        """Carry out a graceful restart once no call is left, or its time is up."""
        drain, usage = self.core.drain, self.core.gate.usage()
        if drain is None:
            return
        left = usage.sessions + usage.emergency
        if not left or self.core.now().boottime >= drain.boottime:
            self.core.note("drained", cause="asked", who=drain.who, calls=left)
            self.core.drain = None
            with contextlib.suppress(CallpoolError):  # noted, alarmed and tried again by the core
                await self.contacts.restart(save=drain.save, who=drain.who)
            await self.core.follow()

    # -- commands (run through `ask`)

    async def restart(self, *, save: bool, who: str = "local") -> None:
        """Restart the SIP service and tell the manager; raises DeviceError as `Core.restart`."""
        await self.contacts.restart(save=save, who=who)

    async def restart_gracefully(self, seconds: int, *, save: bool, who: str) -> Drain:
        """Refuse new calls, and restart once there are none, in `seconds` at the latest."""
        now = self.core.now()
        drain = Drain(until=now.wall + seconds, boottime=now.boottime + seconds, save=save, who=who)
        self.core.drain = drain
        self.core.note("draining", cause="asked", who=who, seconds=seconds, save=save)
        await self.core.follow()
        return drain

    async def cancel_restart(self, *, who: str) -> bool:
        """Give up a restart that waits; return whether there was one."""
        if self.core.drain is None:
            return False
        self.core.drain = None
        self.core.note("draining_cancelled", cause="asked", who=who)
        await self.core.follow()
        return True

    async def pull(self) -> None:
        """Contact the manager at once; raises DeviceError `no_manager` or `not_enrolled`."""
        self.contacts.pull()

    async def enrol(self) -> None:
        """Take up a registration token that has been laid down; raises DeviceError."""
        if self._reset.under_way:
            raise DeviceError("reset_under_way", "A factory reset is under way; try again then.")
        self.contacts.enrol()

    async def floating(self) -> None:
        """Turn floating licensing on; raises DeviceError as `check_floating`."""
        check_floating(self.core)

    async def factory_reset(self, serial: str, *, who: str = "local") -> asyncio.Future[Outcome]:
        """Begin a factory reset, confirmed by the serial number; return what will become of it.

        Raises DeviceError `wrong_serial`, `flash_write_failed`: nothing has changed then.
        """
        self._reset.check(serial)
        if not self._reset.under_way:
            await self.contacts.give_up()
            await self._reset.begin(who=who)
        return self._reset.waiting()

    # -- what it says of itself

    def smart_status(self) -> SmartStatus:
        """Return smart licensing now."""
        return smart_report(self.core)

    def status(self) -> Status:
        """Return the device now: page, command line and API all speak from this."""
        return report(
            self.core,
            last_contact=self.contacts.last_contact,
            next_contact_seconds=self.contacts.next_contact_seconds,
            hints=self.contacts.hints,
        )
