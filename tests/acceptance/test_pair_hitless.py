"""Hitless installations under calls, on real keepalived, Kamailio and SIPp: no call is touched."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
from collections.abc import Awaitable, Callable

import pytest
from pairkit import PairRig, Unit, eventually, pair
from pairmanager import PairManager, actual

HELD = 200
#: Room for what comes at once where a busy machine stood still for a second.
BEFORE, RAISED, CUT = 260, 320, 250
#: Attempts a second while a run goes on (issue 7).
ATTEMPTS = 20.0


async def exact(p: PairRig, cap: int, held: int) -> None:
    """Just as many calls as the cap leaves room for are admitted, and no more."""
    room = cap - held
    more = await p.calls(room + 10, rate=100, hold_ms=4_000)
    counted = await more.wait(120)
    assert (counted.admitted, counted.refused) == (room, 10), counted
    await p.counted(held)


async def install(manager: PairManager, count: int) -> None:
    """Give the pair `count` and follow the run to its end while calls are attempted."""
    p = manager.pair
    first = p.active()
    manager.pool("allocate", "edge", "--sbc-sessions", count)
    going = await p.calls(0, rate=ATTEMPTS, hold_ms=500)
    said = await asyncio.to_thread(manager.pool, "hitless", "edge")
    assert "is complete" in said, said
    assert [said.count(f"step {n} done") for n in (1, 2, 3, 4)] == [1, 1, 1, 1], said
    result = await going.finish(120)
    assert (result.failed, result.refused) == (0, 0), f"{result} {going.errors()}"
    assert result.completed == result.calls > 4 * ATTEMPTS, result
    assert [actual(u) for u in p.units] == [count, count]
    assert p.active() is first, "the unit of before is active again"


@pytest.mark.timeout(900)
async def test_more_and_less_are_installed_and_no_call_is_touched() -> None:
    manager = PairManager(bought=2 * RAISED)
    async with pair(sessions=0, options=manager.options) as p:
        await eventually(lambda: all(u.status().get("connected") for u in p.units))
        await manager.installed(BEFORE)
        held = await p.calls(HELD, rate=100, hold_ms=150_000)
        await p.counted(HELD)
        await exact(p, BEFORE, HELD)
        await install(manager, RAISED)
        await p.counted(HELD)
        await exact(p, RAISED, HELD)
        await install(manager, CUT)
        await p.counted(HELD)
        await exact(p, CUT, HELD)
        result = await held.wait(300)
        assert (result.completed, result.failed) == (HELD, 0), f"{result} {held.errors()}"
        await p.counted(0)


PARTS = ("manager", "core", "kamailio", "keepalived", "link")
WHO = ("active", "redundant")
STEPS = (1, 2, 3, 4)
CASES = [
    case
    for case in itertools.product(PARTS, WHO, STEPS)
    # There is one manager and one link.
    if case[0] not in ("manager", "link") or case[1] == "active"
]
#: What ordinary runs see of it.
SAMPLE = random.Random(7).sample(CASES, 2)


def params() -> list[object]:
    return [pytest.param(*case, marks=() if case in SAMPLE else pytest.mark.full) for case in CASES]


async def hurt(manager: PairManager, unit: Unit, what: str) -> Callable[[], Awaitable[None]]:
    """Kill one participant, or cut the link; return what brings it back."""
    p = manager.pair
    if what == "manager":
        manager.kill()

        async def again() -> None:
            manager.start()
    elif what == "core":
        assert unit.core is not None
        unit.core.kill()
        await asyncio.to_thread(unit.core.wait, 10)

        async def again() -> None:
            unit.start_core()
    elif what == "kamailio":
        pid = unit.ask("running")["kamailio_pid"]
        if pid:
            os.kill(pid, signal.SIGKILL)

        async def again() -> None:
            return
    elif what == "keepalived":
        for pid in p.net.pids(unit.part):
            if p.net.command_of(pid) == "keepalived":
                os.kill(pid, signal.SIGKILL)
        assert unit.keepalived is not None
        await asyncio.to_thread(unit.keepalived.wait, 10)

        async def again() -> None:
            await asyncio.to_thread(unit.start_keepalived)
    else:
        p.net.link("a", "ha0", up=False)

        async def again() -> None:
            p.net.link("a", "ha0", up=True)

    return again


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("what", "who", "step"), params())
async def test_whoever_fails_at_whichever_step_the_run_ends_well_and_every_call_by_its_own_bye(
    what: str, who: str, step: int
) -> None:
    manager = PairManager(bought=2 * RAISED)
    async with pair(sessions=0, options=manager.options) as p:
        await eventually(lambda: all(u.status().get("connected") for u in p.units))
        await manager.installed(BEFORE)
        first = p.active()
        unit = first if who == "active" else p.other(first)
        held = await p.calls(HELD, rate=100, hold_ms=90_000)
        await p.counted(HELD)
        manager.pool("allocate", "edge", "--sbc-sessions", RAISED)
        assert manager.hitless("--no-wait")["state"] == "running"
        begun = ("ordered", "done")

        def has_begun() -> bool:
            run = manager.hitless("--status")
            steps = [s["status"] in begun for s in run.get("steps", [])]
            # A machine so busy that the units changed places by themselves may need no such step.
            return steps[step - 1 : step] == [True] or run.get("state") in ("complete", "stopped")

        await eventually(has_begun, within=240, what=f"step {step} has begun")
        again = await hurt(manager, unit, what)
        await asyncio.sleep(1.0)  # of being away
        await again()
        await eventually(
            lambda: manager.hitless("--status").get("state") in ("complete", "stopped"),
            within=240,
            what="the run ends",
            every=2.0,  # each look is a program of its own
        )
        # Nobody ever has more than what was bought leaves to each.
        assert all(-1 <= actual(u) <= RAISED for u in p.units)
        await eventually(lambda: all(u.ready() for u in p.units), within=120)
        if manager.hitless("--status")["state"] == "stopped":
            manager.pool("hitless", "edge", "--resume")
        assert manager.hitless("--status")["state"] == "complete"
        assert [actual(u) for u in p.units] == [RAISED, RAISED]
        result = await held.wait(300)
        assert (result.completed, result.failed) == (HELD, 0), f"{result} {held.errors()}"
        await p.counted(0)
