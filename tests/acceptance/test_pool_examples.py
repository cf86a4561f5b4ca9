"""The two examples of the Fixed License Pool's document, on real devices and real calls."""

from __future__ import annotations

import asyncio
import time

import pytest
from lawkit import LabMaker, calls_up, enforced, most

from callpool.host.sipp import SippResult, caller, register
from callpool.lab.fleet import REALM, Plan, user_name, user_password
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import FAR_END_USERS, SBC_SESSIONS
from callpool.licensing.errors import CallpoolError

YEAR = 365 * 86_400
A, B, C = "sbc-a", "sbc-b", "sbc-c"


def buy(lab: LabHandle, **counts: int) -> None:
    now = int(time.time())
    lab.buy(counts, starts=now - 60, ends=now + YEAR)


def sessions(lab: LabHandle, name: str) -> int:
    return int(lab.gate(name)["sessions"])


async def until(what: str, condition: object, seconds: float = 90.0) -> None:
    assert callable(condition)
    await asyncio.to_thread(wait_for, what, condition, seconds=seconds)


# -- 20 far-end users for three devices


def restart(lab: LabHandle, name: str, actual: int) -> None:
    lab.call("POST", f"/devices/{name}/restart", {"save": True})
    lab.await_actual(name, FAR_END_USERS, actual)


def registering(lab: LabHandle, tried: dict[str, range]) -> dict[str, tuple[int, int]]:
    """Register users at each device; return how many were admitted and refused with 503."""

    async def run() -> dict[str, SippResult]:
        out = {}
        for name, numbers in tried.items():
            names = {user_name(n): user_password(n) for n in numbers}
            sipp = await register(lab.sip(name), names, realm=REALM, expires=600)
            out[name] = await sipp.wait(60)
        return out

    results = asyncio.run(run())
    return {name: (r.admitted, r.answers.get(503, 0)) for name, r in results.items()}


def test_20_far_end_users_are_shared_taken_back_and_given_elsewhere(make_lab: LabMaker) -> None:
    lab = make_lab(Plan(apply="restart"))
    buy(lab, far_end_users=20)
    shares = {A: 10, B: 8, C: 2}
    for name, users in shares.items():
        lab.allocate(name, far_end_users=users)
    wait_for("the grants", lambda: lab.counts("remote", FAR_END_USERS) == shares, seconds=60)
    assert set(lab.counts("actual", FAR_END_USERS).values()) == {0}
    for name, users in shares.items():
        restart(lab, name, users)
    with pytest.raises(CallpoolError) as caught:
        lab.allocate(C, far_end_users=3)
    assert caught.value.code == "pool_exceeded"
    first = {A: range(1, 6), B: range(11, 21), C: range(31, 35)}
    assert registering(lab, first) == {A: (5, 0), B: (8, 2), C: (2, 2)}

    # 5 are taken back from A, which uses 5; they are nobody's before A has restarted.
    lab.allocate(A, far_end_users=5)
    with pytest.raises(CallpoolError) as caught:
        lab.allocate(B, far_end_users=11)
    assert caught.value.code == "pool_exceeded"
    restart(lab, A, 5)
    wait_for("5 to be free", lambda: lab.pool()["types"][FAR_END_USERS]["free"] == 5, seconds=60)
    lab.allocate(B, far_end_users=11)
    lab.allocate(C, far_end_users=4)
    restart(lab, B, 11)
    restart(lab, C, 4)
    then = {A: range(6, 8), B: range(41, 46), C: range(51, 55)}
    # A is full, B has 8 and room for 3, C has 2 and room for 2.
    assert registering(lab, then) == {A: (0, 2), B: (3, 2), C: (2, 2)}
    assert {name: lab.gate(name)["users"] for name in (A, B, C)} == {A: 5, B: 11, C: 4}
    changes = [c for name in (A, B, C) for c in enforced(lab, name, FAR_END_USERS)]
    assert most(changes) == 20


# -- a tenant of 500 sessions, and two devices that use them all


def test_a_tenant_of_500_serves_the_third_device_once_calls_fall_to_450(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(Plan(apply="live"))
    buy(lab, sbc_sessions=600)  # what is free beside the tenant is not for it
    lab.call("POST", "/tenants", {"name": "t1", "shares": {"sbc_sessions": 500}})
    for name in (A, B, C):
        lab.call("PATCH", f"/devices/{name}", {"tenant": "t1"})
    for name in (A, B):
        lab.allocate(name, sbc_sessions=250)
        lab.await_actual(name, SBC_SESSIONS, 250)

    async def story() -> None:
        staying = [await caller(lab.sip(n), calls=225, rate=60, hold_ms=240_000) for n in (A, B)]
        leaving = [await caller(lab.sip(n), calls=25, rate=60, hold_ms=40_000) for n in (A, B)]
        await until("A and B to be full", lambda: sessions(lab, A) + sessions(lab, B) == 500)

        with pytest.raises(CallpoolError) as caught:
            lab.allocate(C, sbc_sessions=50)
        assert caught.value.code == "tenant_exceeded"
        asked = lab.call("PUT", f"/devices/{C}/allocation?wait=true", {"sbc_sessions": 50})
        assert asked["waiting"] is True
        # Out of service, and both sides say why.
        (request,) = lab.call("GET", "/requests")["requests"]
        assert (request["device"], request["state"]) == (C, "waiting")
        assert "50 are missing" in request["why"][SBC_SESSIONS]
        await until("C to know", lambda: lab.status(C)["waiting"])
        status = lab.status(C)
        assert status["in_service"] is False
        assert "50 are missing" in status["waiting"][0]["sentence"]
        refused = await (await caller(lab.sip(C), calls=3, rate=50)).wait(60)
        assert refused.answers == {503: 3}
        # A and B are untouched for as long as their calls are up.
        assert lab.counts("actual", SBC_SESSIONS) == {A: 250, B: 250, C: 0}

        results = [await sipp.wait(120) for sipp in leaving]
        assert [(r.completed, r.failed) for r in results] == [(25, 0), (25, 0)]
        await until("C to be in service", lambda: lab.status(C)["in_service"])
        lab.await_actual(C, SBC_SESSIONS, 50)
        assert lab.counts("actual", SBC_SESSIONS) == {A: 225, B: 225, C: 50}
        assert lab.call("GET", "/requests")["requests"] == []
        assert lab.status(C)["waiting"] == []
        admitted = await (await caller(lab.sip(C), calls=60, rate=60, hold_ms=5000)).wait(90)
        assert admitted.admitted == 50
        assert admitted.answers.get(503) == 10
        # No call was cut for it, and nothing comes back to A or B by itself.
        assert all(sipp.running for sipp in staying)
        assert sessions(lab, A) + sessions(lab, B) == 450
        assert lab.counts("actual", SBC_SESSIONS) == {A: 225, B: 225, C: 50}
        for sipp in staying:
            await sipp.stop()

    asyncio.run(story())
    names = (A, B, C)
    assert most([c for name in names for c in enforced(lab, name, SBC_SESSIONS)]) == 500
    assert most(calls_up(lab, names)) <= 500
