"""`waiting_to_in_service_ms`: from the call that ends to the first INVITE that C then admits.

The seed's tenant on a small scale: A and B use all they have, C waits for 10 sessions
(`allocate --wait`) and refuses every call. Calls end one by one until A and B together use 10
fewer; the time counts from when their gates say so. Each round has a lab of its own. No peer does
this; the figure stands alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

from allocate_to_enforced import Prober
from callpool.host.sipp import caller
from callpool.lab.fleet import Plan, down, up
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import SBC_SESSIONS

EACH, WANTED = 30, 10
#: Milliseconds that the calls are up which end first.
HOLD_MS = 6000


async def one(lab: LabHandle, prober: Prober) -> float:
    """Play one round; return its time in milliseconds."""
    now = int(time.time())
    lab.buy({SBC_SESSIONS: 2 * EACH}, starts=now - 60, ends=now + 86_400)
    for name in ("sbc-a", "sbc-b"):
        lab.allocate(name, sbc_sessions=EACH)
        lab.await_actual(name, SBC_SESSIONS, EACH)
    half = WANTED // 2
    staying = [
        await caller(lab.sip(n), calls=EACH - half, rate=200, hold_ms=60_000)
        for n in ("sbc-a", "sbc-b")
    ]
    leaving = [
        await caller(lab.sip(n), calls=half, rate=200, hold_ms=HOLD_MS) for n in ("sbc-a", "sbc-b")
    ]

    def used() -> int:
        return sum(int(lab.gate(name)["sessions"]) for name in ("sbc-a", "sbc-b"))

    await asyncio.to_thread(wait_for, "A and B to be full", lambda: used() == 2 * EACH, seconds=30)
    lab.call("PUT", "/devices/sbc-c/allocation?wait=true", {SBC_SESSIONS: WANTED})
    seen: list[float] = []
    watcher = threading.Thread(target=lambda: seen.append(prober.until_admitted(60, admitted=200)))
    watcher.start()

    def fallen() -> float:
        while used() > 2 * EACH - WANTED:
            time.sleep(0.01)
        return time.perf_counter()

    at = await asyncio.to_thread(fallen)
    await asyncio.to_thread(watcher.join)
    for sipp in [*staying, *leaving]:
        await sipp.stop()
    return (seen[0] - at) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    times = []
    for _ in range(rounds):
        directory = Path(tempfile.mkdtemp(prefix="cp-"))
        try:
            up(directory, Plan(apply="live"), lambda _: None)
            lab = LabHandle(directory)
            times.append(asyncio.run(one(lab, Prober(lab.sip("sbc-c")))))
        finally:
            if (directory / "lab.json").exists():
                down(directory)
            shutil.rmtree(directory, ignore_errors=True)
    times.sort()
    figure = {
        "name": "waiting_to_in_service_ms",
        "ours": round(statistics.median(times), 1),
        "peer": None,
        "ratio": None,
        "interval": {"min": round(times[0], 1), "max": round(times[-1], 1)},
        "unit": "ms, median",
        "how": f"{len(times)} rounds: A and B use {2 * EACH} sessions, C waits for {WANTED}; from "
        f"their calls falling to {2 * EACH - WANTED} to the first INVITE that C admits",
    }
    print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
