"""A restart that waits for its window: real manager, devices, Kamailio and calls, lab clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lawkit import LabMaker

from callpool.host.clock import LabClock
from callpool.host.sipp import SippResult, caller
from callpool.lab.fleet import MAXIMUM, Plan
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import SBC_SESSIONS

HOUR = 3600.0
TWO = Plan(names=("sbc-a", "sbc-b"), apply="restart", key_options=("sbc_sessions=5", *MAXIMUM))


def eventually(what: str, condition: Callable[[], bool]) -> None:
    wait_for(what, condition, seconds=90)


def waiting(lab: LabHandle) -> set[str]:
    """Return the devices whose restart waits."""
    return {d["name"] for d in lab.pool()["devices"] if d["restart_window"]}


def actual(lab: LabHandle, name: str) -> int:
    return int(lab.row(name, SBC_SESSIONS)["actual"])


def has_received(lab: LabHandle, name: str, count: int) -> bool:
    return int(lab.row(name, SBC_SESSIONS)["remote"]) == count


def test_devices_apply_their_share_at_night_calls_go_on_and_one_that_was_away_follows(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(TWO)
    clock = LabClock(Path(lab.lab.clock))
    now = int(time.time())
    lab.buy({SBC_SESSIONS: 20}, starts=now - 60, ends=now + 400 * 86_400)
    for name in ("sbc-a", "sbc-b"):
        lab.allocate(name, sbc_sessions=10)
        eventually(f"{name} to receive its share", partial(has_received, lab, name, 10))
    begins = clock.now().wall + 2 * HOUR
    window = "-".join(
        time.strftime("%H:%M", time.gmtime(wall)) for wall in (begins, begins + 2 * HOUR)
    )
    with lab.client() as client:
        for name in ("sbc-a", "sbc-b"):
            client.call("POST", f"/devices/{name}/restart", {"save": True, "window": window})
    lab.kill("sbc-b")  # away when the window opens

    def night() -> None:
        kamailio = lab.kamailio_pid("sbc-a")
        assert actual(lab, "sbc-a") == 5
        clock.advance(2 * HOUR)
        lab.await_actual("sbc-a", SBC_SESSIONS, 15, seconds=90)
        eventually("sbc-a's wish to end", lambda: waiting(lab) == {"sbc-b"})
        eventually("Kamailio to be another", lambda: lab.kamailio_pid("sbc-a") not in (0, kamailio))

    result = asyncio.run(with_calls(lab, 4, night))
    assert (result.completed, result.failed) == (4, 0)  # law 2
    clock.advance(3 * HOUR)  # the window has closed
    lab.start("sbc-b")
    lab.await_device("sbc-b")
    eventually("sbc-b to be in contact", lambda: contacted(lab, "sbc-b", clock))
    assert actual(lab, "sbc-b") == 5
    assert waiting(lab) == {"sbc-b"}
    clock.advance(22 * HOUR)  # the next night
    lab.await_actual("sbc-b", SBC_SESSIONS, 15, seconds=90)
    eventually("the wish to end", lambda: waiting(lab) == set())


def contacted(lab: LabHandle, name: str, clock: LabClock) -> bool:
    """Tell whether a device has been in contact within the lab's last hour."""
    (unit,) = next(d["units"] for d in lab.pool()["devices"] if d["name"] == name)
    return bool(clock.now().wall - unit["last_contact"] < HOUR)


async def with_calls(lab: LabHandle, calls: int, story: Callable[[], None]) -> SippResult:
    """Run `story` while calls are up at sbc-a, and let each live to its own end."""
    sipp = await caller(lab.sip("sbc-a"), calls=calls, rate=50, hold_ms=45_000)
    up = lambda: int(lab.gate("sbc-a")["sessions"]) == calls  # noqa: E731
    await asyncio.to_thread(eventually, "the calls to be up", up)
    await asyncio.to_thread(story)
    assert sipp.running, "the calls ended before the story did"
    return await sipp.wait(90)
