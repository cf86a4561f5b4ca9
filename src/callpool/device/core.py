"""The core: what the device holds, on disk before it is enforced (law 5).

`Core` ties the verified record, the high-water mark, the flash and the gate together. Each
method is one whole change: worked out as values, written, then enforced. The agent's loop
calls them one at a time.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

import msgspec

from callpool.device import alarms as al
from callpool.device.contact import Taken, discarded, enrolled, restarted, version
from callpool.device.drain import Drain, drained
from callpool.device.errors import DeviceError
from callpool.device.flash import Flash
from callpool.device.ports import Gate, Journal, PairView
from callpool.device.record import (
    FlashRecord,
    Marked,
    Opened,
    Pending,
    open_record,
    read_local_key,
)
from callpool.device.settings import MAX_CPS, Settings
from callpool.device.smart_record import SmartRecord
from callpool.device.status import actual
from callpool.device.trust import KeyRing
from callpool.device.window import WINDOW, CallWindow, windowed
from callpool.host.clock import Clock
from callpool.licensing.admission import AdmissionPolicy, Step
from callpool.licensing.capacity import CPS, Capacity
from callpool.licensing.compliance import carried
from callpool.licensing.errors import CallpoolError
from callpool.licensing.instant import HighWaterMark, Instant
from callpool.licensing.key import LocalKey, check_installable
from callpool.licensing.smart import Event
from callpool.licensing.smart_events import Moment, Occurrence
from callpool.licensing.smart_policy import policy as smart_policy
from callpool.wire.messages import EnrolReply

#: Seconds between two writes of a high-water mark that nothing else wrote.
MARK_EVERY: Final = 60.0
#: Seconds between two attempts to put a policy in force that the gate did not confirm.
GATE_RETRY: Final = 2.0
#: Seconds that the gate may take to carry out one order.
GATE_TIMEOUT: Final = 60.0


class Core:
    """One device's state: the only writer of its flash, the only driver of its gate."""

    opened: Opened
    mark: HighWaterMark

    def __init__(
        self, *, settings: Settings, flash: Flash, clock: Clock, gate: Gate, journal: Journal
    ) -> None:
        """Make a core; `start` reads the flash."""
        self.settings, self.flash, self.clock, self.gate = settings, flash, clock, gate
        self.journal = journal
        #: What is wrong: alarm code -> what the raiser adds.
        self.faults: dict[str, str] = {}
        #: The policy that the gate walks, None while that is not known to be the one of now.
        self._enforced: AdmissionPolicy | None = None
        #: The last policy that the gate has confirmed.
        self._confirmed: AdmissionPolicy | None = None
        #: The grant version that the gate is confirmed to enforce, 0 for none.
        self.confirmed_version = 0
        #: A restart that waits for calls to end. A restart of the core forgets it.
        self.drain: Drain | None = None
        #: A local key that the gate has not confirmed, and the grant that was held with it.
        self._installing: tuple[str, int] | None = None
        #: When the last restart was asked for and when it was done: trusted time, 0 for never.
        self.restart_asked = self.restart_done = 0.0
        #: The HA pair that this device is a unit of; None for a device of its own.
        self.pair: PairView | None = None
        self._gate_retry_at = 0.0
        self._window = CallWindow()
        self._written_at = 0.0
        #: What the flash holds: only what is on disk is told to the outside (law 5).
        self.stored: FlashRecord | None = None
        #: The number of the last notice of the runs before this one.
        self.notices_before = 0

    # -- reading

    def now(self) -> Instant:
        """Read the clock and bring the high-water mark forward."""
        now = self.clock.now()
        self.mark = self.mark.advance(now)
        return now

    def time(self, now: Instant) -> float:
        """Return trusted time, seconds since 1970."""
        return self.mark.time(now)

    def actual(self, now: Instant) -> Capacity:
        """Return the 'Actual' column: what the gate has confirmed that it enforces.

        Seed 004: it is updated only once the restart is complete.
        """
        if self._confirmed is None:
            return actual(self.opened.license, self.time(now), trusted=not self.mark.behind)
        return Capacity.of(self._confirmed.at(now.wall).caps)

    def step(self, now: Instant) -> Step | None:
        """Return the step that the gate is confirmed to walk; None before the first policy."""
        return None if self._confirmed is None else self._confirmed.at(now.wall)

    def policy(self, now: Instant) -> AdmissionPolicy:
        """Return what the gate is to do from `now` on."""
        licensed = self._licensed(now)
        return licensed if self.drain is None else drained(licensed, self.drain, now.wall)

    def _licensed(self, now: Instant) -> AdmissionPolicy:
        time, agent = self.time(now), self.opened.record.smart.agent
        if agent.enabled or self._unconfigured:
            agent = msgspec.structs.replace(agent, count=self.smart_count)
            steps = smart_policy(agent, Moment.of(self.mark, now), self.settings.call_policy)
            if self.settings.cps_policy == WINDOW:
                return windowed(steps, self._window.mean, now.wall)
            return steps
        return self.opened.license.policy(
            time, wall_offset=now.wall - time, trusted=not self.mark.behind
        )

    @property
    def authorities(self) -> tuple[str, ...]:
        """Return whom the manager's newest key set names for TLS, PEM; none where it names none."""
        smart, ring = self.opened.record.smart, self.opened.ring
        sets = [ring.keys] if ring is not None else []
        if smart.key_set:
            sets.append(KeyRing.open(smart.anchor, smart.key_set).keys)
        newest = max(sets, key=lambda keys: keys.serial, default=None)
        return newest.authorities if newest is not None else ()

    @property
    def fixed(self) -> bool:
        """Whether the licenses come from the pool: a grant is held that gives something."""
        held, time = self.opened.license, self.time(self.now())
        return any(grant is not None and grant.peak(time) for grant in (held.remote, held.applied))

    @property
    def smart_maximum(self) -> int:
        """Return the most calls a second that can be configured on this device.

        What the local key says; where it names none, the device's configuration.
        """
        return {**self.settings.maximum, **self.opened.license.maximum}.get(CPS, MAX_CPS)

    @property
    def smart_count(self) -> int:
        """Return the calls a second in force: those configured, up to what the device carries."""
        return carried(self.opened.record.smart.agent.count, self.smart_maximum)

    @property
    def key_upgrade(self) -> str:
        """Return the local key whose installation is under way while a pool grant has arrived.

        A key is installed once the gate has confirmed it; empty where there is no such key.
        """
        key_id, held = self._installing or ("", 0)
        return key_id if version(self.opened.license.remote) != held else ""

    @property
    def _unconfigured(self) -> bool:
        """Whether this is a device for smart licensing that is off, and nothing else counts."""
        return self.settings.smart and not self.fixed and not self.opened.license.local

    def note(self, event: str, **details: Any) -> None:
        """Note a change in the journal."""
        self.journal.note(event, at=self.clock.now().wall, **details)

    def fault(self, code: str, detail: str = "") -> None:
        """Raise the alarm `code`."""
        if code not in self.faults:
            self.note("alarm_raised", code=code, text=detail)
        self.faults[code] = detail

    def clear(self, *codes: str) -> None:
        """Clear alarms."""
        for code in codes:
            if self.faults.pop(code, None) is not None:
                self.note("alarm_cleared", code=code)

    # -- writing

    async def write(self) -> None:
        """Write what is held; raises DeviceError `flash_write_failed`."""
        now = self.now()
        smart = self.opened.record.smart
        if smart.agent.evaluating:
            # What has been used up of the evaluation is never forgotten.
            at = Moment.of(self.mark, now)
            self.hold_smart(msgspec.structs.replace(smart, agent=smart.agent.settled(at)))
        record = self.opened.recording(mark=Marked.of(self.mark)).record
        try:
            await asyncio.to_thread(self.flash.store, record)
        except DeviceError as error:
            self.fault(al.FLASH_FAILED, error.sentence)
            raise
        self.stored = record
        self._written_at = now.boottime
        self.clear(al.FLASH_FAILED)

    async def change(self, opened: Opened, mark: HighWaterMark | None = None) -> None:
        """Hold `opened` (and `mark`), once written; raises DeviceError, nothing changed then."""
        before = self.opened, self.mark
        self.opened, self.mark = opened, mark or self.mark
        try:
            await self.write()
        except DeviceError:
            self.opened, self.mark = before
            raise

    async def _write_if_possible(self) -> None:
        try:
            await self.write()
        except DeviceError as error:
            self._written_at = self.clock.now().boottime
            self.note("flash_write_failed", text=error.sentence)

    async def change_pending(self, pending: Pending | None) -> None:
        """Write the request that is about to be sent, or that none is; raises DeviceError."""
        pool = msgspec.structs.replace(self.opened.record.pool, pending=pending)
        await self.change(self.opened.recording(pool=pool))

    def hold_smart(self, smart: SmartRecord) -> None:
        """Hold `smart` without writing it."""
        self.opened = self.opened.recording(smart=smart)

    async def change_smart(
        self, smart: SmartRecord, mark: HighWaterMark | None = None, *, less: bool = False
    ) -> None:
        """Write, hold and enforce `smart` (and `mark`).

        Raises DeviceError, and nothing has changed; with `less` it is held though it cannot be
        written: a full disk must not keep calls up that are licensed no more.
        """
        opened = self.opened.recording(smart=smart)
        changed = smart.agent.effective is not self.opened.record.smart.agent.effective
        try:
            await self.change(opened, mark)
        except DeviceError:
            if not less:
                raise
            self.opened = opened
        await (self.enforce() if changed else self.follow())

    # -- life

    async def start(self) -> None:
        """Read and verify the flash, put its policy in force, take over the SIP service.

        Raises FlashError (a device does not start on a flash that cannot be believed),
        DeviceError, and what the gate raises where the SIP service cannot be started.
        """
        clock = self.clock.now()
        record = await asyncio.to_thread(self.flash.load)
        if record is None:
            first = Marked.of(HighWaterMark.first(clock))
            record = FlashRecord(serial=self.settings.serial, mark=first)
        self.opened = open_record(record, self.settings)
        self.notices_before = record.smart.notices.sequence
        self.mark = record.mark.read().advance(clock)
        if self.flash.fell_back:
            self.fault(al.FLASH_FELL_BACK)
            lost = self.opened.record.smart
            self.hold_smart(msgspec.structs.replace(lost, notices=lost.notices.skipped()))
        if self.opened.license.ended(self.time(clock)):
            self.note("lease_ended", cause="the lease ended while the device was off")
            self.fault(al.LEASE_ENDED)
            self.opened = discarded(self.opened)
        smart = self.opened.record.smart
        if smart.used:
            at = Moment.of(self.mark, clock)
            agent, _ = smart.agent.receive(Occurrence(Event.RESTART, clean=smart.clean), at)
            self.hold_smart(msgspec.structs.replace(smart, agent=agent, clean=False))
        await self.write()
        now = self.now()
        self._window.look(now.boottime, self.gate.usage().admitted)
        policy = self.policy(now)
        await self.gate.attach(policy)
        self._confirm(policy)
        self.note("started", cause="run", actual=self.actual(now).to_dict())
        if self.opened.record.restarting:
            await self.enforce(restart=True)

    async def stop(self, *, end_sip: bool) -> None:
        """Write the mark, and with `end_sip` end the SIP service."""
        if end_sip:
            await self.gate.stop()
        smart = self.opened.record.smart
        if smart.used:
            # With Kamailio left at work the evaluation goes on: the next run charges it.
            self.hold_smart(msgspec.structs.replace(smart, clean=end_sip))
        await self._write_if_possible()
        self.note("stopped", cause="asked", sip_ended=end_sip)

    def next_due(self, now: Instant) -> float:
        """Return the seconds until `tick` has something to do, infinity for never."""
        held = self.opened.license
        waits = [math.inf]
        if held.remote or held.applied:
            waits.append(held.lease_end - self.time(now))
        if al.GATE_DOWN in self.faults:
            waits.append(self._gate_retry_at - now.boottime)
        return max(0.0, min(waits))

    async def tick(self) -> bool:
        """Do what is due now; return whether the SIP service was restarted."""
        now = self.now()
        restarted_now = False
        self._window.look(now.boottime, self.gate.usage().admitted)
        if self.opened.license.ended(self.time(now)):
            restarted_now = await self._lease_ended()
        elif al.GATE_DOWN in self.faults:
            if now.boottime >= self._gate_retry_at:
                restarted_now = await self.enforce(restart=self.opened.record.restarting)
        elif not self._in_force(now):
            await self.enforce()
        if now.boottime - self._written_at >= MARK_EVERY:
            await self._write_if_possible()
        return restarted_now

    async def _lease_ended(self) -> bool:
        """Discard Remote and restart the SIP service on the local key (seed 004)."""
        self.opened = discarded(self.opened).recording(restarting=True)
        self.note("lease_ended", cause="the lease ended")
        self.fault(al.LEASE_ENDED)
        # Less is always safe: a full disk must not keep a lease alive.
        await self._write_if_possible()
        return await self.enforce(restart=True)

    # -- the gate

    def _in_force(self, now: Instant) -> bool:
        """Tell whether the gate already walks the policy of `now`."""
        if self._enforced is None:
            return False
        begun = self._enforced.steps[0].until
        if begun is not None and begun <= now.wall:
            # A step that has begun since is told all the same: the gate counts it down in real
            # time, which a lab's clock is stepped away from.
            return False
        old = [s for s in self._enforced.steps if s.until is None or s.until > now.wall]
        new = self.policy(now).steps
        return len(old) == len(new) and all(
            (a.caps, a.admit, a.reason) == (b.caps, b.admit, b.reason)
            and abs((a.until or 0.0) - (b.until or 0.0)) < 1.0
            for a, b in zip(old, new, strict=True)
        )

    async def enforce(self, *, restart: bool = False) -> bool:
        """Put the policy of now in force; return whether a restart was carried out.

        A gate that does not confirm is alarmed and asked again by `tick`.
        """
        policy = self.policy(self.now())
        try:
            async with asyncio.timeout(GATE_TIMEOUT):
                await (self.gate.restart(policy) if restart else self.gate.apply(policy))
        except (CallpoolError, OSError) as error:
            self.fault(al.GATE_DOWN, str(error) or type(error).__name__)
            self._gate_retry_at = self.now().boottime + GATE_RETRY
            self._enforced = None
            return False
        self.clear(al.GATE_DOWN)
        self._confirm(policy)
        self.note("enforced", restart=restart, actual=self.actual(self.now()).to_dict())
        if restart and self.opened.record.restarting:
            self.restart_done = self.time(self.now())
            self.opened = self.opened.recording(restarting=False)
            await self._write_if_possible()
        return restart

    def _confirm(self, policy: AdmissionPolicy) -> None:
        self._enforced = self._confirmed = policy
        self._installing = None
        self.confirmed_version = version(self.opened.license.applied)

    async def follow(self) -> None:
        """Enforce the policy of now unless the gate walks it already."""
        if self._in_force(self.now()):
            self._installing = None
            self.confirmed_version = version(self.opened.license.applied)
        else:
            await self.enforce()

    # -- changes

    async def taken(self, taken: Taken) -> None:
        """Hold and enforce what a verified reply brought; raises DeviceError."""
        opened, restart = taken.opened, False
        if taken.ended and self.actual(self.now()) != actual(
            opened.license, taken.mark.time(self.clock.now()), trusted=True
        ):
            # The lease is over by the manager's word: as at its end, restart on the local key.
            restart = True
            opened = opened.recording(restarting=True)
            self.note("lease_ended", cause="the license server gave no lease")
        await self.change(opened, taken.mark)
        await (self.enforce(restart=True) if restart else self.follow())

    async def enrolled(self, reply: EnrolReply, ring: KeyRing) -> None:
        """Hold a verified enrolment; raises DeviceError."""
        await self.change(enrolled(self.opened, reply, ring))
        self.note("enrolled", cause="token", product_key=reply.product_key)
        await self.follow()

    async def restart(self, *, save: bool, number: int = 0, who: str = "local") -> None:
        """Restart the SIP service; with `save`, apply Remote. `number` is a manager's wish.

        The flash is written first, with what is applied. Raises DeviceError
        `flash_write_failed` (nothing has changed) or `gate_down` (it is being retried).
        """
        await self.change(restarted(self.opened, save=save, number=number))
        self.drain = None
        self.restart_asked = self.time(self.now())
        self.note("restart", cause="asked", who=who, save=save, number=number)
        if not await self.enforce(restart=True):
            raise DeviceError(
                "gate_down",
                "The restart is written, but the SIP service did not come back; "
                f"it is being retried: {self.faults.get(al.GATE_DOWN, '')}",
            )

    async def install_key(self, envelope: str, *, who: str = "local") -> LocalKey:
        """Install a local license key; it counts at once.

        Raises TrustError, LicenseError (`key_for_another_serial`, `older_key`, `key_expired`)
        or DeviceError; nothing has changed then.
        """
        key = read_local_key(envelope, self.settings.vendor, self.settings.serial)
        time = self.time(self.now())
        check_installable(key, self.settings.serial, self.opened.local_key, time=time)
        record = self.opened.recording(local_key=envelope.strip()).record
        await self.change(open_record(record, self.settings))
        self.note("key_installed", cause="asked", who=who, key=key.key_id)
        self._installing = key.key_id, version(self.opened.license.remote)
        await self.follow()
        return key
