"""Overload: how many devices' requests are at work, who waits, who is told to come back when.

A fleet that calls all at once must neither flatten the manager nor starve those whose lease is
about to end. A few requests are at work, a bounded number waits, and of those that wait the
nearest lease end is served first. Where there is no more room, whoever holds the longest lease
is answered 503 with Retry-After. Each such answer books the next free moment of the rate that is
measured here, and a random share is added: those who were sent away come back spread over the
time that serving them takes, not all together.

What is waited for is verified first: nobody gets a place, let alone another's, by claiming a
serial number. Each unit has one place. What somebody without a key can do is to send more than
can be verified (about 0.3 ms each); beyond a bound of those, whoever arrives is told to come back,
for of an unverified request nothing can be believed. Leases last for days, so that delays, and
changes nothing else.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from callpool.licensing.errors import CallpoolError
from callpool.manager.web import WORKERS, in_thread

R = TypeVar("R")
A = TypeVar("A")

#: Requests of devices that are at work at once: some threads are left to operators and the clock.
AT_WORK: Final = max(2, WORKERS - 2)
#: Requests that are being read and verified at once, beside those that wait.
MOST_ARRIVING: Final = 256
#: The farthest moment that is booked, in seconds from now.
MOST_WAIT: Final = 900.0
#: The share of the present service time that is booked for later: who is sent away while all call
#: comes back when fewer do, and is sent away once more if not.
HOPE: Final = 0.5
#: At least this many seconds are spread over, whatever the wait.
LEAST_SPREAD: Final = 5.0
#: The share of a wait that is spread over.
SPREAD: Final = 0.5
#: A unit is sent away for at most this share of what is left of its lease.
LEASE_SHARE: Final = 0.25
#: Nobody waits here for longer, in seconds: a device gives its manager 20.
MOST_QUEUED: Final = 8.0
#: The service time in seconds that is believed before anything was measured.
FIRST_PACE: Final = 0.01
#: The weight of the latest measurement.
_WEIGHT: Final = 0.05
#: Seconds over which it is measured.
_COUNTED_OVER: Final = 0.05


class Overloaded(CallpoolError):
    """There is no room: nothing of the request was taken; `retry_after` is in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        """Make it with the seconds that the device is asked to wait."""
        super().__init__(
            "overloaded",
            f"The license server has many devices to serve; ask again in {retry_after} seconds.",
        )
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, verified."""

    #: What is known of only one such: a serial number, or `smart:` and an instance.
    name: str
    #: When its lease ends, seconds since 1970; 0 for one that has none, infinity to wait for all.
    lease_end: float


@dataclass(slots=True, kw_only=True)
class _Place:
    caller: Caller
    number: int
    #: Done when it may begin; failed when it is sent away.
    turn: asyncio.Future[None]

    @property
    def key(self) -> tuple[float, int]:
        return self.caller.lease_end, self.number


class ContactRoom:
    """The waiting room of one manager process; used from its event loop only."""

    def __init__(
        self,
        places: int,
        *,
        at_work: int = AT_WORK,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Make it with `places` to wait in; `wall` is the manager's clock."""
        self._places, self._most_at_work = places, at_work
        self._wall, self._monotonic, self._chance = wall, monotonic, chance
        self._numbers = itertools.count()
        #: By lease end, then by arrival.
        self._waiting: list[_Place] = []
        self._by_name: dict[str, _Place] = {}
        self._at_work = self._arriving = 0
        #: Seconds between two that are served while there is always one to serve.
        self._pace = FIRST_PACE
        #: How many were served since when, all places being taken.
        self._counted, self._counted_since = 0, -math.inf
        self._booked = 0.0

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    async def serve(self, check: Callable[[], tuple[Caller, A]], work: Callable[[A], R]) -> R:
        """Verify a request by `check`, then do `work` when its turn comes; both in threads.

        Raises what they raise, and Overloaded: nothing was done then.
        """
        return await self.attend(
            lambda: in_thread(check),
            lambda asked: in_thread(lambda: work(asked)),
            lambda: in_thread(lambda: work(check()[1])),
        )

    async def attend(
        self,
        check: Callable[[], Awaitable[tuple[Caller, A]]],
        work: Callable[[A], Awaitable[R]],
        both: Callable[[], Awaitable[R]],
    ) -> R:
        """Do as `serve`, where all is awaited; `both` verifies and works in one."""
        if self._at_work < self._most_at_work and not self._waiting:
            with self._working():  # nobody else wants the place
                return await both()
        with self.arriving():
            caller, asked = await check()
        await self._turn(caller)
        with self._working(entered=True):
            return await work(asked)

    @contextlib.contextmanager
    def arriving(self) -> Iterator[None]:
        """Count a request that is being verified; raises Overloaded beyond the bound."""
        if self._arriving >= MOST_ARRIVING:
            raise Overloaded(self._later(math.inf))
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    @contextlib.contextmanager
    def _working(self, *, entered: bool = False) -> Iterator[None]:
        self._at_work += not entered
        try:
            yield
        finally:
            self._served()
            self._at_work -= 1
            self._next()

    def _served(self) -> None:
        now = self._monotonic()
        if self._at_work < self._most_at_work:
            self._counted_since, self._counted = now, 0
            return
        # Those that are taken in one commit end in one moment: it is counted over a while.
        self._counted += 1
        took = now - self._counted_since
        if took >= _COUNTED_OVER:
            if took < self._counted:
                weight = 1.0 - (1.0 - _WEIGHT) ** self._counted
                self._pace += weight * (took / self._counted - self._pace)
            self._counted_since, self._counted = now, 0

    def _next(self) -> None:
        while self._waiting and self._at_work < self._most_at_work:
            place = self._waiting.pop(0)
            del self._by_name[place.caller.name]
            if not place.turn.done():
                self._at_work += 1
                place.turn.set_result(None)

    async def _turn(self, caller: Caller) -> None:
        """Wait for a turn; raises Overloaded when sent away."""
        if self._at_work < self._most_at_work and not self._waiting:
            self._at_work += 1
            return
        older = self._by_name.get(caller.name)
        if older is not None:  # it has asked again: its first request waits for nobody any more
            self._send_away(older)
        place = _Place(
            caller=caller,
            number=next(self._numbers),
            turn=asyncio.get_running_loop().create_future(),
        )
        bisect.insort(self._waiting, place, key=lambda p: p.key)
        self._by_name[caller.name] = place
        if len(self._waiting) > min(self._places, max(1.0, MOST_QUEUED / self._pace)):
            self._send_away(self._waiting[-1])
        try:
            await place.turn
        except asyncio.CancelledError:
            if place.turn.done() and not place.turn.cancelled() and not place.turn.exception():
                self._at_work -= 1  # its turn had come
                self._next()
            elif self._by_name.get(caller.name) is place:
                self._remove(place)
            raise

    def _remove(self, place: _Place) -> None:
        self._waiting.remove(place)
        del self._by_name[place.caller.name]

    def _send_away(self, place: _Place) -> None:
        self._remove(place)
        if not place.turn.done():
            left = place.caller.lease_end - self._wall()
            place.turn.set_exception(Overloaded(self._later(left)))

    def _later(self, left: float) -> int:
        """Book the next free moment for one with `left` seconds of lease; return the wait."""
        now = self._monotonic()
        begin = max(self._booked, now + len(self._waiting) * self._pace)
        self._booked = min(begin + self._pace * HOPE, now + MOST_WAIT)
        wait = min(begin - now, MOST_WAIT, max(0.0, left) * LEASE_SHARE)
        return math.ceil(wait + self._chance() * max(LEAST_SPREAD, wait * SPREAD)) or 1
