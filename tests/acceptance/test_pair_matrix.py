"""Each part of a pair, on each unit, killed or frozen under calls: none is lost, none stays."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal

import pytest
from pairkit import PairRig, Unit, eventually, pair

#: What befalls which unit.
PARTS = ("kamailio killed", "core killed", "core frozen", "keepalived killed", "restart with save")
WHO = ("active", "redundant")
CASES = tuple(itertools.product(PARTS, WHO))
#: What ordinary runs see of it; the rest is the full matrix.
SAMPLE = {
    ("kamailio killed", "active"),
    ("core killed", "active"),
    ("restart with save", "redundant"),
}


def params() -> list[object]:
    return [pytest.param(*case, marks=() if case in SAMPLE else pytest.mark.full) for case in CASES]


async def befall(p: PairRig, unit: Unit, what: str) -> None:
    """Have it happen, and be mended as a service manager would."""
    running = unit.ask("running")
    if what == "kamailio killed":
        os.kill(running["kamailio_pid"], signal.SIGKILL)  # the core starts it again
    elif what == "core killed":
        assert unit.core is not None
        unit.core.kill()
        unit.core.wait(10)
        unit.start_core()
    elif what == "core frozen":
        os.kill(running["pid"], signal.SIGSTOP)
        other = p.other(unit)
        if unit.has_address():
            # It gives the address up: whoever answers for it must be able to act.
            await eventually(lambda: other.role() in ("active", "alone"), within=20)
        else:
            await eventually(lambda: "ha_waiting" in other.alarms(), within=20)
        os.kill(running["pid"], signal.SIGCONT)
    elif what == "keepalived killed":
        for pid in p.net.pids(unit.part):
            if p.net.command_of(pid) == "keepalived":
                os.kill(pid, signal.SIGKILL)
        assert unit.keepalived is not None
        unit.keepalived.wait(10)
        unit.start_keepalived()
    else:
        await asyncio.to_thread(unit.command, "restart", "--save")


@pytest.mark.parametrize(("what", "who"), params())
async def test_a_part_that_fails_costs_no_call_and_leaves_none_behind(what: str, who: str) -> None:
    async with pair(sessions=120) as p:
        unit = p.active() if who == "active" else p.other(p.active())
        held = await p.calls(100, rate=100, hold_ms=35_000)
        await p.counted(100)
        going = await p.calls(160, rate=20, hold_ms=200)
        await befall(p, unit, what)
        await eventually(lambda: all(u.ready() for u in p.units), what="the pair is whole again")
        result = await going.wait(120)
        assert (result.completed, result.failed) == (160, 0), result
        await p.counted(100)
        assert sorted(u.role() for u in p.units) == ["active", "redundant"]
        assert [u.has_address() for u in p.units].count(True) == 1
        # The cap is exact while they are held.
        more = await p.calls(30, rate=100, hold_ms=2_000)
        counted = await more.wait(90)
        assert (counted.admitted, counted.refused) == (20, 10), counted
        result = await held.wait(90)
        assert (result.completed, result.failed) == (100, 0), result
        await p.counted(0)
