"""Laws 2 and 3: no established call is cut by licensing, and admission fails static."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import pytest
from lawkit import LabMaker, calls_up, most

from callpool.host.process import identify
from callpool.host.sipp import SippResult, caller
from callpool.lab.fleet import Plan
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.admission import NO_LICENSE, SESSION_LIMIT
from callpool.licensing.capacity import SBC_SESSIONS
from callpool.licensing.errors import CallpoolError

LEASE = 15.0
ONE = Plan(names=("sbc-a",), apply="live")
SHORT = Plan(
    names=("sbc-a",),
    apply="live",
    manager_options=("--lease-seconds", str(LEASE), "--poll-seconds", "3", "--retry-seconds", "3"),
)


def licensed(lab: LabHandle, sessions: int) -> None:
    now = int(time.time())
    lab.buy({SBC_SESSIONS: sessions}, starts=now - 60, ends=now + 86_400)
    lab.allocate("sbc-a", sbc_sessions=sessions)
    lab.await_actual("sbc-a", SBC_SESSIONS, sessions)


def offer(lab: LabHandle, calls: int, *, hold_ms: int = 100, rate: float = 200) -> SippResult:
    async def run() -> SippResult:
        sipp = await caller(lab.sip("sbc-a"), calls=calls, rate=rate, hold_ms=hold_ms)
        return await sipp.wait(90)

    return asyncio.run(run())


def sessions(lab: LabHandle) -> int:
    return int(lab.gate("sbc-a")["sessions"])


def test_a_call_outlives_every_accident_and_the_lease_and_hangs_up_like_any_other(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(SHORT)
    licensed(lab, 4)

    async def story() -> None:
        sipp = await caller(lab.sip("sbc-a"), calls=4, rate=50, hold_ms=60_000)
        await asyncio.to_thread(wait_for, "4 calls", lambda: sessions(lab) == 4, seconds=60)
        await asyncio.to_thread(accidents, lab)
        result = await sipp.wait(150)
        assert (result.completed, result.failed) == (4, 0)

    def accidents(lab: LabHandle) -> None:
        lab.kill_kamailio("sbc-a")
        before = lab.kamailio_pid("sbc-a")
        wait_for(
            "Kamailio to be back",
            lambda: lab.kamailio_pid("sbc-a") not in (0, before) and sessions(lab) == 4,
            seconds=60,
        )
        lab.ask("sbc-a", "restart", save=True)
        assert sessions(lab) == 4
        lab.kill("sbc-a")
        lab.start("sbc-a")
        lab.await_device("sbc-a")
        assert sessions(lab) == 4
        lab.allocate("sbc-a", sbc_sessions=0)
        lab.await_actual("sbc-a", SBC_SESSIONS, 0)
        assert offer(lab, 3).answers == {503: 3}
        lab.kill("manager")
        wait_for(
            "the lease to end",
            lambda: lab.status("sbc-a")["lease_end"] is None,
            seconds=LEASE + 60,
        )
        assert sessions(lab) == 4

    asyncio.run(story())
    wait_for("the licenses to come back", lambda: sessions(lab) == 0, seconds=60)


def test_with_the_core_frozen_and_the_manager_dead_kamailio_falls_to_local_at_the_leases_end(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(SHORT)
    licensed(lab, 5)
    lab.kill("manager")
    lease_end = float(lab.status("sbc-a")["lease_end"])
    lab.send("sbc-a", signal.SIGSTOP)
    try:
        assert offer(lab, 3).answers == {200: 3}
        while True:
            asked = time.time()
            answers = offer(lab, 1, hold_ms=0).answers
            if 200 not in answers:
                break
            assert asked <= lease_end + 0.5, "admitted though the lease had ended"
        # By the wall or by Kamailio's own ticks, whichever comes first: up to a second early.
        assert time.time() >= lease_end - 1.5
        assert answers == {503: 1}
        # And it goes no further: still refused a while later, the core still frozen.
        assert offer(lab, 5).answers == {503: 5}
    finally:
        lab.send("sbc-a", signal.SIGCONT)
    wait_for("the core to say so", lambda: lab.status("sbc-a")["lease_end"] is None, seconds=60)
    wait_for(
        "the refusals to be counted",
        lambda: lab.gate("sbc-a")["refused"].get(NO_LICENSE, 0) == 6,
        seconds=60,
    )


def test_with_manager_and_core_dead_the_gate_admits_exactly_the_license(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(ONE)
    licensed(lab, 10)
    lab.kill("manager")
    lab.kill("sbc-a")
    result = offer(lab, 60, hold_ms=1500, rate=60)
    assert result.admitted + result.answers.get(503, 0) == 60
    assert most(calls_up(lab, ["sbc-a"])) == 10
    # The core comes back to a Kamailio that went on: it takes it over and counts what it counts.
    lab.start("sbc-a")
    lab.await_device("sbc-a")
    wait_for("nothing to be in use", lambda: sessions(lab) == 0, seconds=60)
    assert lab.gate("sbc-a")["uncertain"] == 0
    assert lab.status("sbc-a")["connected"] is False
    assert offer(lab, 30, hold_ms=6000, rate=100).admitted == 10


def chaos(lab: LabHandle, chosen: random.Random, accidents: int) -> list[str]:
    """Kill manager, core or Kamailio at random instants; put them back; tell what was done."""
    done = []
    for _ in range(accidents):
        until = time.monotonic() + chosen.uniform(0.2, 1.5)
        wait_for("the instant", lambda until=until: time.monotonic() >= until, seconds=3)  # type: ignore[misc]  # a lambda's default
        victim = chosen.choice(["manager", "core", "kamailio", "kamailio group", "frozen core"])
        done.append(victim)
        if victim == "manager":
            lab.kill("manager")
            lab.start("manager")
        elif victim == "core":
            lab.kill("sbc-a")
            lab.start("sbc-a")
            lab.await_device("sbc-a")
        elif victim == "frozen core":
            lab.send("sbc-a", signal.SIGSTOP)
            until = time.monotonic() + 0.7
            wait_for("the thaw", lambda until=until: time.monotonic() >= until, seconds=3)  # type: ignore[misc]  # a lambda's default
            lab.send("sbc-a", signal.SIGCONT)
        else:
            pid = lab.kamailio_pid("sbc-a")
            if pid and identify(pid) is not None:
                if victim == "kamailio":
                    os.kill(pid, signal.SIGKILL)
                else:
                    os.killpg(pid, signal.SIGKILL)
            wait_for(
                "Kamailio to be back",
                lambda pid=pid: lab.kamailio_pid("sbc-a") not in (0, pid),  # type: ignore[misc]  # a lambda's default
                seconds=60,
            )
    return done


@pytest.mark.parametrize(
    "seed",
    [11, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(12, 24))],
)
def test_whatever_is_killed_under_load_the_license_is_never_exceeded_nor_lost(
    make_lab: LabMaker, seed: int
) -> None:
    lab = make_lab(ONE)
    licensed(lab, 20)

    async def story() -> SippResult:
        sipp = await caller(lab.sip("sbc-a"), calls=0, rate=30, hold_ms=2000)
        done = await asyncio.to_thread(chaos, lab, random.Random(seed), 8)
        print("accidents:", done)
        return await sipp.finish(90)

    result = asyncio.run(story())
    assert most(calls_up(lab, ["sbc-a"])) <= 20
    assert result.admitted >= 20
    # Nothing is lost: what was admitted has ended, and every license can be used again.
    wait_for("nothing to be in use", lambda: sessions(lab) == 0, seconds=90)
    before = lab.gate("sbc-a")["refused"].get(SESSION_LIMIT, 0)
    assert offer(lab, 40, hold_ms=6000).admitted == 20
    wait_for(
        "20 refusals to be counted",
        lambda: lab.gate("sbc-a")["refused"].get(SESSION_LIMIT, 0) - before == 20,
        seconds=60,
    )


def test_a_device_whose_manager_is_unreachable_at_start_serves_what_it_has(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(ONE)
    licensed(lab, 3)
    lab.kill("manager")
    lab.ask("sbc-a", "stop")
    wait_for("the device to stop", lambda: not lab.alive("sbc-a"), seconds=60)
    with pytest.raises(CallpoolError):
        lab.status("sbc-a")
    lab.start("sbc-a")
    lab.await_device("sbc-a")
    assert offer(lab, 9, hold_ms=6000).admitted == 3
    wait_for(
        "the alarm",
        lambda: "contact_lost" in {a["code"] for a in lab.status("sbc-a")["alarms"]},
        seconds=60,
    )
