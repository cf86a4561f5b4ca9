"""Smart licensing on the device: the shell around the agent of `licensing/`.

It runs inside the agent's loop, one change at a time: work out, write, enforce. Only the
exchange with the authority is a task beside the loop, and the hint stream. What gives more is
written before it is held; what gives less is held though it cannot be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import replace
from typing import Final

import msgspec

from callpool.device.core import Core
from callpool.device.errors import DeviceError, LinkError
from callpool.device.exchange import Answer, Exchange
from callpool.device.hints import SMART_PACE, HintStream
from callpool.device.manager_link import STREAM_OPEN
from callpool.device.ports import Link, Post
from callpool.device.settings import Layout, read_token
from callpool.device.smart_contact import Answered, judge, request
from callpool.device.smart_log import SmartLog
from callpool.device.smart_record import SmartPending, SmartRecord
from callpool.licensing.compliance import carried, check_configured
from callpool.licensing.errors import CallpoolError
from callpool.licensing.instant import HighWaterMark
from callpool.licensing.notice_log import Notice
from callpool.licensing.smart import Event
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import (
    UNANSWERED,
    Asking,
    Contact,
    Happened,
    Moment,
    Occurrence,
    Output,
)
from callpool.licensing.smart_notices import notices
from callpool.wire.envelope import sign
from callpool.wire.keys import SigningKey
from callpool.wire.messages import new_nonce
from callpool.wire.smart_messages import SMART_HINTS, SMART_HINTS_PATH, SmartHintsRequest
from callpool.wire.tokens import split

#: An answer to bytes older than this (seconds) is followed by a question with fresh ones.
FRESH: Final = 60.0
#: Bytes older than this (seconds) are not sent again: the keys that signed the answer to them
#: may be out of date.
OLD: Final = 86400.0

#: What became of a contact: a failure's code and sentence, both empty for a success.
Outcome = tuple[str, str]


class Smart:
    """One device's smart licensing."""

    def __init__(self, *, core: Core, layout: Layout, link: Link | None, post: Post) -> None:
        """Make it; `link` is None for a device without a manager."""
        self._core, self._layout, self._link, self._post = core, layout, link, post
        self._log = SmartLog(layout.smart_log)
        self._identity: SigningKey | None = None
        self._exchange = Exchange(post, "The authority")
        self._hints = HintStream(
            link,
            SMART_HINTS_PATH,
            request=self._listening,
            heard=self._heard,
            pace=SMART_PACE,
        )
        self._waiting: list[tuple[Contact, asyncio.Future[Outcome]]] = []
        #: Whether the bytes under way were sent before, and when these were sent (boottime).
        self._repeated = False
        #: The last maximum that was found changed, calls a second.
        self._heeded: int | None = None
        self._sent = 0.0

    # -- reading

    @property
    def record(self) -> SmartRecord:
        """What the flash holds of it."""
        return self._core.opened.record.smart

    @property
    def agent(self) -> SmartAgent:
        """The agent now."""
        return self.record.agent

    def now(self) -> Moment:
        """Read the clocks."""
        return Moment.of(self._core.mark, self._core.now())

    @property
    def busy(self) -> bool:
        """Whether a contact is under way."""
        return self._exchange.busy

    def next_due(self) -> float:
        """Return the seconds until something is due, infinity for never."""
        now = self.now()
        due = self.agent.settled(now).next_timer()
        wait = math.inf if due is None else max(0.0, due - now.time)
        return min(wait, self._log.next_due(now))

    # -- life

    async def start(self) -> None:
        """Tell that the agent is ready; begin to listen for hints once there is a registration."""
        if self.record.used or self._core.settings.smart:
            state, mode = self.agent.effective, self.agent.enforcement
            started = Happened(
                event=Event.RESTART, before=state, after=state, enforcement=(mode, mode)
            )
            await self._hold(self.agent, (started,), less=True)
        self._hints.want(self.agent.registered)
        self._hints.start()

    async def close(self) -> None:
        """End the tasks."""
        await self._hints.close()
        await self._exchange.give_up()

    def dropped(self) -> None:
        """Take note of a factory reset: the registration is gone, and so is its ID key."""
        self._identity = None
        self._hints.want(self.agent.registered)

    async def tick(self) -> None:
        """Do all that is due now."""
        before, most = self.record.maximum, self._core.smart_maximum
        if before not in (None, most) and most != self._heeded:
            self._heeded = most
            if carried(self.agent.count, before or 0) != self._core.smart_count:
                await self._hinted()  # a new local key changes what this device asks for
        for _ in range(64):
            agent, outputs = self.agent.handle_timer(self.now())
            if not outputs:
                again = self._log.due(agent, self.now())
                if again is not None:
                    await self._hold(agent, (), again=(again,), less=True)
                return
            asking = next((o for o in outputs if isinstance(o, Asking)), None)
            if asking is not None:
                await self._begin(agent, asking)
            else:
                await self._hold(agent, outputs, less=True)

    # -- commands, run inside the agent's loop

    async def enable(self) -> None:
        """Turn smart licensing on; raises DeviceError `mode_fixed`, LicenseError."""
        if self._core.fixed:
            raise DeviceError(
                "mode_fixed",
                "This device's licenses come from the Fixed License Pool: take it out of the pool "
                "at its manager first.",
            )
        await self._do(Occurrence(Event.ENABLE))

    async def disable(self) -> asyncio.Future[Outcome] | None:
        """Turn smart licensing off; a registered device leaves its authority first."""
        return await self._do(Occurrence(Event.DISABLE), Contact.DEREGISTER)

    async def register(self, token: str, *, force: bool) -> asyncio.Future[Outcome] | None:
        """Register by `token`; raises TrustError `bad_token`, DeviceError, LicenseError."""
        split(token)
        if self._link is None:
            raise DeviceError("no_manager", "This device has no license server: see --manager.")
        occurrence = Occurrence(Event.REGISTER, force=force)
        # What is not legal is refused before anything is laid down.
        self.agent.receive(occurrence, self.now())
        try:
            await asyncio.to_thread(self._layout.lay_smart_token, token)
        except OSError as error:
            raise _unwritten(error) from error
        record = msgspec.structs.replace(self.record, force=force, pending=None)
        return await self._do(occurrence, Contact.REGISTER, record)

    async def deregister(self) -> asyncio.Future[Outcome] | None:
        """Leave the authority; local data goes even where it cannot be told."""
        return await self._do(Occurrence(Event.DEREGISTER), Contact.DEREGISTER)

    async def renew_auth(self) -> asyncio.Future[Outcome] | None:
        """Ask for a fresh authorization."""
        return await self._do(Occurrence(Event.RENEW_AUTH), Contact.AUTHORIZE)

    async def renew_id(self) -> asyncio.Future[Outcome] | None:
        """Ask for a fresh ID certificate."""
        return await self._do(Occurrence(Event.RENEW_ID), Contact.RENEW_ID)

    async def count(self, count: int) -> asyncio.Future[Outcome] | None:
        """Configure `count` calls a second; raises LicenseError `bad_count`, `above_maximum`."""
        check_configured(count, self._core.smart_maximum)
        wanted = count != self.agent.count and self.agent.registered
        occurrence = Occurrence(Event.SET_COUNT, count=count)
        return await self._do(occurrence, Contact.AUTHORIZE if wanted else None)

    async def _do(
        self,
        occurrence: Occurrence,
        contact: Contact | None = None,
        record: SmartRecord | None = None,
    ) -> asyncio.Future[Outcome] | None:
        """Take what a person asked for; return what will become of the contact it leads to."""
        agent, outputs = self.agent.receive(occurrence, self.now())
        await self._hold(agent, outputs, record=record)
        leads = contact is not None and agent.next_timer() is not None
        if contact is Contact.DEREGISTER and not agent.enabled:
            leads = False
        if not leads or contact is None:
            await self.tick()
            return None
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((contact, outcome))
        await self.tick()
        return outcome

    # -- holding

    async def _hold(
        self,
        agent: SmartAgent,
        outputs: tuple[Output, ...],
        *,
        record: SmartRecord | None = None,
        mark: HighWaterMark | None = None,
        less: bool = False,
        again: tuple[Notice, ...] = (),
    ) -> None:
        """Write and enforce `agent` with what is told of it, `again` among that.

        Raises DeviceError (nothing has changed) unless `less`.
        """
        record = self.record if record is None else record
        gone = self.agent.registered and not agent.registered
        if gone or not agent.enabled:
            record = record.without_registration(agent)
        happened = [o for o in outputs if isinstance(o, Happened)]
        told = [*(n for one in happened for n in notices(one, agent)), *again]
        record = msgspec.structs.replace(
            record, agent=agent, notices=record.notices.added(told, self.now().time)
        )
        await self._core.change_smart(record, mark, less=less)
        if agent.register_at is None:
            with contextlib.suppress(OSError):
                self._layout.smart_token.unlink(missing_ok=True)
        self._hints.want(self.agent.registered)
        self._log.tell(told, agent, self.now())
        for one in happened:
            self._core.note(
                "smart",
                cause=one.event.value,
                state=agent.state.value,
                code=one.code,
                text=one.sentence,
            )

    # -- contacts

    def _key(self) -> SigningKey:
        """Return the smart ID key, made where there is none yet."""
        if self._identity is None:
            try:
                self._identity = self._layout.load_smart_identity()
            except OSError as error:
                raise _unwritten(error) from error
        return self._identity

    async def _begin(self, agent: SmartAgent, asking: Asking) -> None:
        """Sign a request (or take the unanswered one), write it, and send it in a task."""
        link = self._link
        try:
            if link is None:
                raise DeviceError("no_manager", "This device has no license server.")
            pending = self.record.pending
            if pending is not None and self.now().time - pending.time > OLD:
                pending = None
            self._repeated = pending is not None
            if pending is None:
                pending = self._sign(link, asking)
            record = msgspec.structs.replace(self.record, agent=agent, pending=pending)
            if self._repeated:
                self._core.hold_smart(record)
            else:
                await self._core.change_smart(record)
        except CallpoolError as error:
            self._core.hold_smart(msgspec.structs.replace(self.record, agent=agent))
            await self._failed(asking, error, unsent=True)
            return
        self._sent = self._core.now().boottime
        self._exchange.begin(
            lambda: link.answer(pending.path, pending.envelope),
            lambda outcome: self._answered(asking, pending, outcome),
        )

    def _sign(self, link: Link, asking: Asking) -> SmartPending:
        secret = ""
        if asking.contact is Contact.REGISTER:
            secret, _ = split(read_token(self._layout.smart_token))
        now = self._core.now()
        # Trusted time stands above a wall clock that jumped; where the authority has refused it
        # for its time, the wall clock, which may have been set right since, has its turn.
        skewed = self.agent.failure_code == "clock_skew" and asking.number % 2 == 0
        return request(
            self.record,
            asking,
            address=link.url,
            serial=self._core.settings.serial,
            identity=self._key(),
            time=now.wall if skewed else self._core.time(now),
            token=secret,
            count=self._core.smart_count,
            maximum=self._core.smart_maximum,
        )

    async def _answered(self, asking: Asking, pending: SmartPending, outcome: Answer) -> None:
        asked = self.agent.asked
        if asked is None or asked.number != asking.number:
            return  # overtaken: the request stays pending and is settled by the next contact
        if isinstance(outcome, CallpoolError):
            await self._failed(asking, outcome)
            return
        try:
            told = self._judge(pending, outcome)
        except CallpoolError as error:
            self._core.note("reply_refused", code=error.code, text=error.sentence)
            final = asking.contact is Contact.REGISTER and error.code == "wrong_anchor"
            await self._failed(asking, error, final=final)
            return
        if pending.contact is not asking.contact or (told.stale and self._repeated):
            # An older request is settled now; what was asked for goes out with fresh bytes.
            self._core.hold_smart(
                msgspec.structs.replace(
                    self.record, pending=None, contact=told.record.contact,
                    key_set=told.record.key_set,
                )
            )  # fmt: skip
            await self._begin(self.agent, asking)
            return
        await self._take(asking, pending, told)

    def _judge(self, pending: SmartPending, envelope: str) -> Answered:
        anchor_kid = ""
        if pending.contact is Contact.REGISTER:
            _, anchor_kid = split(read_token(self._layout.smart_token))
        return judge(
            self.record,
            pending,
            envelope,
            serial=self._core.settings.serial,
            identity=self._key(),
            anchor_kid=anchor_kid,
            now=self.now().time,
        )

    async def _take(self, asking: Asking, pending: SmartPending, told: Answered) -> None:
        now, mark = self._core.now(), None
        occurrence = replace(told.occurrence, number=asking.number)
        good = occurrence.certificate is not None or occurrence.authorization is not None
        if good and not self._repeated:
            # The latest time that it can be now: an answer that was held back buys no time.
            mark = self._core.mark.signed(told.time + max(0.0, now.boottime - self._sent), now)
        try:
            at = Moment.of(mark or self._core.mark, now)
            agent, outputs = self.agent.receive(occurrence, at)
            if occurrence.authorization is not None and self._repeated:
                old = pending.count != self._core.smart_count or at.time - pending.time > FRESH
                if old:
                    agent, _ = agent.receive(Occurrence(Event.HINT), at)
            record = told.record
            if occurrence.authorization is not None and pending.count == self._core.smart_count:
                record = msgspec.structs.replace(record, maximum=self._core.smart_maximum)
            await self._hold(agent, outputs, record=record, mark=mark, less=not good)
            if self._link is not None:
                self._link.trust(self._core.authorities)
        except CallpoolError as error:
            # Not newer than what is held, or not written: as if it had not come.
            await self._failed(asking, error)
            return
        self._answer(asking.contact, (occurrence.code, occurrence.sentence))

    async def _failed(
        self, asking: Asking, error: CallpoolError, *, final: bool = False, unsent: bool = False
    ) -> None:
        wait = error.retry_after if isinstance(error, LinkError) else None
        occurrence = Occurrence(
            UNANSWERED[asking.contact],
            number=asking.number,
            code=error.code,
            sentence=error.sentence,
            final=final,
            unsent=unsent,
            retry_after=wait or 0.0,
        )
        agent, outputs = self.agent.receive(occurrence, self.now())
        await self._hold(agent, outputs, less=True)
        self._answer(asking.contact, (error.code, error.sentence))

    def _answer(self, contact: Contact, outcome: Outcome) -> None:
        for waited, future in self._waiting:
            if waited is contact and not future.done():
                future.set_result(outcome)
        self._waiting = [(c, f) for c, f in self._waiting if c is not contact]

    # -- hints

    async def _hinted(self) -> None:
        with contextlib.suppress(CallpoolError):
            agent, outputs = self.agent.receive(Occurrence(Event.HINT), self.now())
            await self._hold(agent, outputs, less=True)

    def _listening(self) -> str:
        """Sign the request that opens the hint stream; raises DeviceError."""
        assert self._link is not None
        body = SmartHintsRequest(
            url=self._link.url(SMART_HINTS_PATH),
            nonce=new_nonce(),
            serial=self._core.settings.serial,
            time=self.now().time,
            instance_id=self.record.instance_id,
        )
        return sign(self._key(), SMART_HINTS, body)

    def _heard(self, name: str) -> None:
        if name != STREAM_OPEN:
            self._post(self._hinted)


def _unwritten(error: OSError) -> DeviceError:
    return DeviceError(
        "flash_write_failed", f"The device's directory cannot be written or read: {error.strerror}."
    )
