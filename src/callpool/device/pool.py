"""Pool licensing on the device: what its manager is told, and when, and what is done with replies.

It runs inside the agent's loop. Only the exchange with the manager is a task beside the loop,
and the hint stream: a manager that hangs delays no timer and no command. When to talk is
decided in `schedule.py`, what a reply changes in `contact.py`, what is written and enforced in
`core.py`.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from callpool.device import alarms as al
from callpool.device.active import active_alarms
from callpool.device.alarm_feed import AlarmFeed
from callpool.device.contact import enrol_request, repeatable, take, version
from callpool.device.core import Core
from callpool.device.errors import DeviceError, LinkError
from callpool.device.exchange import LIMIT, Answer, Exchange
from callpool.device.hints import HintStream
from callpool.device.manager_link import STREAM_OPEN
from callpool.device.modes import mode
from callpool.device.ports import Link, Post
from callpool.device.record import Pending
from callpool.device.report import contact_now
from callpool.device.schedule import Schedule
from callpool.device.settings import Layout, read_token
from callpool.device.status import in_use
from callpool.device.trust import certified_key, enrolment
from callpool.device.usage import PER_CONTACT, UsageLog
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError
from callpool.licensing.instant import SKEW_REPORTED, Instant
from callpool.wire.envelope import HINTS, sign
from callpool.wire.keys import SigningKey
from callpool.wire.messages import CONTACT_PATH, ENROL_PATH, HINTS_PATH, HintsRequest, new_nonce
from callpool.wire.tokens import split

#: Seconds between two looks at what is in use while more is in use than allowed.
DRAIN_LOOK: Final = 0.5
#: The shortest and longest wait in seconds between two attempts to enrol.
ENROL_BACKOFF: Final = (1.0, 900.0)
#: Codes of a manager that holds this serial number for a clone.
CLONE_CODES: Final = frozenset({"unit_locked", "stale_contact"})
#: Code of a manager that has no room at the moment, and has taken nothing of the request.
OVERLOADED: Final = "overloaded"
#: Faults between a device and its manager.
MANAGER_FAULTS: Final = (
    al.CONTACT_LOST,
    al.LEASE_ENDED,
    al.REPLY_REFUSED,
    al.CLONE_LOCKED,
    al.NOT_ENROLLED,
    al.CLOCK_SKEW,
)


class Contacts:
    """One device's contacts with its manager."""

    def __init__(
        self, *, core: Core, layout: Layout, identity: SigningKey, link: Link | None, post: Post
    ) -> None:
        """Make it; `link` is None for a device without a manager."""
        self._core, self._layout, self._link, self._post = core, layout, link, post
        #: The ID key that requests are signed with.
        self.identity = identity
        self._usage = UsageLog(layout.usage)
        #: What the manager is told of the alarm log.
        self.alarms = AlarmFeed()
        self._hints = HintStream(link, HINTS_PATH, request=self._listening, heard=self._heard)
        self._exchange = Exchange(post, "The manager")
        #: Draws the share, 0 to 1, by which a wait is shifted: a fleet does not call in step.
        self.shift: Callable[[], float] = random.random
        #: Whether the hint stream is kept open.
        self.listens = True
        self._fresh()

    def _fresh(self) -> None:
        """Know of no contact yet."""
        self._schedule = Schedule()
        self.alarms.forget()
        self._again = ""
        #: Whether the request under way was sent before.
        self._repeated = False
        self._enrol_wait = ENROL_BACKOFF[0]
        #: The last good contact since the start: what the manager knows.
        self._told: Pending | None = None
        #: Trusted time of the last good contact since the start, seconds since 1970.
        self.last_contact: float | None = None

    # -- reading

    @property
    def busy(self) -> bool:
        """Whether a contact is under way."""
        return self._exchange.busy

    @property
    def hints(self) -> bool:
        """Whether the hint stream stands."""
        return self._hints.up

    @property
    def spread(self) -> float:
        """Seconds over which the manager wants its fleet's streams opened again."""
        return self._hints.spread

    @property
    def next_contact_seconds(self) -> float:
        """Seconds until the next contact."""
        return max(0.0, self._schedule.next_at() - self._core.now().boottime)

    @property
    def possible(self) -> bool:
        """Whether there is a manager, and a certificate or a token to show it."""
        return self._link is not None and (self._enrolled or self._layout.token.exists())

    @property
    def _enrolled(self) -> bool:
        return self._core.opened.ring is not None

    def next_due(self) -> float:
        """Return the seconds until something is due, infinity for never."""
        waits = [math.inf]
        if not self.busy and self.possible:
            waits.append(self.next_contact_seconds)
        if self._draining(self._core.now()):
            waits.append(DRAIN_LOOK)
        if not self.busy:
            waits.append(self._alarms_due())
        return min(waits)

    def _alarms_due(self) -> float:
        """Return the seconds until an alarm asks for a contact; a manager that is lost is not.

        What is due by the schedule tells the alarms as well.
        """
        core = self._core
        if {al.CONTACT_LOST, al.NOT_ENROLLED} & core.faults.keys() or not self.possible:
            return math.inf
        return self.alarms.due(core.now().boottime)

    def _outdated(self) -> bool:
        """Tell whether what is held or enforced has changed since the last good contact."""
        told, core = self._told, self._core
        held = version(core.opened.license.remote), core.confirmed_version, mode(core)
        return told is not None and held != (told.remote_version, told.applied_version, told.mode)

    def _remote_in_use(self, used: Capacity, now: Instant) -> Capacity:
        return self._core.opened.license.remote_in_use(used, self._core.time(now))

    def _reported(self) -> Capacity:
        """Return the pool's units in use that the last good contact reported."""
        return Capacity.of(self._told.in_use) if self._told is not None else Capacity()

    def _draining(self, now: Instant) -> bool:
        """Tell whether calls of a share that has shrunk were up at the last contact.

        The manager frees their units as it is told that they ended (law 1).
        """
        return not self._reported() <= self._remote_in_use(self._core.actual(now), now)

    # -- life

    def start(self) -> None:
        """Reach for the manager; the core has been started."""
        self._schedule = Schedule(due=self._core.now().boottime)
        if self._enrolled:
            certified = certified_key(self._core.opened.record.pool.certificate)
            if certified != self.identity.public and self._layout.next_identity.exists():
                # Killed after a new enrolment was written, before its key was put in place.
                self.identity = self._layout.take_next_identity()
        self._trust()
        self._hints.want(self._enrolled and self.listens)
        self._hints.start()

    def _trust(self) -> None:
        """Trust the authorities of the key set that is held, for TLS."""
        if self._link is None:
            return
        try:
            self._link.trust(self._core.authorities)
        except CallpoolError as error:  # the anchor signed it: the manager's own mistake
            self._core.note("authorities_refused", code=error.code, text=error.sentence)

    async def close(self) -> None:
        """End the tasks and let go of the manager."""
        await self._hints.close()
        await self.give_up()
        if self._link is not None:
            self._usage.close()
            await self._link.close()

    async def give_up(self) -> None:
        """Give up the contact that is under way: its reply comes too late."""
        await self._exchange.give_up()

    async def dropped(self, identity: SigningKey) -> None:
        """Begin anew with `identity` after a factory reset: nothing is known of any manager."""
        await self._hints.close()
        self.identity = identity
        self._usage = UsageLog(self._layout.usage)
        self._fresh()
        self._core.clear(*MANAGER_FAULTS)
        self.start()

    async def tick(self) -> None:
        """Do all that is due now."""
        core, now = self._core, self._core.now()
        self._sample(now)
        lost = al.CONTACT_LOST in core.faults
        if not lost and self._outdated():
            self.want("confirm")  # the manager may free what shrank
        if not self.busy and self._alarms_due() <= 0.0:
            self.want("alarm")
        if not lost and self._draining(now):
            used = self._remote_in_use(in_use(core.gate.usage()), now)
            if used != self._reported() and used <= self._reported():
                self.want("confirm")
        if not self.busy and self.possible and now.boottime >= self._schedule.next_at():
            await self._begin(now)

    def _sample(self, now: Instant) -> None:
        """Note what is in use. Without trusted time it waits: nobody knows which minute it is."""
        core = self._core
        if self._link is None or core.mark.behind:
            return
        try:
            self._usage.sample(
                core.gate.usage(), core.gate.take_high(), core.actual(now),
                time=core.time(now), boottime=now.boottime,
            )  # fmt: skip
        except OSError as error:
            core.note("usage_not_saved", text=str(error))

    # -- commands, run inside the agent's loop

    def want(self, reason: str) -> None:
        """Contact at once, or once more after the contact that is under way."""
        if self.busy:
            self._again = self._again or reason
        self._schedule = self._schedule.wanted(reason, self._core.now().boottime)

    def pull(self) -> None:
        """Contact the manager at once; raises DeviceError `no_manager` or `not_enrolled`."""
        self._check_manager()
        if not self.possible:
            raise DeviceError("not_enrolled", "Give the device a registration token first.")
        self.want("pull")

    def enrol(self) -> None:
        """Take up a registration token that has been laid down; raises DeviceError."""
        self._check_manager()
        self._enrol_wait = ENROL_BACKOFF[0]
        self._core.clear(al.NOT_ENROLLED)
        self.want("enrol")

    def _check_manager(self) -> None:
        if self._link is None:
            raise DeviceError("no_manager", "This device has no manager.")

    async def restart(self, *, save: bool, number: int = 0, who: str = "local") -> None:
        """Restart the SIP service and tell the manager; raises DeviceError as `Core.restart`."""
        await self._core.restart(save=save, number=number, who=who)
        self.want("restart")

    # -- contacts

    async def _begin(self, now: Instant) -> None:
        """Sign a request (or take the unanswered one), write it, and send it."""
        if self._link is None:
            return
        try:
            pending = self._next_request(self._link, now)
            repeated = pending is self._core.opened.record.pool.pending
            if not repeated:
                await self._core.change_pending(pending)
        except CallpoolError as error:
            self._failed(al.CONTACT_LOST if self._enrolled else al.NOT_ENROLLED, error)
            return
        # A request that is repeated gets the reply that it got before: what has changed at the
        # manager since, and was hinted at, is not in it.
        self._again = "retry" if repeated else ""
        self._repeated = repeated
        self.send(pending, self._answered)

    def _next_request(self, link: Link, now: Instant) -> Pending:
        core, pending = self._core, self._core.opened.record.pool.pending
        if self._layout.token.exists():
            if pending is not None and repeatable(pending, ENROL_PATH, now):
                return pending
            secret, _ = split(read_token(self._layout.token))
            return enrol_request(
                secret=secret,
                url=link.url(ENROL_PATH),
                serial=core.settings.serial,
                identity=self._enrolling_identity(),
                now=now,
            )
        if pending is not None and repeatable(pending, CONTACT_PATH, now):
            return pending
        return contact_now(
            core,
            url=link.url(CONTACT_PATH),
            identity=self.identity,
            reason=self._schedule.reason,
            minutes=self._usage.due(core.time(now)),
            alarms=active_alarms(core, now),
            alarm_log=self.alarms.message(now.boottime),
        )

    def _enrolling_identity(self) -> SigningKey:
        """Return the ID key to enrol with: the first one, or a new one to enrol anew."""
        return self._layout.load_next_identity() if self._enrolled else self.identity

    def send(
        self,
        pending: Pending,
        then: Callable[[Pending, Answer], Awaitable[None]],
        limit: float = LIMIT,
    ) -> None:
        """Send `pending`; `then` is told within `limit` seconds what became of it."""
        link = self._link
        assert link is not None
        self._exchange.begin(
            lambda: link.exchange(pending.path, pending.envelope),
            lambda answer: then(pending, answer),
            limit,
        )

    async def _answered(self, pending: Pending, outcome: Answer) -> None:
        enrolling = pending.path == ENROL_PATH
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
            self._core.note("reply_refused", code=error.code, text=error.sentence)
            if not enrolling and error.code != al.FLASH_FAILED:
                self._core.fault(al.REPLY_REFUSED, error.sentence)
            self._failed(al.NOT_ENROLLED if enrolling else al.CONTACT_LOST, error)

    async def _take_reply(self, pending: Pending, envelope: str) -> None:
        core, now = self._core, self._core.now()
        taken = take(core.opened, pending, envelope, mark=core.mark, now=now)
        # With what the reply brings, in one step: who looks at the alarms meanwhile would see
        # the lease's warning end by itself. Where it cannot be held it is raised again.
        core.clear(al.CONTACT_LOST)
        await core.taken(taken)
        core.clear(*MANAGER_FAULTS)
        now, reply = core.now(), taken.reply
        skew = now.wall - core.time(now)
        if abs(skew) > SKEW_REPORTED:
            core.fault(al.CLOCK_SKEW, f"{skew:+.0f} s.")
        self.last_contact = core.time(now)
        self._told = pending
        self._trust()
        self._schedule = self._schedule.succeeded(now.boottime, taken.cadence, self.shift())
        self._usage.taken(pending.usage_until)
        if len(self._usage.due(core.time(now))) >= PER_CONTACT:
            # More than one contact holds.
            self.want("usage")
        if self.alarms.taken(reply.alarms_taken):
            self.want("alarm")
        granted = reply.grant.version if reply.grant else 0
        if pending.reason != "usage":
            core.note("contact", cause=pending.reason, status=reply.status, grant=granted)
        again, self._again = self._again or ("confirm" if taken.again else ""), ""
        if again:
            self.want(again)
        if core.pair is not None:
            await core.pair.told(reply.switch, reply.expect_ha_alarms_until)
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
            serial=self._core.settings.serial,
            identity=self._enrolling_identity(),
        )
        await self._core.enrolled(reply, ring)
        if self._layout.next_identity.exists():
            self.identity = self._layout.take_next_identity()
        self._layout.token.unlink(missing_ok=True)
        self._core.clear(al.NOT_ENROLLED, al.CONTACT_LOST)
        self._trust()
        self._hints.want(self.listens)
        self._told = None
        self._schedule = Schedule(due=self._core.now().boottime)

    async def _refused(self, pending: Pending, error: CallpoolError) -> None:
        """Note a contact that failed; what the manager has read and refused is not repeated."""
        final = isinstance(error, LinkError) and error.final
        enrolling = pending.path == ENROL_PATH
        if enrolling and final and self._enrolled:
            # Enrolled before: the old identity goes on, the new token was no good.
            self._layout.token.unlink(missing_ok=True)
            self._layout.next_identity.unlink(missing_ok=True)
        if error.code == OVERLOADED and isinstance(error, LinkError) and error.retry_after:
            await self._put_off(error.retry_after, enrolling=enrolling)
            return
        if not enrolling and error.code in CLONE_CODES:
            self._core.fault(al.CLONE_LOCKED)
        if error.code == al.CLOCK_SKEW:
            self._core.fault(al.CLOCK_SKEW, error.sentence)
        if final:
            try:
                await self._core.change_pending(None)
            except DeviceError as failure:
                self._core.note("flash_write_failed", text=failure.sentence)
        self._failed(al.NOT_ENROLLED if enrolling else al.CONTACT_LOST, error)
        kept = self._core.opened.record.pool.pending is not None
        if error.code == "older_report" and self._repeated and not kept:
            # What was sent again is old news: what is to be said now has not been said.
            self.want("retry")

    async def _put_off(self, seconds: float, *, enrolling: bool) -> None:
        """Come back in `seconds`: a manager with many devices to serve is not a lost one.

        It has taken nothing of the request, and the next one says what is so by then.
        """
        now = self._core.now().boottime
        self._schedule = self._schedule.deferred(now, seconds, self.shift())
        self._core.note("contact_put_off", seconds=seconds)
        if self._schedule.lost(now):
            self._core.fault(
                al.NOT_ENROLLED if enrolling else al.CONTACT_LOST,
                "The license server has had no room for this device for a while.",
            )
        with contextlib.suppress(DeviceError):  # noted and alarmed by the core
            await self._core.change_pending(None)

    def _failed(self, code: str, error: CallpoolError) -> None:
        now = self._core.now().boottime
        self._core.fault(code, error.sentence)
        self._core.note("contact_failed", code=error.code, text=error.sentence)
        wait = error.retry_after if isinstance(error, LinkError) else None
        self._schedule = self._schedule.failed(now, wait, self.shift())
        if code == al.NOT_ENROLLED:
            # Nothing is held yet: ask again soon, then less and less often.
            self._schedule = replace(self._schedule, due=now + self._enrol_wait)
            self._enrol_wait = min(self._enrol_wait * 2, ENROL_BACKOFF[1])

    # -- hints

    def _listening(self) -> str:
        """Sign the request that opens the hint stream."""
        assert self._link is not None
        body = HintsRequest(
            url=self._link.url(HINTS_PATH),
            nonce=new_nonce(),
            serial=self._core.settings.serial,
            time=self._core.clock.now().wall,
        )
        return sign(self.identity, HINTS, body)

    def _heard(self, name: str) -> None:
        async def hinted() -> None:
            # An opened stream alone is news only where the last contact failed: a hint
            # that waited comes over it at once.
            lost = al.CONTACT_LOST in self._core.faults
            if lost or name != STREAM_OPEN:
                self._core.note("hint", cause=name)
                self.want("retry" if lost else "hint")

        self._post(hinted)
