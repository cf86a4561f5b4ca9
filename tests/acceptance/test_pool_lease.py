"""The device's side of the Fixed License Pool, with real processes and the lab's clock."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lawkit import LabMaker

from callpool.host.clock import LabClock
from callpool.host.ports import free_port
from callpool.host.sipp import SippResult, caller, register
from callpool.lab.fleet import MAXIMUM, REALM, Plan, user_name, user_password
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import FAR_END_USERS, SBC_SESSIONS
from callpool.licensing.errors import CallpoolError

DAY = 86_400.0
LOCAL = ("sbc_sessions=5", *MAXIMUM, "--feature", "test_call")
ONE = Plan(names=("sbc-a",), apply="live", key_options=LOCAL)
TWO = Plan(names=("sbc-a", "sbc-b"), apply="live", key_options=LOCAL)


def buy(lab: LabHandle, **counts: int) -> None:
    now = int(time.time())
    lab.buy(counts, starts=now - 60, ends=now + 400 * int(DAY))


def alarms(lab: LabHandle, name: str = "sbc-a") -> set[str]:
    return {a["code"] for a in lab.status(name)["alarms"]}


def sessions(lab: LabHandle, name: str = "sbc-a") -> int:
    return int(lab.gate(name)["sessions"])


def eventually(what: str, condition: Callable[[], bool], seconds: float = 90) -> None:
    wait_for(what, condition, seconds=seconds)


def told(lab: LabHandle, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Type a `callpool device` command at sbc-a."""
    command = [sys.executable, "-m", "callpool", "device", *words]
    directory = ["--dir", lab.device("sbc-a").directory]
    return subprocess.run(
        [*command, *directory], capture_output=True, text=True, timeout=150, env=environment or None
    )


def unit(lab: LabHandle, name: str = "sbc-a") -> dict[str, Any]:
    device = next(d for d in lab.pool()["devices"] if d["name"] == name)
    return dict(device["units"][0])


def with_calls_up(lab: LabHandle, calls: int, hold_ms: int, story: Callable[[], None]) -> None:
    """Run `story` while `calls` are up at sbc-a; each of them lives to its own end (law 2)."""

    async def run() -> SippResult:
        sipp = await caller(lab.sip("sbc-a"), calls=calls, rate=50, hold_ms=hold_ms)
        await asyncio.to_thread(eventually, "the calls to be up", lambda: sessions(lab) == calls)
        await asyncio.to_thread(story)
        assert sipp.running, "the calls ended before the story did"
        return await sipp.wait(hold_ms / 1000 + 60)

    result = asyncio.run(run())
    assert (result.completed, result.failed) == (calls, 0)


def test_a_device_cut_off_for_8_days_falls_to_its_local_key_and_comes_back_by_itself(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(ONE)
    clock = LabClock(Path(lab.lab.clock))
    buy(lab, sbc_sessions=10)
    lab.allocate("sbc-a", sbc_sessions=10)
    lab.await_actual("sbc-a", SBC_SESSIONS, 15, seconds=60)

    def eight_days() -> None:
        lab.kill("manager")
        clock.advance(DAY)
        eventually("contact to be missed", lambda: "contact_lost" in alarms(lab))
        assert "lease_warning" not in alarms(lab)
        clock.advance(4.5 * DAY)
        assert "lease_warning" not in alarms(lab)
        assert lab.row("sbc-a", SBC_SESSIONS)["actual"] == 15
        clock.advance(0.9 * DAY)
        eventually("the warning below one day", lambda: "lease_warning" in alarms(lab))
        severity = {a["code"]: a["severity"] for a in lab.status("sbc-a")["alarms"]}
        assert severity["lease_warning"] == "critical"
        assert lab.row("sbc-a", SBC_SESSIONS)["actual"] == 15
        kamailio = lab.kamailio_pid("sbc-a")
        clock.advance(1.6 * DAY)
        lab.await_actual("sbc-a", SBC_SESSIONS, 5, seconds=60)
        eventually(
            "the SIP service to restart",
            lambda: lab.kamailio_pid("sbc-a") not in (0, kamailio),
        )
        lab.await_device("sbc-a")
        row = lab.row("sbc-a", SBC_SESSIONS)
        assert (row["remote"], row["local"], row["in_use"]) == (0, 5, 12)
        assert lab.status("sbc-a")["lease_end"] is None
        assert "lease_warning" not in alarms(lab)

    with_calls_up(lab, 12, 60_000, eight_days)
    lab.start("manager")
    lab.await_manager()
    lab.await_actual("sbc-a", SBC_SESSIONS, 15, seconds=150)
    assert "contact_lost" not in alarms(lab)


def test_a_factory_reset_frees_the_share_and_the_device_enrols_again_by_an_unlock_token(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(TWO)
    buy(lab, sbc_sessions=10)
    lab.allocate("sbc-a", sbc_sessions=10)
    lab.await_actual("sbc-a", SBC_SESSIONS, 15, seconds=60)
    serial = lab.device("sbc-a").serial
    wrong = told(lab, "factory-reset", "--serial", "SBC-B", "--json")
    assert wrong.returncode != 0
    assert "wrong_serial" in wrong.stdout + wrong.stderr
    assert lab.row("sbc-a", SBC_SESSIONS)["actual"] == 15

    def reset() -> None:
        done = told(lab, "factory-reset", "--serial", serial)
        assert done.returncode == 0, done.stderr
        assert "The license server knows it." in done.stdout
        status = lab.status("sbc-a")
        assert (status["enrolled"], status["server_status"]) == (False, "Not enrolled")
        row = lab.row("sbc-a", SBC_SESSIONS)
        assert (row["remote"], row["local"], row["actual"], row["in_use"]) == (0, 5, 5, 3)
        # By its signed word the share is free at once, and can be had elsewhere.
        assert unit(lab)["status"] == "reset"
        assert lab.pool()["types"][SBC_SESSIONS]["free"] == 10
        lab.allocate("sbc-b", sbc_sessions=10)
        lab.await_actual("sbc-b", SBC_SESSIONS, 15, seconds=60)

    with_calls_up(lab, 3, 40_000, reset)
    token = str(lab.call("POST", f"/units/{serial}/unlock", {})["token"])
    assert told(lab, "enrol", CALLPOOL_TOKEN=token).returncode == 0
    eventually("sbc-a to be enrolled", lambda: bool(lab.status("sbc-a")["connected"]))
    assert lab.row("sbc-a", SBC_SESSIONS)["actual"] == 5, "its share is elsewhere"
    # What is allocated to it comes back by itself as soon as it is free.
    lab.allocate("sbc-b", sbc_sessions=0)
    lab.await_actual("sbc-a", SBC_SESSIONS, 15, seconds=60)
    # Without its manager it is reset all the same, and says until when the share is held.
    lab.kill("manager")
    alone = told(lab, "factory-reset", "--serial", serial)
    assert alone.returncode == 0, alone.stderr
    assert "was not told" in alone.stdout
    assert "until the lease ends" in alone.stdout
    assert lab.row("sbc-a", SBC_SESSIONS)["actual"] == 5
    lab.start("manager")
    lab.await_manager()
    assert lab.pool()["types"][SBC_SESSIONS]["free"] == 0


def test_joining_and_leaving_are_done_at_the_manager_and_nothing_is_typed_at_the_device(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(ONE)
    buy(lab, sbc_sessions=10)
    serial = lab.device("sbc-a").serial

    def allocate() -> None:
        lab.allocate("sbc-a", sbc_sessions=10)
        lab.await_actual("sbc-a", SBC_SESSIONS, 15, seconds=60)
        assert lab.status("sbc-a")["server_status"] == "Connected"

    def left(code: str, words: str) -> None:
        lab.await_actual("sbc-a", SBC_SESSIONS, 5, seconds=60)
        eventually(f"the device to say {code}", lambda: code in alarms(lab))
        assert words in lab.status("sbc-a")["server_status"]
        eventually("its share to be free", lambda: lab.pool()["types"][SBC_SESSIONS]["free"] == 10)

    allocate()
    lab.call("PATCH", "/devices/sbc-a", {"mode": "none"})
    left("not_managed", "not managed by the pool")
    lab.call("PATCH", "/devices/sbc-a", {"mode": "fixed"})
    lab.await_actual("sbc-a", SBC_SESSIONS, 15, seconds=60)
    lab.call("DELETE", "/devices/sbc-a")
    left("not_listed", "not listed in the pool")
    lab.call("POST", "/devices", {"name": "sbc-a", "serials": [serial], "apply": "live"})
    allocate()
    assert not {"not_listed", "not_managed"} & alarms(lab)


def test_a_device_in_smart_mode_is_given_nothing_of_the_pool(make_lab: LabMaker) -> None:
    lab = make_lab(ONE)
    buy(lab, sbc_sessions=10)
    lab.smart("sbc-a", "enable")
    eventually("the manager to know", lambda: unit(lab)["mode"] == "smart")
    notes = lab.allocate("sbc-a", sbc_sessions=10)["notes"]
    assert any("smart mode" in note for note in notes)
    assert lab.pool()["types"][SBC_SESSIONS]["free"] == 10
    with pytest.raises(CallpoolError) as caught:
        lab.ask("sbc-a", "floating", on=True)
    assert caught.value.code == "managed_by_smart"
    lab.smart("sbc-a", "disable")
    lab.await_actual("sbc-a", SBC_SESSIONS, 15, seconds=60)
    with pytest.raises(CallpoolError) as caught:
        lab.smart("sbc-a", "enable")
    assert caught.value.code == "mode_fixed"
    refused = told(lab, "floating", "enable", "--json")
    assert refused.returncode != 0
    assert "managed_by_license_pool" in refused.stdout + refused.stderr


def test_a_cap_below_the_users_registered_blocks_only_new_ones(make_lab: LabMaker) -> None:
    lab = make_lab(ONE)
    buy(lab, far_end_users=20)
    lab.allocate("sbc-a", far_end_users=10)
    lab.await_actual("sbc-a", FAR_END_USERS, 10, seconds=60)

    # The phones keep their addresses: a refresh is of the same contact.
    port = free_port()

    def offer(first: int, last: int, expires: int = 600) -> tuple[int, int]:
        async def run() -> SippResult:
            users = {user_name(n): user_password(n) for n in range(first, last + 1)}
            sipp = await register(lab.sip("sbc-a"), users, realm=REALM, expires=expires, port=port)
            return await sipp.wait(60)

        result = asyncio.run(run())
        return result.admitted, result.refused

    def users() -> int:
        return int(lab.gate("sbc-a")["users"])

    assert offer(1, 12) == (10, 2)
    eventually("10 users", lambda: users() == 10)
    lab.allocate("sbc-a", far_end_users=4)
    lab.await_actual("sbc-a", FAR_END_USERS, 4, seconds=60)
    # Nobody is thrown out: their units stay with the device while they are registered.
    assert users() == 10
    assert lab.pool()["types"][FAR_END_USERS]["reclaiming"] == 6
    assert offer(1, 10) == (10, 0), "every refresh passes"
    assert offer(13, 14) == (0, 2), "and no new one"
    # Six leave, one more registers for a moment: exactly the license is in use again.
    assert offer(1, 7, expires=0) == (7, 0)
    eventually("3 users", lambda: users() == 3)
    assert offer(13, 14, expires=3) == (1, 1)
    eventually("it to expire", lambda: users() == 3)
    eventually("the rest to be free", lambda: lab.pool()["types"][FAR_END_USERS]["free"] == 16)
    assert offer(15, 16) == (1, 1)
