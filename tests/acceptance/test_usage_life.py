"""The operator acts on trends: calls for days, a tenant that is short and one that can spare."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

from lawkit import LabMaker

from callpool.host.sipp import caller
from callpool.lab.fleet import Plan
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import SBC_SESSIONS
from callpool.licensing.errors import CallpoolError

DAYS = 5


def command(lab: LabHandle, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "callpool", *words],
        capture_output=True, text=True, timeout=180, check=False,
        env={**os.environ, "CALLPOOL_LAB": str(lab.directory), "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def usage(lab: LabHandle, *words: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(command(lab, "pool", "usage", *words, "--json"))
    return told


def row(told: dict[str, Any], device: str) -> dict[str, Any]:
    return next(d for d in told["devices"] if (d["device"], d["type"]) == (device, SBC_SESSIONS))


async def busy_hour(lab: LabHandle, day: int) -> None:
    """sbc-a carries a call less each day; sbc-b is full, and two callers are turned away."""
    calm = await caller(lab.sip("sbc-a"), calls=10 - day, rate=100, hold_ms=3000)
    full = await caller(lab.sip("sbc-b"), calls=4, rate=100, hold_ms=9_000)

    def is_full() -> bool:
        return int(lab.row("sbc-b", SBC_SESSIONS)["in_use"]) == 4

    await asyncio.to_thread(wait_for, "sbc-b to be full", is_full, seconds=8)
    for name in ("x", "y"):
        # A process of its own each: another caller. His second call is a repeat.
        denied = await caller(lab.sip("sbc-b"), calls=2, rate=100, name=f"{name}{day}")
        assert (await denied.wait(60)).refused == 2
    assert (await calm.wait(60)).admitted == 10 - day
    await full.wait(60)


def test_days_of_calls_tell_who_is_short_and_who_can_spare(make_lab: LabMaker) -> None:
    lab = make_lab(Plan(names=("sbc-a", "sbc-b"), apply="live"))
    now = int(time.time())
    lab.buy({SBC_SESSIONS: 30}, starts=now - 60, ends=now + 365 * 86_400)
    lab.allocate("sbc-a", sbc_sessions=20)
    lab.allocate("sbc-b", sbc_sessions=4)
    lab.await_actual("sbc-a", SBC_SESSIONS, 20)
    lab.await_actual("sbc-b", SBC_SESSIONS, 4)
    assert row(usage(lab), "sbc-b")["answer"] == "too little data"
    # Ten in the morning: no busy hour lies across midnight.
    to_ten = int(10 * 3600 - time.time()) % 86_400 + 1
    command(lab, "lab", "clock", "advance", f"{to_ten}s", "--dir", str(lab.directory))

    for day in range(DAYS):
        asyncio.run(busy_hour(lab, day))
        command(lab, "lab", "clock", "advance", "6m", "--dir", str(lab.directory))
        told = 2 * (day + 1)

        def reported(told: int = told) -> bool:
            return int(row(lab.call("GET", "/usage/advice"), "sbc-b")["refused"]) >= told

        try:
            wait_for("the day's refusals to be reported", reported, seconds=20)
        except CallpoolError:
            # A contact that the jump of a day broke off is tried again after 15 minutes.
            command(lab, "lab", "clock", "advance", "17m", "--dir", str(lab.directory))
            wait_for("the day's refusals to be reported", reported, seconds=60)
        command(lab, "lab", "clock", "advance", "1d", "--dir", str(lab.directory))

    command(lab, "lab", "clock", "advance", "6m", "--dir", str(lab.directory))

    def settled() -> bool:
        last = row(lab.call("GET", "/usage/advice"), "sbc-a")["last"]
        return float(last or 0) > now + DAYS * 86_400 - 7200

    wait_for("the last report", settled, seconds=60)
    found = usage(lab, "--since", "30d", "--by", "hour")
    short, calm = row(found, "sbc-b"), row(found, "sbc-a")
    assert (short["verdict"], short["refused"], short["repeated"]) == ("short", 2 * DAYS, 2 * DAYS)
    assert (short["peak"], short["days_refused"]) == (4, DAYS)
    assert short["needs"] > 4
    assert [s["device"] for s in found["is_short"]] == ["sbc-b"]
    assert (calm["verdict"], calm["peak"], calm["refused"]) == ("spare", 10, 0)
    # 10 and a tenth stay.
    assert (calm["spare"], calm["trend"]) == (9, -1.0)
    assert [s["device"] for s in found["can_spare"]] == ["sbc-a"]
    course = next(s for s in found["series"] if (s["device"], s["type"]) == ("sbc-a", SBC_SESSIONS))
    assert max(p["peak"] for p in course["points"]) == 10
    assert sum(p["admitted"] for p in course["points"]) == sum(range(6, 11))
    text = command(lab, "pool", "usage", "--since", "30d")
    assert "sbc-a, sbc_sessions: can spare 9 (peak 10 of 20" in text
    assert f"sbc-b, sbc_sessions: short: {2 * DAYS} true refusals on {DAYS} days" in text
