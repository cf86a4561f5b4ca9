"""`reconnect_storm_s`: a whole fleet calls at once; how long until every device has a fresh lease.

One manager process on SQLite and `--devices` real device cores without SIP (`callpool lab fleet`)
on the same machine: both sides' work, TLS handshakes included, is in the figure, and on two cores
the fleet takes the larger half of it. The devices are enrolled first, through the manager's own
doors. Then all call: one event loop cannot be so many machines, so at most `--window` requests are
under way at a time, more than the manager has places for.

What counts is the second figure, `errors`: devices that obeyed Retry-After and met an error all the
same, or came sooner than they were told. The aim is 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from callpool.lab.simulated_fleet import SimulatedFleet
from callpool.manager.client import Connection
from callpool.manager.core import Manager
from callpool.manager.settings import Layout, Settings


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024.0
    return 0.0


async def storm(fleet: SimulatedFleet, pid: int, limit: float, window: int) -> dict[str, object]:
    begun = time.monotonic()
    await asyncio.to_thread(fleet.make, tell)
    fleet.compose()
    made = time.monotonic()
    await fleet.enrol(tell)
    enrolled = time.monotonic()
    await asyncio.sleep(2.0)
    figures, cpu = fleet.figures, cpu_seconds(pid)
    asked, answered = figures.asked, figures.contacts
    figures.durations.clear()
    figures.failures.clear()
    at = time.monotonic()
    since = time.time()
    calling = asyncio.create_task(fleet.all_at_once(window))
    half = 0.0
    while (fresh := fleet.fresh(since)) < fleet.count and time.monotonic() < at + limit:
        if not half and fresh * 2 >= fleet.count:
            half = time.monotonic() - at
        tell(f"{time.monotonic() - at:5.0f} s  {fresh} fresh  {dict(figures.failures)}")
        await asyncio.sleep(1.0)
    took = time.monotonic() - at
    await calling
    contacts = figures.contacts - answered
    told: dict[str, object] = {
        "fresh": fleet.fresh(since),
        "seconds": took,
        "half": half or took,
        "contacts": contacts,
        "asked": figures.asked - asked,
        "put_off": figures.failures["overloaded"],
        "errors": figures.errors,
        "wrong": figures.obeyed_and_failed + figures.too_soon,
        "longest": figures.longest,
        "p99": figures.percentile(0.99),
        "cpu_ms": 1000 * (cpu_seconds(pid) - cpu) / max(contacts, 1),
        "enrolled_per_second": fleet.count / (enrolled - made),
        "make": made - begun,
    }
    await fleet.close()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=2_000, help="100,000 for the whole figure")
    parser.add_argument("--limit", type=float, default=3_600.0, help="seconds until it gives up")
    parser.add_argument("--window", type=int, default=1_000, help="requests under way at once")
    parser.add_argument("--dir", default=None, help="where files lie; /dev/shm spares the disk")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=said.dir) as directory:
        layout = Layout(Path(directory) / "manager")
        # Reports of use every hour: the storm alone is to be measured.
        Manager.create(layout, Settings(listen="127.0.0.1:0", usage_seconds=3600.0)).close()
        manager = subprocess.Popen(
            [sys.executable, "-m", "callpool", "manager", "run", "--dir", str(layout.directory)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert manager.stdout is not None
            url = manager.stdout.readline().split()[-1]
            connection = Connection(
                url=url,
                ca_file=str(layout.ca),
                username="admin",
                password=layout.password.read_text().strip(),
            )
            fleet = SimulatedFleet(Path(directory) / "fleet", connection, devices=said.devices)
            told = asyncio.run(storm(fleet, manager.pid, said.limit, said.window))
            memory = memory_mb(manager.pid)
        finally:
            manager.terminate()
            manager.wait()
    figure = {
        "name": "reconnect_storm_s",
        "ours": round(float(str(told["seconds"])), 1),
        "peer": None,
        "ratio": None,
        "interval": None,
        "unit": "s",
        "how": f"{said.devices} devices, {said.window} requests at once, {told['fresh']} fresh, "
        f"half of them after {told['half']:.1f} s; {told['asked']} requests, {told['put_off']} put "
        f"off (longest {told['longest']:.0f} s), 99th percentile {told['p99']:.2f} s, manager "
        f"{told['cpu_ms']:.2f} ms CPU a contact and {memory:.0f} MB at most; "
        f"{told['enrolled_per_second']:.0f} enrolments/s before",
    }
    print(json.dumps(figure))
    errors = {
        "name": "reconnect_storm_errors",
        "ours": told["wrong"],
        "peer": None,
        "ratio": None,
        "interval": None,
        "unit": "devices",
        "how": "devices that obeyed Retry-After and met an error, or came too soon; aim 0; "
        f"{told['errors']} errors in all",
    }
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
