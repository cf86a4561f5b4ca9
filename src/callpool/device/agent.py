"""The agent: the one loop that ties the rules to flash, gate and manager.

Events arrive in one queue and are handled one at a time, so every change is whole. Talking to
the manager happens in tasks beside the loop: a manager that hangs delays no timer and no
command. When to talk is decided in `schedule.py`, what a reply changes in `contact.py`, what
is written and enforced in `core.py`.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from callpool.device import alarms as al
from callpool.device.active import active_alarms
from callpool.device.contact import (
    contact_request,
    enrol_request,
    repeatable,
    take,
    version,
)
from callpool.device.core import Core
from callpool.device.errors import DeviceError, LinkError
from callpool.device.manager_link import STREAM_OPEN, new_nonce
from callpool.device.modes import check_floating, mode
from callpool.device.ports import Link
from callpool.device.record import Pending
from callpool.device.report import report, smart_report
from callpool.device.reset import HEARING, FactoryReset, Outcome
from callpool.device.schedule import Schedule
from callpool.device.settings import Layout, read_token
from callpool.device.smart import Smart
from callpool.device.smart_status import SmartStatus
from callpool.device.status import Status, in_use
from callpool.device.trust import certified_key, enrolment
from callpool.device.usage import PER_CONTACT, UsageLog
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError
from callpool.licensing.instant import SKEW_REPORTED, Instant
from callpool.wire.envelope import HINTS, sign
from callpool.wire.keys import SigningKey
from callpool.wire.messages import CONTACT_PATH, ENROL_PATH, HINTS_PATH, HintsRequest
from callpool.wire.tokens import split

#: Seconds between two looks at what is in use while more is in use than allowed.
DRAIN_LOOK: Final = 0.5
#: The shortest and longest wait in seconds before the hint stream is opened again.
HINTS_BACKOFF: Final = (0.5, 60.0)
#: Seconds that one exchange may take in all.
EXCHANGE_LIMIT: Final = 60.0
#: A hint stream that stood this long, in seconds, was a good one.
HINTS_GOOD: Final = 10.0
#: The shortest and longest wait in seconds between two attempts to enrol.
ENROL_BACKOFF: Final = (1.0, 900.0)
#: Codes of a manager that holds this serial number for a clone.
CLONE_CODES: Final = frozenset({"unit_locked", "stale_contact"})
#: Faults between a device and its manager.
MANAGER_FAULTS: Final = (
    al.CONTACT_LOST,
    al.REPLY_REFUSED,
    al.CLONE_LOCKED,
    al.NOT_ENROLLED,
    al.CLOCK_SKEW,
)


@dataclass(frozen=True, slots=True)
class _Answered:
    pending: Pending
    outcome: str | CallpoolError


@dataclass(frozen=True, slots=True)
class _Hinted:
    name: str


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
        self.core = core
        self._layout, self._identity, self._link = layout, identity, link
        self._usage = UsageLog(layout.usage)
        self._events: asyncio.Queue[_Answered | _Hinted | _Asked] = asyncio.Queue()
        self.smart = Smart(core=core, layout=layout, link=link, post=self._post)
        self._reset = FactoryReset(core, layout)
        self._contact: asyncio.Task[None] | None = None
        #: The request under way: an answer to another one is too late.
        self._sent: Pending | None = None
        self._listener: asyncio.Task[None] | None = None
        self._enrolled = asyncio.Event()
        self._schedule = Schedule()
        self._again = ""
        self._enrol_wait = ENROL_BACKOFF[0]
        #: What the last good contact reported: pool units in use; versions remote and applied,
        #: and the mode.
        self._reported = Capacity()
        self._told: tuple[int, int, str] | None = None
        self._last_contact: float | None = None
        self._hints = False
        self._stopping = False

    # -- life

    async def start(self) -> None:
        """Start the core, then reach for the manager; raises as `Core.start` does."""
        await self.core.start()
        self._schedule = Schedule(due=self.core.now().boottime)
        if self.core.opened.ring is not None:
            self._enrolled.set()
            certified = certified_key(self.core.opened.record.pool.certificate)
            if certified != self._identity.public and self._layout.next_identity.exists():
                # Killed after a new enrolment was written, before its key was put in place.
                self._identity = self._layout.take_next_identity()
        if self._link is not None:
            self._listener = asyncio.create_task(self._listen(self._link))
        self.smart.start()

    async def run(self) -> None:
        """Handle events and timers until `stop` is asked for."""
        while not self._stopping:
            await self.tick()
            wait = min(self.core.clock.real_seconds(self.next_due()), self._look_every())
            try:
                event = await asyncio.wait_for(self._events.get(), wait)
            except TimeoutError:
                continue
            await self._handle(event)

    def _look_every(self) -> float:
        """Return how often the mark is brought forward; a lab's clock may be stepped any time."""
        return 0.2 if self.core.settings.lab_clock else 10.0

    async def settle(self) -> None:
        """Handle all that is under way, without waiting for a timer."""
        while self._contact is not None or self.smart.busy or not self._events.empty():
            await self._handle(await self._events.get())

    def stop(self) -> None:
        """Ask the loop to end after the event it is at."""

        async def end() -> None:
            self._stopping = True

        self._events.put_nowait(_Asked(end, asyncio.get_running_loop().create_future()))

    async def close(self, *, end_sip: bool) -> None:
        """After the loop: end the tasks, write the mark, and with `end_sip` end the SIP service."""
        for task in (self._listener, self._contact):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.smart.close()
        if self._link is not None:
            self._usage.close()
        await self.core.stop(end_sip=end_sip)
        if self._link is not None:
            await self._link.close()

    def nudge(self) -> None:
        """Have the loop look at once at what is due; callable from the event loop only."""

        async def nothing() -> None:
            return

        self._post(nothing)

    def _post(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Have the loop do `work` between two events; callable from the event loop only."""
        self._events.put_nowait(_Asked(work, asyncio.get_running_loop().create_future()))

    async def ask(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run `work` inside the loop, between two events, and return what it returns."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._events.put_nowait(_Asked(work, done))
        return await done

    # -- timers

    def next_due(self) -> float:
        """Return the seconds (of the device's clock) until something is due."""
        now = self.core.now()
        if self._reset.under_way:
            step = math.inf if self._contact is not None else self._reset.next_due(now)
            return min(self.core.next_due(now), step)
        waits = [self.core.next_due(now), self.smart.next_due()]
        if self._contact is None and self._may_contact():
            waits.append(self._schedule.next_at() - now.boottime)
        if self._draining(now):
            waits.append(DRAIN_LOOK)
        return max(0.0, min(waits))

    async def tick(self) -> None:
        """Do all that is due now: lease end, policy, calls that ended, contact."""
        if await self.core.tick():
            self._want("restart")
        if self._reset.under_way:
            await self._go_on_resetting()
            return
        await self.smart.tick()
        now = self.core.now()
        self._sample(now)
        if al.CONTACT_LOST not in self.core.faults and self._told not in (None, self._versions()):
            # What is held or enforced has changed since: the manager may free what shrank.
            self._want("confirm")
        if self._draining(now):
            used = self._remote_in_use(in_use(self.core.gate.usage()), now)
            if used != self._reported and used <= self._reported:
                self._want("confirm")
        if (
            self._contact is None
            and self._may_contact()
            and now.boottime >= self._schedule.next_at()
        ):
            await self._begin_contact(now)

    def _versions(self) -> tuple[int, int, str]:
        held = self.core.opened.license
        return version(held.remote), self.core.confirmed_version, mode(self.core)

    def _remote_in_use(self, used: Capacity, now: Instant) -> Capacity:
        return self.core.opened.license.remote_in_use(used, self.core.time(now))

    def _sample(self, now: Instant) -> None:
        """Note what is in use. Without trusted time it waits: nobody knows which minute it is."""
        core = self.core
        if self._link is None or core.mark.behind:
            return
        try:
            self._usage.sample(
                core.gate.usage(), core.gate.take_high(), core.actual(now),
                time=core.time(now), boottime=now.boottime,
            )  # fmt: skip
        except OSError as error:
            core.note("usage_not_saved", text=str(error))

    def _draining(self, now: Instant) -> bool:
        """Tell whether calls of a share that has shrunk were up at the last contact.

        The manager frees their units as it is told that they ended (law 1).
        """
        allowed = self._remote_in_use(self.core.actual(now), now)
        return not self._reported <= allowed

    # -- commands (run through `ask`)

    async def restart(self, *, save: bool, number: int = 0, who: str = "local") -> None:
        """Restart the SIP service and tell the manager; raises DeviceError as `Core.restart`."""
        await self.core.restart(save=save, number=number, who=who)
        self._want("restart")

    async def pull(self) -> None:
        """Contact the manager at once; raises DeviceError `no_manager` or `not_enrolled`."""
        if self._link is None:
            raise DeviceError("no_manager", "This device has no manager.")
        if not self._may_contact():
            raise DeviceError("not_enrolled", "Give the device a registration token first.")
        self._want("pull")

    async def enrol(self) -> None:
        """Take up a registration token that has been laid down; raises DeviceError."""
        if self._link is None:
            raise DeviceError("no_manager", "This device has no manager.")
        if self._reset.under_way:
            raise DeviceError("reset_under_way", "A factory reset is under way; try again then.")
        self._enrol_wait = ENROL_BACKOFF[0]
        self.core.clear(al.NOT_ENROLLED)
        self._want("enrol")

    async def floating(self) -> None:
        """Turn floating licensing on; raises DeviceError as `check_floating`."""
        check_floating(self.core)

    async def factory_reset(self, serial: str, *, who: str = "local") -> asyncio.Future[Outcome]:
        """Begin a factory reset, confirmed by the serial number; return what will become of it.

        Raises DeviceError `wrong_serial`, `flash_write_failed`: nothing has changed then.
        """
        self._reset.check(serial)
        if not self._reset.under_way:
            if self._contact is not None:
                self._contact.cancel()
                self._contact = self._sent = None
            await self._reset.begin(who=who)
        return self._reset.waiting()

    async def _go_on_resetting(self) -> None:
        """Take the next step of a factory reset: the last contact, then the end."""
        if self._contact is not None:
            return
        pending = await self._reset.last_contact(self._link, self._identity)
        if pending is not None and self._link is not None:
            self._sent = pending
            self._contact = asyncio.create_task(self._exchange(self._link, pending, HEARING))
        elif self._reset.next_due(self.core.now()) <= 0.0:
            identity = await self._reset.finish()
            if identity is not None:
                await self._begin_anew(identity)

    async def _begin_anew(self, identity: SigningKey) -> None:
        """After a factory reset: nothing is known of any manager."""
        self._identity = identity
        self._usage = UsageLog(self._layout.usage)
        self.smart.dropped()
        self._enrolled.clear()
        self._schedule, self._again = Schedule(due=self.core.now().boottime), ""
        self._reported, self._told, self._last_contact = Capacity(), None, None
        self._enrol_wait = ENROL_BACKOFF[0]
        self.core.clear(*MANAGER_FAULTS)
        if self._listener is not None and self._link is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._hints = False
            self._listener = asyncio.create_task(self._listen(self._link))

    # -- the manager

    def _may_contact(self) -> bool:
        return self._link is not None and (self._enrolled.is_set() or self._layout.token.exists())

    def _want(self, reason: str) -> None:
        """Contact at once, or once more after the contact that is under way."""
        if self._contact is not None:
            self._again = self._again or reason
        self._schedule = self._schedule.wanted(reason, self.core.now().boottime)

    async def _begin_contact(self, now: Instant) -> None:
        """Sign a request (or take the unanswered one), write it, and send it in a task."""
        if self._link is None:
            return
        try:
            pending = self._next_request(self._link, now)
            repeated = pending is self.core.opened.record.pool.pending
            if not repeated:
                await self.core.change_pending(pending)
        except CallpoolError as error:
            self._failed(al.CONTACT_LOST if self._enrolled.is_set() else al.NOT_ENROLLED, error)
            return
        # A request that is repeated gets the reply that it got before: what has changed at the
        # manager since, and was hinted at, is not in it.
        self._again = "retry" if repeated else ""
        self._sent = pending
        self._contact = asyncio.create_task(self._exchange(self._link, pending))

    def _next_request(self, link: Link, now: Instant) -> Pending:
        pending = self.core.opened.record.pool.pending
        if self._layout.token.exists():
            if pending is not None and repeatable(pending, ENROL_PATH, now):
                return pending
            secret, _ = split(read_token(self._layout.token))
            return enrol_request(
                secret=secret,
                url=link.url(ENROL_PATH),
                serial=self.core.settings.serial,
                identity=self._enrolling_identity(),
                now=now,
            )
        if pending is not None and repeatable(pending, CONTACT_PATH, now):
            return pending
        return contact_request(
            self.core.opened,
            url=link.url(CONTACT_PATH),
            identity=self._identity,
            actual=self.core.actual(now),
            confirmed_version=self.core.confirmed_version,
            now=now,
            time=self.core.time(now),
            reason=self._schedule.reason,
            minutes=self._usage.due(self.core.time(now)),
            usage=self.core.gate.usage(),
            alarms=active_alarms(self.core, now),
            mode=mode(self.core),
        )

    def _enrolling_identity(self) -> SigningKey:
        """Return the ID key to enrol with: the first one, or a new one to enrol anew."""
        if self._enrolled.is_set():
            return self._layout.load_next_identity()
        return self._identity

    async def _exchange(self, link: Link, pending: Pending, limit: float = EXCHANGE_LIMIT) -> None:
        try:
            async with asyncio.timeout(limit):
                outcome: str | CallpoolError = await link.exchange(pending.path, pending.envelope)
        except CallpoolError as error:
            outcome = error
        except TimeoutError:
            outcome = LinkError("manager_unreachable", "The manager did not answer in time.")
        self._events.put_nowait(_Answered(pending, outcome))

    async def _handle(self, event: _Answered | _Hinted | _Asked) -> None:
        match event:
            case _Answered(pending, _) if pending is not self._sent:
                return  # it was given up since
            case _Answered(pending, outcome):
                self._contact = self._sent = None
                await self._answered(pending, outcome)
            case _Hinted(name):
                # An opened stream alone is news only where the last contact failed: a hint
                # that waited comes over it at once.
                lost = al.CONTACT_LOST in self.core.faults
                if lost or name != STREAM_OPEN:
                    self.core.note("hint", cause=name)
                    self._want("retry" if lost else "hint")
            case _Asked(work, done):
                try:
                    result = await work()
                except CallpoolError as error:
                    if not done.cancelled():
                        done.set_exception(error)
                else:
                    if not done.cancelled():
                        done.set_result(result)

    async def _answered(self, pending: Pending, outcome: str | CallpoolError) -> None:
        enrolling = pending.path == ENROL_PATH
        if self._reset.under_way:
            if isinstance(outcome, CallpoolError):
                self._reset.unheard(outcome)
            else:
                self._reset.heard(pending, outcome)
            return
        if isinstance(outcome, CallpoolError):
            await self._refused(pending, outcome)
            return
        try:
            if enrolling:
                await self._take_enrolment(pending, outcome)
            else:
                await self._take_reply(pending, outcome)
        except CallpoolError as error:
            # Not believed, or not written: the request stays as it is and is sent again.
            self.core.note("reply_refused", code=error.code, text=error.sentence)
            if not enrolling and error.code != al.FLASH_FAILED:
                self.core.fault(al.REPLY_REFUSED, error.sentence)
            self._failed(al.NOT_ENROLLED if enrolling else al.CONTACT_LOST, error)

    async def _take_reply(self, pending: Pending, envelope: str) -> None:
        core, now = self.core, self.core.now()
        taken = take(core.opened, pending, envelope, mark=core.mark, now=now)
        await core.taken(taken)
        core.clear(al.CONTACT_LOST, al.REPLY_REFUSED, al.CLONE_LOCKED, al.NOT_ENROLLED)
        now, reply = core.now(), taken.reply
        skew = now.wall - core.time(now)
        core.clear(al.CLOCK_SKEW)
        if abs(skew) > SKEW_REPORTED:
            core.fault(al.CLOCK_SKEW, f"{skew:+.0f} s.")
        self._last_contact = core.time(now)
        self._reported = Capacity.of(pending.in_use)
        self._told = pending.remote_version, pending.applied_version, pending.mode
        self._schedule = self._schedule.succeeded(now.boottime, taken.cadence)
        self._usage.taken(pending.usage_until)
        if len(self._usage.due(core.time(now))) >= PER_CONTACT:
            # More than one contact holds.
            self._want("usage")
        granted = reply.grant.version if reply.grant else 0
        if pending.reason != "usage":
            core.note("contact", cause=pending.reason, status=reply.status, grant=granted)
        again, self._again = self._again or ("confirm" if taken.again else ""), ""
        if again:
            self._want(again)
        wish = reply.restart
        over = wish is not None and 0.0 < wish.until <= core.time(now)
        if wish and not over and wish.number > core.opened.record.pool.restart_done:
            try:
                await self.restart(save=wish.save, number=wish.number, who="manager")
            except DeviceError as error:
                core.note("restart_failed", code=error.code, text=error.sentence)

    async def _take_enrolment(self, pending: Pending, envelope: str) -> None:
        _, anchor_kid = split(read_token(self._layout.token))
        reply, ring = enrolment(
            envelope,
            anchor_kid=anchor_kid,
            nonce=pending.nonce,
            serial=self.core.settings.serial,
            identity=self._enrolling_identity(),
        )
        await self.core.enrolled(reply, ring)
        if self._layout.next_identity.exists():
            self._identity = self._layout.take_next_identity()
        self._layout.token.unlink(missing_ok=True)
        self.core.clear(al.NOT_ENROLLED, al.CONTACT_LOST)
        self._enrolled.set()
        self._told = None
        self._schedule = Schedule(due=self.core.now().boottime)

    async def _refused(self, pending: Pending, error: CallpoolError) -> None:
        """Note a contact that failed; what the manager has read and refused is not repeated."""
        final = isinstance(error, LinkError) and error.final
        enrolling = pending.path == ENROL_PATH
        if enrolling and final and self._enrolled.is_set():
            # Enrolled before: the old identity goes on, the new token was no good.
            self._layout.token.unlink(missing_ok=True)
            self._layout.next_identity.unlink(missing_ok=True)
        if not enrolling and error.code in CLONE_CODES:
            self.core.fault(al.CLONE_LOCKED)
        if error.code == al.CLOCK_SKEW:
            self.core.fault(al.CLOCK_SKEW, error.sentence)
        if final:
            try:
                await self.core.change_pending(None)
            except DeviceError as failure:
                self.core.note("flash_write_failed", text=failure.sentence)
        self._failed(al.NOT_ENROLLED if enrolling else al.CONTACT_LOST, error)

    def _failed(self, code: str, error: CallpoolError) -> None:
        now = self.core.now().boottime
        self.core.fault(code, error.sentence)
        self.core.note("contact_failed", code=error.code, text=error.sentence)
        wait = error.retry_after if isinstance(error, LinkError) else None
        self._schedule = self._schedule.failed(now, wait)
        if code == al.NOT_ENROLLED:
            # Nothing is held yet: ask again soon, then less and less often.
            self._schedule = replace(self._schedule, due=now + self._enrol_wait)
            self._enrol_wait = min(self._enrol_wait * 2, ENROL_BACKOFF[1])

    async def _listen(self, link: Link) -> None:
        """Keep the hint stream open; each opening and each hint asks for a pull."""
        loop = asyncio.get_running_loop()
        shortest, longest = HINTS_BACKOFF
        backoff = shortest
        while True:
            await self._enrolled.wait()
            began, wait = loop.time(), 0.0
            body = HintsRequest(
                url=link.url(HINTS_PATH),
                nonce=new_nonce(),
                serial=self.core.settings.serial,
                time=self.core.clock.now().wall,
            )
            try:
                async for name in link.hints(HINTS_PATH, sign(self._identity, HINTS, body)):
                    self._hints = True
                    self._events.put_nowait(_Hinted(name))
            except LinkError as error:
                wait = error.retry_after or 0.0
            self._hints = False
            if loop.time() - began > HINTS_GOOD:
                backoff = shortest
            jittered = backoff * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, no secret
            await asyncio.sleep(max(wait, jittered))
            backoff = min(backoff * 2, longest)

    # -- what it says of itself

    def smart_status(self) -> SmartStatus:
        """Return smart licensing now."""
        return smart_report(self.core)

    def status(self) -> Status:
        """Return the device now: page, command line and API all speak from this."""
        due_in = self._schedule.next_at() - self.core.now().boottime
        return report(
            self.core,
            last_contact=self._last_contact,
            next_contact_seconds=max(0.0, due_in),
            hints=self._hints,
        )
