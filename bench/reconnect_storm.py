"""`reconnect_storm_s`: a whole fleet calls at once; how long until every device has a fresh lease.

One manager process on SQLite and `--devices` real device cores without SIP (`callpool lab fleet`)
on the same machine: both sides' work, TLS handshakes included, is in the figure, and on two cores
the fleet takes the larger half of it. The devices are enrolled first, through the manager's own
doors. Then all call: an event loop or two cannot be so many machines, so at most `--window`
requests are under way at a time, more than the manager has places for.

What counts is the second figure, `errors`: devices that obeyed Retry-After and met an error all the
same, or came sooner than they were told. The aim is 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process of the fleet does, and with whom it keeps step."""

    directory: Path
    connection: Connection
    first: int
    devices: int
    window: int
    limit: float
    made: Any
    enrolled: Any
    results: Any


def part(given: Part) -> None:
    """Be one part of the fleet."""
    given.results.put(asyncio.run(storm(given)))


async def storm(given: Part) -> dict[str, float]:
    fleet = SimulatedFleet(
        given.directory, given.connection, devices=given.devices, first=given.first
    )
    await asyncio.to_thread(fleet.make, tell)
    fleet.compose()
    await asyncio.to_thread(given.made.wait)
    await fleet.enrol(tell)
    await asyncio.to_thread(given.enrolled.wait)
    figures = fleet.figures
    asked, answered = figures.asked, figures.contacts
    figures.durations.clear()
    figures.failures.clear()
    at, since = time.monotonic(), time.time()
    calling = asyncio.create_task(fleet.all_at_once(given.window))
    half = 0.0
    while (fresh := fleet.fresh(since)) < fleet.count and time.monotonic() < at + given.limit:
        if not half and fresh * 2 >= fleet.count:
            half = time.monotonic() - at
        tell(f"{time.monotonic() - at:5.0f} s  {fresh} fresh  {dict(figures.failures)}")
        await asyncio.sleep(1.0)
    took = time.monotonic() - at
    await calling
    told = {
        "seconds": took,
        "half": half or took,
        "fresh": fleet.fresh(since),
        "contacts": figures.contacts - answered,
        "asked": figures.asked - asked,
        "put_off": figures.failures["overloaded"],
        "errors": figures.errors,
        "wrong": figures.obeyed_and_failed + figures.too_soon,
        "longest": figures.longest,
        "p99": figures.percentile(0.99),
        "memory": memory_mb(os.getpid()),
    }
    tell(f"done: {told}")
    await fleet.close()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=2_000, help="100,000 for the whole figure")
    parser.add_argument("--limit", type=float, default=3_600.0, help="seconds until it gives up")
    parser.add_argument("--window", type=int, default=1_000, help="requests under way at once")
    parser.add_argument("--parts", type=int, default=2, help="processes that the fleet is in")
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
            told = parts(said, connection, Path(directory) / "fleet", manager.pid)
            memory = memory_mb(manager.pid)
        finally:
            manager.terminate()
            manager.wait()
    figure = {
        "name": "reconnect_storm_s",
        "ours": round(told["seconds"], 1),
        "peer": None,
        "ratio": None,
        "interval": None,
        "unit": "s",
        "how": f"{said.devices} devices in {said.parts} processes of {told['memory']:.0f} MB at "
        f"most, {said.window} requests at once, {told['fresh']:.0f} fresh, half of them after "
        f"{told['half']:.1f} s; {told['asked']:.0f} requests, {told['put_off']:.0f} put off "
        f"(longest {told['longest']:.0f} s), 99th percentile {told['p99']:.2f} s, manager "
        f"{told['cpu_ms']:.2f} ms CPU a contact and {memory:.0f} MB at most; "
        f"{told['enrolled_per_second']:.0f} enrolments/s before",
    }
    print(json.dumps(figure))
    errors = {
        "name": "reconnect_storm_errors",
        "ours": round(told["wrong"]),
        "peer": None,
        "ratio": None,
        "interval": None,
        "unit": "devices",
        "how": "devices that obeyed Retry-After and met an error, or came too soon; aim 0; "
        f"{told['errors']:.0f} errors in all",
    }
    print(json.dumps(errors))


def parts(
    said: argparse.Namespace, connection: Connection, root: Path, manager: int
) -> dict[str, float]:
    """Run the parts of the fleet in step; return the sums, or the worst of them."""
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    made, enrolled = spawn.Barrier(said.parts + 1), spawn.Barrier(said.parts + 1)
    bounds = [said.devices * n // said.parts for n in range(said.parts + 1)]
    fleet = [
        spawn.Process(
            target=part,
            daemon=True,
            args=(
                Part(
                    directory=root,
                    connection=connection,
                    first=first,
                    devices=end - first,
                    window=said.window // said.parts,
                    limit=said.limit,
                    made=made,
                    enrolled=enrolled,
                    results=results,
                ),
            ),
        )
        for first, end in pairwise(bounds)
    ]
    for process in fleet:
        process.start()
    made.wait()
    at = time.monotonic()
    enrolled.wait()
    enrolling, cpu = time.monotonic() - at, cpu_seconds(manager)
    told = [results.get() for _ in fleet]
    cpu = cpu_seconds(manager) - cpu
    for process in fleet:
        process.join()
    worst = ("seconds", "half", "longest", "p99", "memory")
    found = {key: (max if key in worst else sum)(t[key] for t in told) for key in told[0]}
    found["cpu_ms"] = 1000 * cpu / max(found["contacts"], 1.0)
    found["enrolled_per_second"] = said.devices / enrolling
    return found


if __name__ == "__main__":
    main()
