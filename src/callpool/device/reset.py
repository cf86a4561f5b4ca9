"""Factory reset: what it drops, and how it comes to its end whatever is killed on the way.

1. The flash is written: Remote, what is applied of it and smart licensing are gone, and the
   reset is under way. From here on every path ends in a reset device.
2. The SIP service restarts on the local key; established calls survive it.
3. The last signed contact (reason `factory_reset`, nothing received, nothing applied) lets the
   manager free the share. Whether it is heard or not, the reset goes on: unheard, the manager
   holds the share until the lease ends.
4. The identity is dropped: a new ID key, no certificate, no contact value; and with it users and
   the rest of the configuration.

Serial number, local key, evaluation seconds, high-water mark and the flash's generation stay;
so do the highest versions taken from the last manager, so that nothing older ever returns.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

import msgspec

from callpool.device.contact import discarded, repeatable
from callpool.device.core import Core
from callpool.device.errors import DeviceError
from callpool.device.exchange import Answer
from callpool.device.ports import Link
from callpool.device.record import Opened, Pending, Pool
from callpool.device.report import contact_now
from callpool.device.settings import Layout
from callpool.device.smart_record import SmartRecord
from callpool.device.trust import certified_key, fresh_reply
from callpool.licensing.errors import CallpoolError
from callpool.licensing.instant import Instant
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import Moment
from callpool.wire.keys import SigningKey
from callpool.wire.messages import CONTACT_PATH, FACTORY_RESET

#: Seconds that the manager is given to hear the last contact.
HEARING: Final = 15.0
#: Seconds between two attempts to come to the end where the directory cannot be written.
RETRY: Final = 2.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a factory reset."""

    #: Whether the manager has confirmed that it heard of it.
    told: bool
    #: Why not; both empty where it has, or where there was no manager to tell.
    code: str = ""
    sentence: str = ""
    #: Until when the manager holds the share where it was not told, seconds since 1970.
    lease_end: float | None = None


def begun(opened: Opened, at: Moment) -> Opened:
    """Drop what the manager and the authority gave; the identity stays for the last contact."""
    opened = discarded(opened)
    pool = msgspec.structs.replace(opened.record.pool, pending=None)
    left = opened.record.smart.agent.settled(at)
    smart = SmartRecord(notices=opened.record.smart.notices)
    if opened.record.smart.used:
        kept = SmartAgent(
            eval_left=left.eval_left,
            warned=left.warned,
            as_of=left.as_of,
            seen_version=left.seen_version,
            number=left.number,
            eval_ended_at=left.eval_ended_at,
        )
        smart = msgspec.structs.replace(smart, agent=kept, clean=opened.record.smart.clean)
    return opened.recording(pool=pool, smart=smart, resetting=True, restarting=True)


def finished(opened: Opened) -> Opened:
    """Drop the identity; of its manager only the counters stay that refuse what is older."""
    was = opened.record.pool
    pool = Pool(anchor=was.anchor, seen_version=was.seen_version, restart_done=was.restart_done,
                switch_done=was.switch_done)  # fmt: skip
    return msgspec.structs.replace(
        opened.recording(pool=pool, resetting=False),
        license=replace(opened.license, lease_end=0.0),
        ring=None,
        latest=None,
    )


class FactoryReset:
    """One device's factory reset, carried out step by step inside the agent's loop."""

    def __init__(self, core: Core, layout: Layout) -> None:
        """Make it; it is under way where the flash says so."""
        self._core, self._layout = core, layout
        #: What is known of the last contact; None while it is still to be made.
        self._heard: Outcome | None = None
        self._lease_end: float | None = None
        self._retry_at = 0.0
        self._waiting: list[asyncio.Future[Outcome]] = []

    @property
    def under_way(self) -> bool:
        """Tell whether a reset has begun and not yet ended."""
        return self._core.opened.record.resetting

    def check(self, serial: str) -> None:
        """Refuse a confirmation that does not name this device: DeviceError `wrong_serial`."""
        if serial != self._core.settings.serial:
            raise DeviceError(
                "wrong_serial",
                "A factory reset is confirmed by this device's own serial number, "
                f"{self._core.settings.serial}, not {serial[:32]!r}.",
            )

    async def begin(self, *, who: str) -> None:
        """Write that it is under way, and restart the SIP service on the local key.

        Raises DeviceError `flash_write_failed`: nothing has changed then.
        """
        core = self._core
        held = core.opened.license
        self._heard = None
        self._lease_end = held.lease_end if held.remote or held.applied else None
        await core.change(begun(core.opened, Moment.of(core.mark, core.now())))
        core.restart_asked = core.time(core.now())
        core.note("factory_reset", cause="asked", who=who)
        await core.enforce(restart=True)

    def waiting(self) -> asyncio.Future[Outcome]:
        """Return what will become of it."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def next_due(self, now: Instant) -> float:
        """Return the seconds until its next step."""
        return max(0.0, self._retry_at - now.boottime)

    async def last_contact(self, link: Link | None, identity: SigningKey) -> Pending | None:
        """Sign the last contact and write it down; None where there is nobody to tell, or no more.

        It is made once a run: a device that is killed meanwhile sends the same bytes again.
        """
        core, now = self._core, self._core.now()
        pool = core.opened.record.pool
        if self._heard is not None or link is None or core.opened.ring is None:
            return None
        if certified_key(pool.certificate) != identity.public:
            return None  # killed after the identity was dropped: it had been made before
        if pool.pending is not None and repeatable(pool.pending, CONTACT_PATH, now):
            return pool.pending
        try:
            pending = contact_now(
                core, url=link.url(CONTACT_PATH), identity=identity, reason=FACTORY_RESET
            )
            await core.change_pending(pending)
        except CallpoolError as error:
            self._unheard(error)
            return None
        return pending

    async def answered(self, pending: Pending, outcome: Answer) -> None:
        """Take the reply to the last contact: only the manager's own says that it heard."""
        opened = self._core.opened
        if isinstance(outcome, CallpoolError):
            self._unheard(outcome)
            return
        if opened.ring is None:  # pragma: no cover - the contact was made under it
            return
        try:
            fresh_reply(
                outcome,
                opened.ring,
                serial=opened.license.serial,
                nonce=pending.nonce,
                now=self._core.time(self._core.now()),
            )
        except CallpoolError as error:
            self._unheard(error)
        else:
            self._heard = Outcome(told=True)

    def _unheard(self, error: CallpoolError) -> None:
        """Note that the manager was not reached, or did not take it."""
        self._heard = Outcome(
            told=False, code=error.code, sentence=error.sentence, lease_end=self._lease_end
        )

    async def finish(self) -> SigningKey | None:
        """Drop the identity; return the new one, or None where that must be tried again."""
        core, layout = self._core, self._layout
        heard = self._heard or Outcome(told=False, lease_end=self._lease_end)
        try:
            await asyncio.to_thread(layout.drop_identities)
            identity = layout.load_identity()
            await core.change(finished(core.opened))
        except (CallpoolError, OSError) as error:
            core.note("factory_reset_held_up", text=str(error))
            self._retry_at = core.now().boottime + RETRY
            return None
        core.note(
            "factory_reset_done", cause="asked", told=heard.told, code=heard.code,
            text=heard.sentence,
        )  # fmt: skip
        for future in self._waiting:
            if not future.done():
                future.set_result(heard)
        self._waiting, self._heard, self._retry_at = [], None, 0.0
        return identity
