"""`cold_start_ms`: from the start of manager and device to the first call that is admitted.

One lab with one device that holds licenses of the pool. Each round ends both in the orderly way
(Kamailio with the device), starts both at once and offers SIPp calls, one after the other, until
one has been set up, admitted and ended; SIPp's own start is in the figure. The device is admitted
by its flash, so it waits for no manager; `cold_start_manager_ms` is the manager's own start to the
device's first good contact, with the device up already. No peer does this; the figures stand alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from callpool.host.sipp import SippError, caller
from callpool.lab.fleet import Plan, down, up
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import SBC_SESSIONS
from callpool.licensing.errors import CallpoolError

DEVICE = "sbc-a"


def end(lab: LabHandle, name: str) -> None:
    lab.send(name, signal.SIGTERM)
    wait_for(f"{name} to end", lambda: not lab.alive(name), seconds=60)


def contacted(lab: LabHandle, after: float) -> bool:
    try:
        lab.ask(DEVICE, "pull")
        return float(lab.status(DEVICE)["last_contact"] or 0.0) >= after
    except CallpoolError:
        return False


async def first_call(lab: LabHandle, limit: float = 60.0) -> None:
    """Offer calls by SIPp, over TCP so that it hears at once that nobody listens yet."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        sipp = await caller(lab.sip(DEVICE), calls=1, rate=100, scenario="uac", transport="tcp")
        try:
            result = await sipp.wait(20)
        except SippError:
            continue
        if result.completed == 1:
            return
    raise SystemExit("no call was admitted in time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    devices, managers = [], []
    try:
        up(directory, Plan(names=(DEVICE,), apply="live"), lambda _: None)
        lab = LabHandle(directory)
        now = int(time.time())
        lab.buy({SBC_SESSIONS: 10}, starts=now - 60, ends=now + 86_400)
        lab.allocate(DEVICE, sbc_sessions=10)
        lab.await_actual(DEVICE, SBC_SESSIONS, 10)
        for _ in range(rounds):
            end(lab, DEVICE)
            end(lab, "manager")
            begun = time.perf_counter()
            lab.start("manager")
            lab.start(DEVICE)
            asyncio.run(first_call(lab))
            devices.append(1000 * (time.perf_counter() - begun))
            lab.await_manager()
            end(lab, "manager")
            begun, wall = time.perf_counter(), time.time()
            lab.start("manager")
            wait_for("a contact", partial(contacted, lab, wall), seconds=60)
            managers.append(1000 * (time.perf_counter() - begun))
    finally:
        down(directory)
        shutil.rmtree(directory, ignore_errors=True)
    for name, values, how in (
        (
            "cold_start_ms",
            devices,
            "manager and device start together; to the end of the first SIPp call",
        ),
        ("cold_start_manager_ms", managers, "to the first good contact of a device that is up"),
    ):
        figure = {
            "name": name,
            "ours": round(statistics.median(values)),
            "peer": None,
            "ratio": None,
            "interval": [round(min(values)), round(max(values))],
            "unit": "ms",
            "how": f"median of {rounds} rounds, interval: least and most; {how}",
        }
        print(json.dumps(figure))


if __name__ == "__main__":
    main()
