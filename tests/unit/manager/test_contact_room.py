"""The waiting room of contacts: bounded, the nearest lease end first, the rest spread in time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from callpool.manager.overload import (
    LEASE_SHARE,
    MOST_ARRIVING,
    MOST_WAIT,
    SPREAD,
    Caller,
    ContactRoom,
    Overloaded,
)

NOW = 1_800_000_000.0


class Desk:
    """A room with one desk, whose work ends when it is told to."""

    def __init__(self, places: int = 3) -> None:
        self.chance = 0.0
        self.room = ContactRoom(
            places, at_work=1, wall=lambda: NOW, monotonic=lambda: 100.0, chance=lambda: self.chance
        )
        self.served: list[str] = []
        self._end = threading.Semaphore(0)

    def ask(self, name: str, left: float = 1000.0) -> asyncio.Task[str]:
        def work(who: str) -> str:
            assert self._end.acquire(timeout=60)
            self.served.append(who)
            return who

        caller = Caller(name=name, lease_end=NOW + left)
        return asyncio.create_task(self.room.serve(lambda: (caller, name), work))

    async def waits(self, count: int) -> None:
        async with asyncio.timeout(30):
            while self.room.waiting != count:  # noqa: ASYNC110  the room tells nobody
                await asyncio.sleep(0.001)

    async def at_work(self, name: str = "first") -> asyncio.Task[str]:
        begun = self.ask(name)
        await asyncio.sleep(0)
        return begun

    def end(self, count: int = 1) -> None:
        self._end.release(count)


async def test_of_those_that_wait_the_nearest_lease_end_is_served_first() -> None:
    desk = Desk()
    asked = [await desk.at_work()]
    for number, (name, left) in enumerate((("week", 6e5), ("hour", 3600.0), ("day", 86400.0))):
        asked.append(desk.ask(name, left))
        await desk.waits(number + 1)
    desk.end(4)
    await asyncio.gather(*asked)
    assert desk.served == ["first", "hour", "day", "week"]


async def test_where_there_is_no_room_the_longest_lease_is_sent_away() -> None:
    desk = Desk(places=2)
    asked = [await desk.at_work()]
    for number, (name, left) in enumerate((("week", 6e5), ("day", 86400.0))):
        asked.append(desk.ask(name, left))
        await desk.waits(number + 1)
    urgent = desk.ask("hour", 3600.0)
    with pytest.raises(Overloaded) as sent:
        await asked[1]
    assert sent.value.code == "overloaded"
    assert sent.value.retry_after >= 1
    desk.end(3)
    await asyncio.gather(asked[0], asked[2], urgent)
    assert desk.served == ["first", "hour", "day"]


async def test_a_unit_has_one_place_and_its_later_request_takes_it() -> None:
    desk = Desk()
    first = await desk.at_work()
    older = desk.ask("same", 50.0)
    await desk.waits(1)
    newer = desk.ask("same", 50.0)
    with pytest.raises(Overloaded):
        await older
    assert desk.room.waiting == 1
    desk.end(2)
    assert await newer == "same"
    await first


async def test_those_who_are_sent_away_are_spread_over_the_time_that_serving_them_takes() -> None:
    desk = Desk(places=1)
    first = await desk.at_work()
    last = desk.ask("urgent", 0.0)
    await desk.waits(1)
    waits = []
    for number in range(2000):
        with pytest.raises(Overloaded) as sent:
            await desk.ask(f"SN-{number}", 1e9)
        waits.append(sent.value.retry_after)
    # Half of 0.01 s each, until something else was measured.
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(10, abs=2)
    desk.chance = 1.0
    with pytest.raises(Overloaded) as sent:
        await desk.ask("late", 1e9)
    assert sent.value.retry_after == pytest.approx(10 * (1 + SPREAD), abs=2)
    desk.end(2)
    await asyncio.gather(first, last)


async def test_nobody_is_sent_away_for_longer_than_its_lease_bears_nor_for_ever() -> None:
    desk = Desk(places=1)
    first = await desk.at_work()
    last = desk.ask("urgent", 0.0)
    await desk.waits(1)
    desk.room._pace = 10.0
    for number in range(200):
        with pytest.raises(Overloaded):
            await desk.ask(f"SN-{number}", 1e9)
    with pytest.raises(Overloaded) as sent:
        await desk.ask("far", 1e9)
    assert sent.value.retry_after == MOST_WAIT
    with pytest.raises(Overloaded) as sent:
        await desk.ask("near", 400.0)
    assert sent.value.retry_after == 400.0 * LEASE_SHARE
    desk.end(2)
    await asyncio.gather(first, last)


async def test_what_cannot_be_verified_takes_no_place_of_those_that_can() -> None:
    desk = Desk()
    first = await desk.at_work()
    held = threading.Event()

    def forged() -> tuple[Caller, str]:
        assert held.wait(60)
        raise ValueError("not verified")

    flood = [
        asyncio.create_task(desk.room.serve(forged, lambda who: who)) for _ in range(MOST_ARRIVING)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await desk.ask("SN-1")
    held.set()
    ends = await asyncio.gather(*flood, return_exceptions=True)
    assert all(isinstance(end, ValueError) for end in ends)
    assert desk.room.waiting == 0
    good = desk.ask("SN-1")
    await desk.waits(1)
    desk.end(2)
    assert await good == "SN-1"
    await first


async def test_one_that_gives_up_frees_its_place() -> None:
    desk = Desk(places=1)
    first = await desk.at_work()
    gone = desk.ask("gone")
    await desk.waits(1)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert desk.room.waiting == 0
    next_one = desk.ask("next")
    await desk.waits(1)
    desk.end(2)
    assert await next_one == "next"
    await first
    again = desk.ask("again")
    desk.end()
    assert await again == "again"
