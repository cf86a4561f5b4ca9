"""`Intake`: what Kamailio tells, into the book and onto the disk, and what was missed.

Events come as datagrams that nobody waits for. One that was lost shows as a gap in the numbers,
as a drop that the kernel counted, or as a count that differs twice; then every key is asked for.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from typing import Final

from callpool.device.gate.calls import CallBook, Refused, Watcher, after
from callpool.device.gate.clocks import Clock
from callpool.device.gate.events import EventSocket
from callpool.device.gate.journal import GateState, Journal, Moment
from callpool.device.gate.rpc import Rpc
from callpool.device.gate.seed import Seed
from callpool.device.gate.settings import GateError, GateSettings
from callpool.device.gate.usage import Usage

#: How long a whole list of keys may take to come, in seconds.
SYNC_LIMIT: Final = 3.0
#: How often the events are read while they keep coming, in seconds.
POLL: Final = 0.02


class Intake:
    """The event socket, the book and its journal, of one driver."""

    def __init__(
        self,
        settings: GateSettings,
        rpc: Rpc,
        real: Clock,
        on_refusal: Callable[[Refused], None] | None,
    ) -> None:
        """`real` is the machine's own clock; `on_refusal` must not block."""
        self._settings = settings
        self._rpc = rpc
        self._real = real
        self._on_refusal = on_refusal
        self.book = CallBook(settings.repeat_seconds)
        #: Told of keys that come and go, whichever book holds them.
        self.watcher: Watcher | None = None
        self.journal = Journal(settings.path / "calls.journal")
        self.events: EventSocket | None = None
        #: `time.monotonic()` of the last heartbeat; 0 before the first.
        self.last_beat = 0.0
        #: Heartbeats in a row that counted otherwise than the book.
        self.drifts = 0
        #: Whether events were lost that no sync has made good yet.
        self.missed = False
        self._drops = 0
        self._syncs = 0

    def open(self, state: GateState, *, keep_port: bool) -> GateState:
        """Load the book, take the journal and the event port; return the state with the port.

        With `keep_port` a living Kamailio sends to the port of `state`: no other will do.
        Raises GateError `event_port_in_use`.
        """
        self.book = CallBook(self._settings.repeat_seconds)
        self.book.watcher = self.watcher
        self.journal.load(self.book)
        self.book.admitted = self.journal.moment.admitted
        self.book.refused = dict(self.journal.moment.refused)
        self.journal.open(self.book)
        token = state.token or secrets.token_hex(8)
        try:
            self.events = EventSocket(self._settings, state.core_port, token)
        except GateError:
            if keep_port or state.core_port == 0:
                self.journal.close(self.book, clean=False)
                raise
            self.events = EventSocket(self._settings, 0, token)
        self._drops = self.events.dropped()
        asyncio.get_running_loop().add_reader(self.events.socket, self.readable)
        return GateState(
            pid=state.pid, started=state.started, gen=state.gen,
            core_port=self.events.port, token=token,
        )  # fmt: skip

    def close(self, *, clean: bool) -> None:
        """Read what waits, close socket and journal. Safe to call twice."""
        if self.events is not None:
            asyncio.get_running_loop().remove_reader(self.events.socket)
            self.drain()
            if self.last_beat:
                self.journal.mark(self.moment(), self.book)
            self.events.close()
            self.events = None
        self.journal.close(self.book, clean=clean)

    # ---------------------------------------------------------------- reading

    def readable(self) -> None:
        """Read what has come, and then look only every POLL seconds while more comes.

        Waking us costs the sender: under load, a SIP worker would pay for it at every event.
        """
        if self.events is None:
            return
        asyncio.get_running_loop().remove_reader(self.events.socket)
        self._poll(self.events)

    def _poll(self, events: EventSocket) -> None:
        if events is not self.events:
            return
        loop = asyncio.get_running_loop()
        if self._read(500):
            loop.call_later(POLL, self._poll, events)
        else:
            loop.add_reader(events.socket, self.readable)

    def drain(self) -> None:
        """Read all that waits: what a dead Kamailio still had to say."""
        while self._read(500):
            pass

    def _read(self, most: int) -> int:
        if self.events is None:
            return 0
        count = 0
        for body in self.events.read(most):
            count += 1
            if not self.book.receive(body):
                continue
            if " H " in body[:40] and body.split(" ", 3)[2] == "H":
                self._beat()
        self.journal.append(self.book.lines(), self.book)
        if self.book.refusals:
            refusals, self.book.refusals = self.book.refusals, []
            if self._on_refusal is not None:
                for refusal in refusals:
                    self._on_refusal(refusal)
        return count

    def moment(self) -> Moment:
        """Return Kamailio's tick and counters as they are known at this moment."""
        # A lab that steps its clock ahead does not make calls older.
        now = self._real.now()
        beat = self.book.beat
        return Moment(
            tick=max(beat.tick, 1), wall=now.wall, boottime=now.boottime, boot_id=now.boot_id,
            admitted=self.book.admitted, refused=dict(self.book.refused),
        )  # fmt: skip

    def _beat(self) -> None:
        self.last_beat = time.monotonic()
        self.journal.mark(self.moment(), self.book)
        book, beat = self.book, self.book.beat
        # Only where no event lies between the two counts can they be compared, and a
        # heartbeat is not one act: the same difference twice is a drift.
        if after(beat.seq, book.done) == 0 and after(book.seen, book.done) == 0:
            same = (beat.sessions, beat.emergency, beat.users) == (
                book.sessions, book.emergency, len(book.users)
            )  # fmt: skip
            self.drifts = 0 if same else self.drifts + 1

    def usage(self) -> Usage:
        """Return what is counted now (see `KamailioGate.usage`)."""
        book = self.book
        return Usage(
            sessions=book.sessions,
            users=len(book.users),
            emergency=book.emergency,
            uncertain=book.uncertain,
            peak_sessions=max(book.peak_sessions, book.sessions),
            peak_users=max(book.peak_users, len(book.users)),
            admitted=book.admitted,
            ended=max(0, book.admitted - len(book.calls)),
            refused=dict(book.refused),
            turned_away=book.turned_away.counts(),
            in_sync=not self.is_uncertain(),
            alive=time.monotonic() - self.last_beat < 3.0,
        )

    # ---------------------------------------------------------------- what was missed

    def begin(self, seed: Seed) -> None:
        """Start the numbering of a new Kamailio (see `CallBook.begin`)."""
        self.book.begin(seed.gen, seed.uncertain, seed.uncertain_until, seed.tick)
        self.missed = False
        self._drops = self.events.dropped() if self.events is not None else 0
        self.journal.append(self.book.lines(), self.book)
        # Its clock goes on from here even when it dies before its first heartbeat.
        self.journal.mark(self.moment(), self.book)

    def overflowed(self) -> bool:
        """Tell whether the kernel has thrown events away since the last sync."""
        return self.events is not None and self.events.dropped() != self._drops

    def is_uncertain(self) -> bool:
        """Tell whether the book may differ from Kamailio's keys."""
        if self.overflowed():
            self.missed = True
        return self.missed or self.book.gap

    async def synchronise(self) -> None:
        """Get every key, at most three tries. Raises GateError `kamailio_unreachable`."""
        for _ in range(3):
            self._syncs += 1
            number = f"{os.getpid()}.{self._syncs}"
            events = self.events
            if events is None:
                return
            self._drops = events.dropped()
            await self._rpc.call("htable.sets", "cp_todo", f"sync:{number}", "1")
            deadline = time.monotonic() + SYNC_LIMIT
            while time.monotonic() < deadline:
                await asyncio.sleep(0.01)
                if self.book.synced == number:
                    self.missed = events.dropped() != self._drops
                    return
        raise GateError("kamailio_unreachable", "Kamailio did not send its list of calls.")
