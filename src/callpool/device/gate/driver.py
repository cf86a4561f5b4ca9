"""`KamailioGate`: drives one Kamailio, and keeps the book it is seeded from.

Kamailio judges; the driver tells it the policy, hears what it did, and puts it back with its
counts when it dies. Nothing here is on a call's path: with the driver dead or frozen Kamailio
goes on along the steps it holds, and no further.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from callpool.device.gate.calls import TICKS, CallBook, Contact, Refused, Watcher, after
from callpool.device.gate.clocks import Clock
from callpool.device.gate.intake import SYNC_LIMIT, Intake
from callpool.device.gate.journal import GateState
from callpool.device.gate.launch import check_ports, check_program
from callpool.device.gate.policy import render
from callpool.device.gate.probe import answers_options
from callpool.device.gate.render import write_config
from callpool.device.gate.rpc import Rpc
from callpool.device.gate.seed import write_seed
from callpool.device.gate.seeding import make_seed, save_for_external, tick_now
from callpool.device.gate.service import Service, gone
from callpool.device.gate.settings import GateError, GateSettings, parse_listen
from callpool.device.gate.usage import Usage
from callpool.host.clock import SystemClock
from callpool.host.process import ProcessId, is_alive
from callpool.licensing.admission import AdmissionPolicy

#: Without a heartbeat for so long, in seconds, Kamailio is said to be frozen.
SILENCE: Final = 5.0
#: Seconds in which a Kamailio of an earlier driver has to answer before another is started.
ADOPT_LIMIT: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something that an operator should know of."""

    #: `gate_restarted`, `gate_not_adopted`, `gate_silent`, `gate_drift`, `gate_uncertain`,
    #: `gate_down`, `gate_clear`.
    code: str
    sentence: str


class Start(Protocol):
    """What a unit of a pair starts with, by the other unit's word."""

    @property
    def calls(self) -> Mapping[str, tuple[int, int]]:
        """Call key -> (kind, age in seconds) of what is up."""
        ...

    @property
    def drop(self) -> tuple[str, ...]:
        """Keys of this book that are up no more."""
        ...

    @property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """Address of record -> contacts of what is registered."""
        ...

    @property
    def drop_users(self) -> tuple[str, ...]:
        """Addresses of record of this book that are registered no more."""
        ...


class Peer(Watcher, Protocol):
    """The other unit of an HA pair, as the driver needs it."""

    async def before_seed(
        self, keys: tuple[str, ...], users: tuple[str, ...], away: float
    ) -> tuple[Start, bool] | None:
        """Return what to start with, and whether nothing else can be up; None: no answer."""
        ...


def _carried(line: str) -> str:
    """Return a line that came off the wire as text that JSON can carry."""
    return line.encode(errors="surrogateescape").decode("latin-1")


def _raw(line: str) -> str:
    """Undo `_carried`."""
    return line.encode("latin-1").decode(errors="surrogateescape")


class KamailioGate:
    """One gate: one Kamailio and its book.

    `clock` is what policies' ends are written in. `on_alarm` and `on_refusal` are called from
    the event loop and must not block.
    """

    def __init__(
        self,
        settings: GateSettings,
        clock: Clock,
        *,
        on_alarm: Callable[[Alarm], None] | None = None,
        on_refusal: Callable[[Refused], None] | None = None,
        real: Clock | None = None,
    ) -> None:
        """Make a gate that is not started.

        `real` is the clock that Kamailio and calls live by, the system's own by default.
        """
        self.settings = settings
        self._clock = clock
        self._real: Clock = SystemClock() if real is None else real
        self._on_alarm = on_alarm
        self._policy: AdmissionPolicy | None = None
        self._rpc = Rpc(settings.path / "rpc.sock", settings.path / f"rpc-{os.getpid()}.sock")
        self._intake = Intake(settings, self._rpc, self._real, on_refusal)
        self._service = Service(settings, self._rpc)
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = asyncio.Lock()
        self._stopping = False
        #: The other unit of an HA pair, asked before each start; None for a gate of its own.
        self._peer: Peer | None = None
        self._serving = False

    # ---------------------------------------------------------------- life

    def is_running(self) -> bool:
        """Tell whether a Kamailio of an earlier driver lives on: then `adopt`, else `start`."""
        state = GateState.load(self.settings.path)
        if self.settings.mode == "external":
            return state.gen > 0 and (self.settings.path / "rpc.sock").exists()
        return state.pid > 0 and is_alive(ProcessId(pid=state.pid, started=state.started))

    async def attach(self, policy: AdmissionPolicy) -> None:
        """`adopt` a living Kamailio, or `start` one. Raises GateError as they do.

        One that lives and does not answer yet is asked for ADOPT_LIMIT seconds: to start another
        costs the knowledge of who has ended meanwhile, and that counts as used for hours.
        """
        deadline = time.monotonic() + ADOPT_LIMIT
        while self.is_running():
            try:
                await self.adopt(policy)
                return
            except GateError as error:
                self._close(clean=False)
                if error.code != "kamailio_unreachable" or time.monotonic() > deadline:
                    self._alarm("gate_not_adopted", f"{error.sentence} It is started anew.")
                    break
            await asyncio.sleep(0.2)
        await self.start(policy)

    async def start(self, policy: AdmissionPolicy) -> None:
        """End what an earlier run left, seed, start Kamailio, return once it answers.

        Raises GateError `kamailio_missing`, `kamailio_too_old`, `port_in_use`,
        `bad_listen_address`, `kamailio_failed`, `event_port_in_use`.
        """
        program = check_program(self.settings.kamailio)
        self._open(keep_port=False)
        try:
            async with self._busy:
                await self._service.end_leftover(self._intake.drain)
                uncertain = not self._intake.journal.clean
                await self._launch(program, policy, uncertain=uncertain)
        except BaseException:
            self._close(clean=False)
            raise
        self._run()

    async def adopt(self, policy: AdmissionPolicy) -> None:
        """Take a Kamailio that lived on without a driver; return once the book is its mirror.

        Raises GateError `kamailio_unreachable` or `event_port_in_use`.
        """
        self._open(keep_port=True)
        try:
            self._service.leader = self._service.known()
            gen = await self._rpc.get("cp_cnt", "gen")
            if not isinstance(gen, int):
                raise GateError("kamailio_unreachable", "That Kamailio has no gate in it.")
            self.book.adopt(gen)
            await self._intake.synchronise()
            await self.apply(policy)
        except BaseException:
            self._close(clean=False)
            raise
        self._run()

    async def apply(self, policy: AdmissionPolicy) -> None:
        """Put a policy in force; returns once Kamailio has taken it (milliseconds).

        Raises GateError `kamailio_unreachable`; the policy is kept and put in force as soon as
        Kamailio is back.
        """
        self._policy = policy
        if self.settings.mode == "external":
            save_for_external(self.settings, policy)
        await self._push()

    async def restart(self, policy: AdmissionPolicy) -> None:
        """Restart the SIP service under `policy`; established calls and registrations live on.

        They are counted again before it listens.

        Raises GateError as `start` does; where an external Kamailio's command fails
        (`restart_command_failed`), the earlier policy stays in force.
        """
        async with self._busy:
            if self.settings.mode == "external":
                await self._restart_external(policy)
                return
            self._policy = policy
            program = check_program(self.settings.kamailio)
            await self._end(grace=2.0)
            await self._launch(program, policy, uncertain=self._intake.is_uncertain())

    async def stop(self) -> None:
        """End Kamailio with its whole group and close the book. Safe to call twice."""
        await self._end_tasks()
        certain = not self._intake.is_uncertain()
        async with self._busy:
            if self.settings.mode == "child" and self._service.leader is not None:
                await self._end(grace=2.0)
                self._service.save_ended()
            self._close(clean=certain and self.settings.mode == "child")

    async def detach(self) -> None:
        """Close the driver and leave Kamailio at work, for a driver that is to be replaced."""
        await self._end_tasks()
        self._close(clean=False)

    # ---------------------------------------------------------------- reading

    @property
    def book(self) -> CallBook:
        """Return the book of live calls and registrations."""
        return self._intake.book

    @property
    def kamailio_pid(self) -> int:
        """Return the pid of Kamailio's main process, 0 when there is none of ours."""
        return self._service.leader.pid if self._service.leader is not None else 0

    @property
    def policy(self) -> AdmissionPolicy | None:
        """Return the policy that was put in force last."""
        return self._policy

    def usage(self) -> Usage:
        """Return what is counted now, from the core's book (milliseconds behind Kamailio)."""
        return self._intake.usage()

    def take_high(self) -> tuple[int, int]:
        """Return the most sessions and users at once since this was last asked."""
        return self.book.take_high()

    # ---------------------------------------------------------------- commands

    async def end_call(self, call_id: str) -> None:
        """Have Kamailio give back the license of one call (it does not hang up).

        Raises GateError `kamailio_unreachable`.
        """
        for key in self.book.keys_of(call_id) or [call_id]:
            await self._rpc.call("htable.sets", "cp_todo", f"ends:{key}", "1")

    async def forget_uncertain(self) -> int:
        """Give back the sessions that count as used because nobody can know; return how many.

        It is the operator's statement that no call of the time when nobody counted is up any
        more. A call of that time which is up all the same goes on, uncounted. Raises GateError
        `kamailio_unreachable`; the units may then be given back later all the same.
        """
        count = self.book.uncertain
        if count == 0:
            return 0
        await self._rpc.call("htable.sets", "cp_todo", "forg:uncertain", "1")
        deadline = time.monotonic() + SYNC_LIMIT
        while self.book.uncertain:
            if time.monotonic() > deadline:
                await self._intake.synchronise()
                break
            await asyncio.sleep(0.01)
        return count - self.book.uncertain

    async def set_users(self, users: Mapping[str, str]) -> None:
        """Replace the far-end users (name to HA1) without a restart.

        A user who is gone can neither call nor refresh; what he has registered lives on until
        it expires. Raises GateError `bad_gate_settings`, `kamailio_unreachable` (call it again
        then), or `restart_needed` between no users at all and some.
        """
        settings = msgspec.structs.replace(self.settings, users=dict(users))
        if bool(users) != bool(self.settings.users):
            raise GateError(
                "restart_needed", "Users are turned on or off by a restart of the SIP service."
            )
        for name in self.settings.users.keys() - users.keys():
            if await self._rpc.get("cp_ha1", name) is not None:
                await self._rpc.call("htable.delete", "cp_ha1", name)
        for name, ha1 in users.items():
            if self.settings.users.get(name) != ha1:
                await self._rpc.call("htable.sets", "cp_ha1", name, ha1)
        self.settings = settings
        if settings.mode == "external" and self._policy is not None:
            save_for_external(settings, self._policy)

    # ---------------------------------------------------------------- an HA pair

    def pair(self, peer: Peer, *, serving: bool) -> None:
        """Ask `peer` before each start, and tell it of keys that come and go; before `attach`."""
        self._peer, self._serving = peer, serving
        self._intake.watcher = self.book.watcher = peer

    @property
    def start_number(self) -> int:
        """Return which start of Kamailio this is."""
        return self.book.gen

    def keys(self) -> dict[str, tuple[int, int]]:
        """Return call key -> (1 for an emergency call, else 0; age in seconds)."""
        tick = self.book.beat.tick
        return {k: (v & 1, (tick - v // 64) % TICKS) for k, v in self.book.calls.items()}

    def contacts(self) -> dict[str, tuple[str, ...]]:
        """Return address of record -> contacts, as text that JSON carries."""
        return {
            aor: tuple(_carried(c.line()) for c in contacts)
            for aor, contacts in self.book.users.items()
        }

    async def add_key(self, key: str, kind: int, age: int) -> None:
        """Have Kamailio count a call that the other unit admitted `age` seconds ago.

        Raises GateError `kamailio_unreachable`, as all of these do.
        """
        value = min(age, TICKS // 2) * 2 + kind
        await self._rpc.call("htable.seti", "cp_todo", f"addk:{key}", value)

    async def end_key(self, key: str) -> None:
        """Have Kamailio give back a call that ended on the other unit."""
        await self._rpc.call("htable.seti", "cp_todo", f"endp:{key}", 1)

    async def tell_user(self, aor: str) -> None:
        """Have Kamailio tell the other unit every contact of an address of record."""
        await self._rpc.call("htable.seti", "cp_todo", f"regs:{aor}", 1)

    async def drop_user(self, aor: str) -> None:
        """Drop an address of record that is gone on the other unit."""
        with contextlib.suppress(GateError):  # it may have gone by itself
            await self._rpc.call("ul.rm", "location", aor)
        await self._rpc.call("htable.seti", "cp_todo", f"user:{aor}", 1)

    async def serve(self, serving: bool) -> None:
        """Tell Kamailio whether this unit has the service address.

        A unit that takes it over has none of the transactions of what is being set up: their
        answers are believed for a while, as after a start.
        """
        self._serving = serving
        if await self._rpc.get("cp_cnt", "act") == int(serving):
            return
        if serving:
            tick = await self._rpc.get("cp_cnt", "up")
            if isinstance(tick, int):
                await self._rpc.call("htable.seti", "cp_cnt", "boot", tick + 1)
        await self._rpc.call("htable.seti", "cp_cnt", "act", int(serving))
        if serving:
            await self._rpc.call("htable.seti", "cp_todo", "took:over", 1)

    async def answers(self) -> bool:
        """Tell whether Kamailio answers OPTIONS within a second, at the service address too."""
        pair = self.settings.pair
        if pair is None or self._busy.locked():
            return True  # a restart is under way, and is watched by who asked for it
        asked = [(pair.address, pair.port)]
        if self._serving:
            first = next(a for a in self.settings.listen if a.startswith("udp:"))
            _, host, port = parse_listen(first)
            asked.append((host, port))
        return all([await answers_options(a, source=pair.address) for a in asked])

    async def _merge_peer(self, *, uncertain: bool) -> bool:
        """Correct the book by the other unit's word; return what is then left uncertain."""
        if self._peer is None:
            return uncertain
        book, moment = self.book, self._intake.journal.moment
        tick = tick_now(moment, self._real.now())
        told = await self._peer.before_seed(
            tuple(book.calls), tuple(book.users), float(tick - moment.tick)
        )
        if told is None:
            return uncertain
        start, whole = told
        book.merge(
            {k: (tick - age) % TICKS * 64 + kind for k, (kind, age) in start.calls.items()},
            start.drop,
            {a: tuple(Contact.parse(_raw(c)) for c in lines) for a, lines in start.users.items()},
            start.drop_users,
        )
        return uncertain and not whole

    async def resync(self) -> None:
        """Compare every key with Kamailio's and repair the book.

        Raises GateError `kamailio_unreachable`.
        """
        await self._intake.synchronise()

    # ---------------------------------------------------------------- inside

    def _open(self, *, keep_port: bool) -> None:
        directory = self.settings.path
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._stopping = False
        state = GateState.load(directory)
        self._service.state = self._intake.open(state, keep_port=keep_port)
        self._rpc.open()

    def _close(self, *, clean: bool) -> None:
        self._intake.close(clean=clean)
        self._rpc.close()
        self._service.forget()

    def _run(self) -> None:
        for work in (self._watch(), self._tend()):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _end_tasks(self) -> None:
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _alarm(self, code: str, sentence: str) -> None:
        if self._on_alarm is not None:
            self._on_alarm(Alarm(code=code, sentence=sentence))

    # policy

    def _render(self, policy: AdmissionPolicy, tick: int) -> str:
        return render(
            policy,
            self.settings,
            now=self._clock.now().wall,
            real=self._real.now().wall,
            tick=tick,
            real_seconds=self._clock.real_seconds,
        )

    async def _push(self) -> None:
        tick = await self._rpc.get("cp_cnt", "up")
        if self._policy is None:
            return
        text = self._render(self._policy, tick if isinstance(tick, int) else 1)
        await self._rpc.call("htable.sets", "cp_pol", "p", text)

    async def _tend(self) -> None:
        """Once a second: refresh the ticks, sync the journal, close gaps, watch for silence."""
        intake = self._intake
        seen_before = self.book.seen
        silent = False
        while True:
            await asyncio.sleep(1.0)
            with contextlib.suppress(OSError):
                await asyncio.to_thread(intake.journal.sync)
            if self._busy.locked():
                continue
            quiet = time.monotonic() - intake.last_beat > SILENCE
            if quiet and not silent:
                silent = True
                self._alarm("gate_silent", "Kamailio sends no heartbeat.")
            with contextlib.suppress(GateError):
                await self._push()
                if silent and not quiet:
                    silent = False
                    self._alarm("gate_clear", "Kamailio's heartbeat is back.")
                gap = after(seen_before, self.book.done) > 0
                if gap or intake.drifts >= 2 or intake.missed or intake.overflowed():
                    drift = intake.drifts >= 2 and not gap
                    intake.drifts = 0
                    await intake.synchronise()
                    found, lost = self.book.repaired
                    if drift and (found or lost):
                        self._alarm(
                            "gate_drift",
                            f"The call book was wrong: {found} calls missing, {lost} too many.",
                        )
            seen_before = self.book.seen
            if self.settings.mode == "external":
                self._look_for_new_start()

    def _look_for_new_start(self) -> None:
        """Take on an external Kamailio that somebody else started: its seed says so."""
        state = GateState.load(self.settings.path)
        if state.gen not in (0, self.book.gen):
            self._service.state = state
            self.book.adopt(state.gen)
            self._intake.missed = True

    # Kamailio's life

    async def _end(self, *, grace: float) -> None:
        await self._service.end(self._intake.drain, grace=grace)

    async def _launch(self, program: str, policy: AdmissionPolicy, *, uncertain: bool) -> None:
        """Seed and start; the book goes on from what it holds."""
        if self.settings.mode == "external":
            await self._restart_external(policy)
            return
        self._policy = policy
        service = self._service
        check_ports(self.settings)
        config = write_config(
            self.settings, core_port=service.state.core_port, token=service.state.token
        )
        uncertain = await self._merge_peer(uncertain=uncertain)
        seed = make_seed(
            self.book, self._intake.journal.moment, self.settings, policy,
            now=self._real.now(), step=policy.at(self._clock.now().wall),
            uncertain=uncertain, gen=service.state.gen + 1,
            render_policy=self._render, serving=self._serving,
        )  # fmt: skip
        write_seed(self.settings.path / "seed.db", seed)
        self._intake.begin(seed)
        if seed.uncertain or (uncertain and seed.calls):
            self._alarm(
                "gate_uncertain",
                f"{len(seed.calls)} calls that may have ended, and {seed.uncertain} that may have"
                " begun, count as used: nobody counted for a while.",
            )
        await service.start(program, config, seed.gen, self._intake.drain)
        self._intake.last_beat = time.monotonic()

    async def _restart_external(self, policy: AdmissionPolicy) -> None:
        """Run the configured command; its pre-start step seeds (`seed_external`)."""
        state = self._service.state
        write_config(self.settings, core_port=state.core_port, token=state.token)
        state.save(self.settings.path)
        save_for_external(self.settings, policy)
        try:
            gen = await self._service.restart_external()
        except GateError:
            if self._policy is not None:
                # What failed has changed nothing: nor does a later start by somebody else.
                save_for_external(self.settings, self._policy)
            raise
        self._policy = policy
        self.book.adopt(gen)
        await self._intake.synchronise()
        await self._push()
        self._intake.last_beat = time.monotonic()

    async def _watch(self) -> None:
        """Wait for the death of our Kamailio; put it back, seeded, as long as it takes."""
        if self.settings.mode == "external":
            return
        delay = 0.0
        while not self._stopping:
            leader = self._service.leader
            if leader is not None:
                await gone(leader)
            async with self._busy:
                now = self._service.leader
                # A restart that was asked for has put another one in its place.
                if self._stopping or self._policy is None:
                    return
                if now is not None and (now != leader or is_alive(now)):
                    delay = 0.0
                    continue
                try:
                    await self._end(grace=0.0)
                    await self._launch(
                        check_program(self.settings.kamailio),
                        self._policy,
                        uncertain=self._intake.is_uncertain(),
                    )
                    delay = 0.0
                    self._alarm("gate_restarted", "Kamailio died and was started again.")
                except (GateError, OSError, sqlite3.Error) as exc:
                    # A full disk takes no seed, and no note of what was started: once more.
                    with contextlib.suppress(GateError):
                        await self._end(grace=0.0)
                    delay = min(delay * 2 + 0.25, 10.0)
                    why = exc.sentence if isinstance(exc, GateError) else str(exc)
                    self._alarm("gate_down", f"Kamailio is down: {why}")
            if delay:
                await asyncio.sleep(delay)
