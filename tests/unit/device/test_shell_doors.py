from __future__ import annotations

import asyncio

import pytest

from callpool.device.faces.shell import doors as d
from callpool.device.faces.shell.visit import Visit


class Now:
    at = 1000.0

    def __call__(self) -> float:
        return self.at


def entered(doors: d.Doors, source: str, closed: list[str]) -> Visit | None:
    """Enter without waiting for the turn: what `turn` says is tested apart."""
    if not doors._make_room(source):
        return None
    visit = Visit(source, closed.append, now=doors._now)
    doors.visits.add(visit)
    return visit


def test_an_address_has_a_burst_and_then_its_turns_and_another_has_its_own() -> None:
    now = Now()
    doors = d.Doors(now)
    waits = [doors.turn("a") for _ in range(d.BURST + 12)]
    assert waits[: d.BURST] == pytest.approx([0.0] * d.BURST)
    assert waits[-1] == pytest.approx(1.0)
    assert doors.turn("b") == 0.0
    now.at += 60.0
    assert doors.turn("a") == 0.0


def test_who_would_wait_too_long_is_turned_away_and_takes_no_turn() -> None:
    now = Now()
    doors = d.Doors(now)
    waits = [doors.turn("a") for _ in range(1000)]
    taken = [w for w in waits if w <= d.LONGEST_HOLD]
    assert len(taken) == pytest.approx(d.LONGEST_HOLD * d.PACE + d.BURST, abs=1)
    assert len(set(waits[len(taken) :])) == 1
    for n in range(5000):
        doors.turn(f"s{n}")
    now.at += 60.0
    doors.turn("b")
    assert set(doors._next) == {"b"}, "addresses whose turn is over are forgotten"


async def test_connections_that_wait_for_their_turn_are_bounded() -> None:
    doors = d.Doors()
    waiting = [
        asyncio.create_task(doors.enter(f"s{n % 40}", lambda _: None)) for n in range(d.MAX_HELD)
    ]
    await asyncio.sleep(0)
    assert await doors.enter("late", lambda _: None) is None
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await doors.enter("late", lambda _: None) is not None


def test_one_that_only_holds_a_place_makes_room_once_it_has_had_its_time() -> None:
    now, closed = Now(), list[str]()
    doors = d.Doors(now)
    first = entered(doors, "a", closed)
    assert first is not None
    first.named = True
    for _ in range(d.MAX_STRANGERS_FROM_ONE - 1):
        assert entered(doors, "a", closed) is not None
    assert entered(doors, "a", closed) is None, "they have only just come"
    assert entered(doors, "b", closed) is not None
    now.at += d.UNNAMED_STAY
    assert entered(doors, "a", closed) is not None
    assert len(closed) == 1
    assert first in doors.visits, "who has named a user may take longer to type"
    now.at += d.NAMED_STAY
    for _ in range(d.MAX_STRANGERS_FROM_ONE):
        assert entered(doors, "a", closed) is not None
    assert first not in doors.visits
    assert len([v for v in doors.visits if v.source == "a"]) == d.MAX_STRANGERS_FROM_ONE


def test_a_full_house_makes_room_at_the_address_that_holds_most() -> None:
    now, closed = Now(), list[str]()
    doors = d.Doors(now)
    for n in range(d.MAX_STRANGERS):
        entered(doors, "most" if n % 2 else f"other{n}", closed)
    now.at += d.UNNAMED_STAY
    before = sum(v.source == "most" for v in doors.visits)
    assert entered(doors, "new", closed) is not None
    assert sum(v.source == "most" for v in doors.visits) == before - 1


def test_those_who_are_signed_in_are_bounded_by_address_and_in_all() -> None:
    doors = d.Doors(Now())
    visits = [Visit(f"s{n // d.MAX_SIGNED_IN_FROM_ONE}", lambda _: None) for n in range(200)]
    inside = []
    for visit in visits:
        doors.visits.add(visit)
        if doors.sign_in(visit, "bob"):
            inside.append(visit)
        else:
            doors.leave(visit)
    assert len(inside) == d.MAX_SIGNED_IN
    assert sum(v.source == "s0" for v in inside) == d.MAX_SIGNED_IN_FROM_ONE
    doors.leave(inside[0])
    doors.visits.add(visits[0])
    assert doors.sign_in(visits[0], "bob")
