"""Orders that end while the manager is away: every cap steps down on time (law 1)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from lawkit import LabMaker, calls_up, enforced, most

from callpool.host.clock import LabClock
from callpool.host.sipp import caller
from callpool.lab.fleet import Plan
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import SBC_SESSIONS

DAY = 86_400
NAMES = ("sbc-a", "sbc-b", "sbc-c")
#: What is bought: (sessions, days that it is in date for).
ORDERS = ((30, 400), (20, 3), (10, 5))
SHARES = {"sbc-a": 25, "sbc-b": 20, "sbc-c": 15}


def offer(lab: LabHandle, calls: int) -> tuple[int, int]:
    """Offer `calls` at once to each device; return how many were admitted, and most at once."""
    began = time.time()

    async def run() -> int:
        sipps = await asyncio.gather(
            *(caller(lab.sip(name), calls=calls, rate=100, hold_ms=8000) for name in NAMES)
        )
        return sum([(await sipp.wait(60)).admitted for sipp in sipps])

    admitted = asyncio.run(run())
    wait_for(
        "nothing to be in use",
        lambda: not any(lab.gate(name)["sessions"] for name in NAMES),
        seconds=60,
    )
    return admitted, most([c for c in calls_up(lab, NAMES) if c[0] >= began])


def caps(lab: LabHandle) -> int:
    """Return the sum of the caps that the gates were told last, and have confirmed."""
    return sum(change for name in NAMES for _, change in enforced(lab, name, SBC_SESSIONS))


def test_orders_that_end_step_every_devices_cap_down_with_the_manager_dead(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(Plan(names=NAMES, apply="live"))
    clock = LabClock(Path(lab.lab.clock))
    now = int(clock.now().wall)
    for sessions, days in ORDERS:
        lab.buy({SBC_SESSIONS: sessions}, starts=now - 60, ends=now + days * DAY)
    for name, share in SHARES.items():
        lab.allocate(name, sbc_sessions=share)
    for name, share in SHARES.items():
        lab.await_actual(name, SBC_SESSIONS, share, seconds=60)
    lab.kill("manager")

    before = 60
    for days, after in ((3, 40), (5, 30)):
        # Until the very end all of it is in force, and right after it nothing of it.
        end = now + days * DAY
        clock.advance(end - 300 - clock.now().wall)
        assert offer(lab, 30) == (before, before)
        clock.advance(end + 1 - clock.now().wall)
        # A step of the lab's clock is told to Kamailio, which lives by the real one.
        wait_for("every cap to step down", lambda after=after: caps(lab) == after, seconds=60)  # type: ignore[misc]  # a lambda's default
        assert sum(lab.counts("actual", SBC_SESSIONS).values()) == after
        assert offer(lab, 30) == (after, after)
        before = after
    # No local key counts, so at the lease's end nothing is left.
    clock.advance(now + 7 * DAY + 3600 - clock.now().wall)
    wait_for("the leases to end", lambda: caps(lab) == 0, seconds=60)
    assert {lab.status(n)["in_service"] for n in NAMES} == {False}
    assert offer(lab, 3) == (0, 0)
