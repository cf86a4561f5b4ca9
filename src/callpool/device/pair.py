"""One unit of an HA pair: its role, what it knows of the other one, what it mends, what it yields.

Calls cross between the Kamailios by themselves; the core compares, keeps the service address's
rank, and says what is so. Which unit has the address is keepalived's to decide: VRRP settles two
active units by itself as soon as they hear each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import zlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Protocol

from callpool.device import alarms as al
from callpool.device.core import Core
from callpool.device.errors import DeviceError
from callpool.device.gate.settings import GateError
from callpool.device.pair_address import BACKUP, HOLDS, MASTER, SICK, YIELDS, ServiceAddress
from callpool.device.pair_keys import Comparison, Listing, Merged, Tombs, merged
from callpool.device.pair_link import LIMIT, Answer, PairLink, Question, UnitState
from callpool.device.pair_settings import PairSettings
from callpool.device.pair_switch import LOOK_EVERY, NOT_SYNCHRONISED, Switchover
from callpool.device.ports import Post
from callpool.device.status import SOFTWARE, PairStatus
from callpool.licensing.errors import CallpoolError
from callpool.wire.messages import PairReport, SwitchOrder

ACTIVE: Final = "active"
REDUNDANT: Final = "redundant"
ALONE: Final = "alone"
FAULT: Final = "fault"

#: Seconds between two questions to the other unit, two signs of life.
ASK_EVERY: Final = 0.5
VITAL_EVERY: Final = 0.5
#: Seconds between two listings: while keys differ, and while all is well.
COMPARE_SOON: Final = 1.0
COMPARE_LATER: Final = 5.0
#: Without a word for so long, in seconds, the other unit is taken for unreachable.
STALE: Final = 2.5
#: Seconds that a switchover is told for, that a drift is told for.
SWITCH_TOLD: Final = 10.0
DRIFT_TOLD: Final = 30.0


class PairGate(Protocol):
    """What the pair needs of the gate."""

    @property
    def start_number(self) -> int:
        """Which start of Kamailio this is."""
        ...

    def keys(self) -> dict[str, tuple[int, int]]:
        """Return call key -> (kind, age in seconds)."""
        ...

    def contacts(self) -> dict[str, tuple[str, ...]]:
        """Return address of record -> contacts."""
        ...

    async def add_key(self, key: str, kind: int, age: int) -> None:
        """Count a call that the other unit admitted."""
        ...

    async def end_key(self, key: str) -> None:
        """Give back a call that ended on the other unit."""
        ...

    async def tell_user(self, aor: str) -> None:
        """Tell the other unit an address of record's contacts."""
        ...

    async def drop_user(self, aor: str) -> None:
        """Drop an address of record that is gone on the other unit."""
        ...

    async def serve(self, serving: bool) -> None:
        """Tell Kamailio whether this unit has the service address."""
        ...

    async def answers(self) -> bool:
        """Tell whether Kamailio answers a SIP request."""
        ...


class Pair:
    """An HA pair, as one unit of it sees it."""

    def __init__(
        self, *, core: Core, gate: PairGate, settings: PairSettings, link: PairLink,
        address: ServiceAddress, post: Post, directory: Path,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Compose it; `start` begins. `directory` is on the disk whose health counts.

        `monotonic` gives seconds that only rise.
        """
        self._core, self._gate, self._settings = core, gate, settings
        self._now = monotonic
        self._link, self._address = link, address
        self._directory = directory
        self._run = secrets.token_hex(8)
        self._tombs = Tombs(self._now())
        self._comparison = Comparison()
        self._compared_at = 0.0
        self._raw = ""
        self._peer: UnitState | None = None
        self._heard_at: float | None = None
        self._began = self._now()
        self._healthy = True
        self._leaving = False
        self._switched_at: float | None = None
        self._drift: tuple[float, int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: Called once after this unit has become active and knows all keys.
        self.on_active: Callable[[], None] = lambda: None
        self._news = False
        self._switchover = Switchover(
            core=core, place=self, post=post, own=core.settings.serial,
            peer=settings.peer_serial, begin=self._begin, monotonic=monotonic,
        )  # fmt: skip
        self._switchover.on_end = lambda: self.on_active()
        #: Until when HA alarms are part of a planned run: wall time.
        self.expected_until = 0.0
        #: Set when the other unit has another secret.
        self._disbelieved = ""

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Make the files, answer the other unit; raises OSError, DeviceError `pair_port`."""
        await asyncio.to_thread(self._address.prepare)
        self._address.rank(0)
        self._raw = self._address.role()
        await self._link.start(self._answer)

    def run(self) -> None:
        """Begin to watch: the core has been started."""
        for work in (self._watch_role(), self._talk(), self._live()):
            self._begin(work)
        self._switchover.resume()

    async def close(self) -> None:
        """End: the address goes to the other unit if it can."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()

    async def leave(self) -> None:
        """Give the address up before this unit's SIP service ends."""
        self._leaving = True
        deadline = self._now() + 3.0
        while self._now() < deadline:
            if not (self.serving and self._fresh):
                return
            await asyncio.sleep(LOOK_EVERY)

    # ---------------------------------------------------------------- reading

    @property
    def serving(self) -> bool:
        """Whether this unit has the service address."""
        return self._raw == MASTER

    @property
    def _age(self) -> float:
        return -1.0 if self._heard_at is None else self._now() - self._heard_at

    @property
    def _fresh(self) -> bool:
        return 0.0 <= self._age < STALE

    @property
    def role(self) -> str:
        """Return active, redundant, alone or fault."""
        if self._raw == MASTER:
            return ACTIVE if self._fresh else ALONE
        return REDUNDANT if self._raw == BACKUP and self._healthy else FAULT

    @property
    def synchronised(self) -> bool:
        """Whether this unit knows all keys of the other one, and hears it."""
        return self._fresh and self._comparison.complete

    def report(self) -> PairReport:
        """Return what the manager is told."""
        pool = self._core.opened.record.pool
        return PairReport(
            peer=self._settings.peer_serial,
            role=self.role,
            synchronised=self.synchronised,
            peer_age=round(self._age, 1),
            switch_done=pool.switch_done,
            switch_result=pool.switch_result,
        )

    def status(self) -> PairStatus:
        """Return what the device says of its pair."""
        pool, peer = self._core.opened.record.pool, self._peer
        return PairStatus(
            role=self.role,
            service=self._settings.service,
            synchronised=self.synchronised,
            peer=self._settings.peer_serial,
            peer_role=peer.role if peer else "",
            peer_age=round(self._age, 1),
            running_version=self._core.confirmed_version,
            peer_version=peer.running_version if peer else 0,
            peer_sessions=peer.sessions if peer else 0,
            peer_users=peer.users if peer else 0,
            switch_done=pool.switch_done,
            switch_result=pool.switch_result,
        )

    @property
    def peer(self) -> UnitState | None:
        """Return what the other unit last said of itself."""
        return self._peer

    def alarms(self) -> list[tuple[str, str]]:
        """Return what is wrong with the pair: alarm code and detail."""
        found: list[tuple[str, str]] = []
        now, other = self._now(), self._settings.peer_serial
        if self._disbelieved:
            found.append((al.HA_FAULT, self._disbelieved))
        elif not self._fresh:
            since = self._began if self._heard_at is None else self._heard_at
            if now - since > self._settings.patience:
                found.append(
                    (al.HA_FAULT, f"unit {other} has not been heard for {now - since:.0f} s.")
                )
            elif now - since > STALE:
                found.append((al.HA_WAITING, f"unit {other} is not heard."))
        elif self.role == FAULT:
            found.append((al.HA_FAULT, "this unit cannot take the service address."))
        elif self._peer is not None and self._peer.role == FAULT:
            found.append((al.HA_FAULT, f"unit {other} cannot take the service address."))
        elif not self._comparison.complete:
            found.append((al.HA_WAITING, f"the calls of unit {other} are being learnt."))
        if self.double_active:
            found.append((al.HA_DOUBLE_ACTIVE, other))
        if self._switched_at is not None and now - self._switched_at < SWITCH_TOLD:
            found.append((al.HA_SWITCHOVER, "active" if self.serving else "redundant"))
        if self._drift is not None and now - self._drift[0] < DRIFT_TOLD:
            found.append((al.HA_DRIFT, f"{self._drift[1]} differences were mended."))
        if self._fresh and self._peer is not None:
            mine = self._core.actual(self._core.now()).to_dict()
            if self._peer.actual != mine:
                found.append((al.HA_MISMATCH, f"{mine} here, {self._peer.actual} on unit {other}."))
        if self.expected_until > self._core.time(self._core.now()):
            found = [(code, f"{detail} (expected: a planned run)") for code, detail in found]
        return found

    @property
    def double_active(self) -> bool:
        """Whether the other unit says that it has the service address as well."""
        return self.serving and self._fresh and self.peer_serves

    @property
    def peer_serves(self) -> bool:
        """Whether the other unit said last that it has the service address."""
        return self._peer is not None and self._peer.role in (ACTIVE, ALONE)

    def _state(self) -> UnitState:
        usage = self._core.gate.usage()
        keys = self._gate.keys()
        return UnitState(
            serial=self._core.settings.serial,
            role=self.role,
            run=self._run,
            start=self._gate.start_number,
            healthy=self._healthy,
            synchronised=self.synchronised,
            peer_age=round(self._age, 1),
            sessions=usage.sessions,
            users=usage.users,
            digest=digest(keys, self._gate.contacts()),
            running_version=self._core.confirmed_version,
            actual=self._core.actual(self._core.now()).to_dict(),
            software=SOFTWARE,
        )

    # ---------------------------------------------------------------- the address

    async def _watch_role(self) -> None:
        # The address may have moved while no core ran.
        with contextlib.suppress(GateError):
            await self._gate.serve(self.serving)
        while True:
            with contextlib.suppress(OSError):
                await self._look()
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self) -> None:
        raw = self._address.role()
        before, self._raw = self._raw, raw
        rank = HOLDS if raw == MASTER else 0
        if not self._healthy or self._leaving:
            rank = SICK
        elif self._switchover.yielding:
            rank = YIELDS
        self._address.rank(rank)
        if raw == before:
            return
        self._core.note("ha_role", cause="vrrp", was=before or "none", now=raw or "none")
        if MASTER in (raw, before):
            if self._heard_at is not None:
                self._switched_at = self._now()
            with contextlib.suppress(GateError):
                await self._gate.serve(raw == MASTER)
            self._news = raw == MASTER
        self._tell_news()

    def _tell_news(self) -> None:
        """Once this unit has become active and knows all calls (or is alone), say so."""
        if self._news and (self.synchronised or not self._fresh):
            self._news = False
            self.on_active()

    async def _live(self) -> None:
        """Twice a second: whether this unit can serve, for keepalived and for the other unit."""
        misses = 0
        while True:
            well = await self._disk_well()
            answers = await self._gate.answers()
            misses = 0 if answers else misses + 1
            well = well and misses < 3 and al.GATE_DOWN not in self._core.faults
            if well != self._healthy:
                self._core.note("ha_health", healthy=well, answers=answers)
                self._healthy = well
            with contextlib.suppress(OSError):
                if well:
                    self._address.vital()
            await asyncio.sleep(VITAL_EVERY)

    async def _disk_well(self) -> bool:
        """Tell whether a few bytes can be written where flash and call book lie."""

        def probe() -> bool:
            file = self._directory / ".probe"
            try:
                file.write_bytes(b"." * 4096)
            except OSError:
                return False
            finally:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            return True

        return await asyncio.to_thread(probe)

    # ---------------------------------------------------------------- the other unit

    async def _answer(self, question: Question) -> Answer:
        self._take(question.state)
        listing = None
        if question.listing:
            listing = self._listing(question.suspects)
        return Answer(state=self._state(), listing=listing)

    def _listing(self, suspects: tuple[str, ...]) -> Listing | None:
        usage = self._core.gate.usage()
        if not usage.in_sync:
            return None
        return Listing(
            calls=self._gate.keys(), users=self._gate.contacts(),
            ended=self._tombs.among(suspects), reach=self._tombs.reach(self._now()),
            uncertain=usage.uncertain,
        )  # fmt: skip

    def _take(self, state: UnitState) -> None:
        if state.serial != self._settings.peer_serial:
            raise DeviceError(
                "wrong_peer",
                f"The unit at {self._settings.peer} is {state.serial}, not "
                f"{self._settings.peer_serial}.",
            )
        was, stale = self._peer, not self._fresh
        self._peer, self._heard_at, self._disbelieved = state, self._now(), ""
        if stale or was is None or (was.run, was.start) != (state.run, state.start):
            self._comparison.forget()
            self._compared_at = 0.0

    async def _talk(self) -> None:
        started = self._gate.start_number
        while True:
            if self._gate.start_number != started:
                started = self._gate.start_number
                self._comparison.forget()
            try:
                await self._exchange()
            except DeviceError as error:
                if error.code in ("peer_not_believed", "wrong_peer"):
                    self._disbelieved = error.sentence
                if not self._fresh:
                    self._comparison.forget()
            except GateError:
                pass
            self._tell_news()
            await asyncio.sleep(ASK_EVERY)

    async def _exchange(self) -> None:
        now = self._now()
        hurry = self._comparison.open or not self._comparison.complete
        wait = COMPARE_SOON if hurry else COMPARE_LATER
        peer = self._peer
        differ = peer is not None and peer.digest != digest(
            self._gate.keys(), self._gate.contacts()
        )
        due = now - self._compared_at >= wait and (hurry or differ)
        question = Question(
            state=self._state(), listing=due, suspects=self._comparison.suspects if due else ()
        )
        answer = await self._link.ask(question)
        self._take(answer.state)
        if due and answer.listing is not None and self._core.gate.usage().in_sync:
            self._compared_at = now
            await self._mend(answer.listing)

    async def _mend(self, there: Listing) -> None:
        known = self._comparison.complete
        mending = self._comparison.compare(
            self._gate.keys(), self._gate.contacts(), there, self._tombs
        )
        for key, (kind, age) in mending.add.items():
            await self._gate.add_key(key, kind, age)
        for key in mending.end:
            await self._gate.end_key(key)
        for aor in mending.tell:
            await self._gate.tell_user(aor)
        for aor in mending.drop:
            await self._gate.drop_user(aor)
        if mending.count:
            counts = {"added": len(mending.add), "ended": len(mending.end),
                      "told": len(mending.tell), "dropped": len(mending.drop)}  # fmt: skip
            self._core.note("ha_mended", cause="comparison", **counts)
            if known:
                # While a unit learns the other's calls there is nothing to wonder at.
                self._drift = self._now(), mending.count

    # what the gate's book tells

    def admitted(self, key: str) -> None:
        """Note that a call is up."""
        self._tombs.admitted(key)

    def ended(self, key: str) -> None:
        """Note that a call has ended (a user as `u:AOR`)."""
        self._tombs.ended(key, self._now())

    async def before_seed(
        self, keys: tuple[str, ...], users: tuple[str, ...], away: float
    ) -> tuple[Merged, bool] | None:
        """Ask the other unit what is up, before Kamailio is started.

        Returns what to start with and whether nothing else can be up; None where it does not
        answer.
        """
        suspects = (*keys, *(f"u:{u}" for u in users))
        # Calls wait for this: one that is known to be away is not waited for long.
        away_itself = not self._fresh and self._now() - self._began > STALE
        with contextlib.suppress(CallpoolError):
            answer = await self._link.ask(
                Question(state=self._state_before(), listing=True, suspects=suspects),
                0.25 if away_itself else LIMIT,
            )
            if answer.state.serial == self._settings.peer_serial and answer.listing is not None:
                there = answer.listing
                return merged(keys, users, there, away), not there.uncertain
        return None

    def _state_before(self) -> UnitState:
        return UnitState(
            serial=self._core.settings.serial, role=self.role, run=self._run, start=0,
            healthy=False, synchronised=False, peer_age=-1.0,
        )  # fmt: skip

    # ---------------------------------------------------------------- switchover

    async def told(self, order: SwitchOrder | None, expected_until: float) -> None:
        """Take in what the manager's reply says; raises DeviceError on a full disk."""
        self.expected_until = expected_until
        if order is not None:
            await self._switchover.order(order)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def why_not(self, to: str) -> str:
        """Return why the service address cannot go to unit `to` now; empty where it can."""
        if to == self._core.settings.serial:
            return "" if self.serving else "this unit is not the active one"
        if to != self._settings.peer_serial:
            return f"{to[:40]} is not the other unit"
        if not self.serving:
            return "this unit is not the active one"
        if not self._fresh or self._peer is None:
            return "the other unit is not heard"
        if not self._peer.healthy or self._peer.role == FAULT:
            return "the other unit cannot serve"
        if not (self.synchronised and self._peer.synchronised):
            return NOT_SYNCHRONISED
        return ""

    async def switch(self) -> str:
        """Hand the service address over now; return `done` or why not. Asked for locally."""
        return await self._switchover.asked()


def digest(calls: dict[str, tuple[int, int]], users: dict[str, tuple[str, ...]]) -> int:
    """Return a sum over keys, the same whatever their order."""
    total = sum(zlib.crc32(k.encode(errors="surrogateescape")) for k in calls)
    total += sum(zlib.crc32(f"u:{u}".encode(errors="surrogateescape")) for u in users)
    return total & 0xFFFFFFFFFFFFFFFF
