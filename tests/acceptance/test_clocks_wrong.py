"""Wall clocks that are set wrong while calls are up: the manager's, and a device's.

Durations run on elapsed time, which no one can set: a clock that jumps frees no share, ends no
lease, buys no time and cuts no call (laws 1, 2 and 4).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lawkit import one_lab

from callpool.host.clock import LabClock
from callpool.host.sipp import caller
from callpool.lab.fleet import Builder, Plan
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import SBC_SESSIONS
from callpool.licensing.errors import CallpoolError

LEASE = 300.0
#: Milliseconds for which the calls are up: longer than all that happens to them.
HOLD_MS = 90_000
PLAN = Plan(
    names=("sbc-a", "sbc-b"),
    apply="live",
    manager_options=("--lease-seconds", str(LEASE), "--poll-seconds", "2", "--retry-seconds", "2"),
)


class OwnClocks(Builder):
    """Each device has a clock of its own; the lab's is the manager's."""

    def clock_of(self, name: str) -> Path:
        return self.root / f"{name}.clock.json"


@pytest.fixture
def lab() -> Iterator[LabHandle]:
    with one_lab(PLAN, OwnClocks) as made:
        yield made


def calls(lab: LabHandle, number: int, hold_ms: int) -> dict[int, int]:
    """Offer some calls and return their answers."""

    async def run() -> dict[int, int]:
        sipp = await caller(lab.sip("sbc-a"), calls=number, rate=50, hold_ms=hold_ms)
        return dict((await sipp.wait(90)).answers)

    return asyncio.run(run())


def alarmed(lab: LabHandle) -> bool:
    return "clock_skew" in {a["code"] for a in lab.status("sbc-a")["alarms"]}


def contacted(lab: LabHandle) -> None:
    """Wait for a contact that began after now."""
    before = lab.status("sbc-a")["last_contact"]
    lab.ask("sbc-a", "pull")
    wait_for(
        "another contact",
        lambda: lab.status("sbc-a")["last_contact"] != before and lab.status("sbc-a")["connected"],
        seconds=60,
    )


def free_for_b(lab: LabHandle, count: int) -> bool:
    """Tell whether the pool has `count` for the other device; nothing of it is kept."""
    try:
        lab.allocate("sbc-b", sbc_sessions=count)
    except CallpoolError as error:
        if error.code != "pool_exceeded":
            raise
        return False
    lab.allocate("sbc-b", sbc_sessions=0)
    return True


def test_a_wall_clock_that_is_set_wrong_frees_no_share_ends_no_lease_and_cuts_no_call(
    lab: LabHandle,
) -> None:
    now = int(time.time())
    lab.buy({SBC_SESSIONS: 10}, starts=now - 86_400, ends=now + 86_400)
    lab.allocate("sbc-a", sbc_sessions=6)
    lab.await_actual("sbc-a", SBC_SESSIONS, 6)
    managers = LabClock(Path(lab.lab.clock))
    devices = LabClock(lab.directory / "sbc-a.clock.json")

    def carries(sessions: int) -> None:
        """What is enforced, and that it is: 4 of it are long calls."""
        assert lab.row("sbc-a", SBC_SESSIONS)["actual"] == sessions
        assert lab.gate("sbc-a")["sessions"] == 4
        assert calls(lab, sessions - 3, 300) == {200: sessions - 4, 503: 1}
        wait_for("they end", lambda: lab.gate("sbc-a")["sessions"] == 4, seconds=60)

    def accidents() -> None:
        carries(6)
        # The manager's clock runs off past the lease of a device that it cannot reach.
        lab.send("sbc-a", signal.SIGSTOP)
        try:
            assert not free_for_b(lab, 5)
            managers.set_wall(1800.0)
            assert not free_for_b(lab, 5), "a share is held until its lease has ended by both"
            assert free_for_b(lab, 4)
        finally:
            lab.send("sbc-a", signal.SIGCONT)
        contacted(lab)
        # And back, past where it was.
        managers.set_wall(-1200.0)
        contacted(lab)
        carries(6)
        assert not free_for_b(lab, 5)
        left = float(lab.status("sbc-a")["lease_end"]) - managers.now().wall
        assert left <= LEASE, "no time was bought"
        managers.set_wall(0.0)
        contacted(lab)
        # The device's own, within what is tolerated and said.
        for wrong in (-3000.0, 3000.0):
            devices.set_wall(wrong)
            wait_for("it to say so", lambda: alarmed(lab), seconds=60)
            contacted(lab)
        # Nor does it forget the time when it is killed.
        lab.kill("sbc-a")
        lab.start("sbc-a")
        lab.await_device("sbc-a")
        contacted(lab)
        carries(6)
        # Days off: refused by name. What it has stands, and its lease ends when it would have.
        end = lab.status("sbc-a")["lease_end"]
        devices.set_wall(-3 * 86_400.0)
        wait_for("contacts to be refused", lambda: not lab.status("sbc-a")["connected"], seconds=60)
        carries(6)
        assert abs(lab.status("sbc-a")["lease_end"] - end) < 30.0
        devices.set_wall(0.0)
        wait_for("it to be right again", lambda: not alarmed(lab), seconds=60)

    async def story() -> None:
        sipp = await caller(lab.sip("sbc-a"), calls=4, rate=50, hold_ms=HOLD_MS)
        await asyncio.to_thread(
            wait_for, "4 calls", lambda: lab.gate("sbc-a")["sessions"] == 4, seconds=60
        )
        await asyncio.to_thread(accidents)
        result = await sipp.wait(180)
        assert (result.completed, result.failed) == (4, 0)

    asyncio.run(story())
