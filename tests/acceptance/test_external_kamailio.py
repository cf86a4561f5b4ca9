"""A Kamailio of somebody else's, with the gate merged in, under a whole device."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lawkit import calls_up, most

from callpool.host.process import ProcessId, end_group, is_alive
from callpool.host.sipp import caller
from callpool.lab.fleet import Plan, down, up
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import SBC_SESSIONS

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "existing-kamailio.cfg"

#: What a unit file says: KillMode=control-group, ExecStartPre=callpool gate seed, ExecStart.
SERVICE = """#!{python}
import json, pathlib, subprocess, sys
from callpool.host.process import ProcessId, end_group, identify
place = pathlib.Path(__file__).parent
gate = place / "sbc-a" / "gate"
config, note = place / "existing.cfg", place / "leader"
if not config.exists():
    settings = json.loads((place / "sbc-a.gate.json").read_text())
    text = pathlib.Path({example!r}).read_text()
    config.write_text(
        text.replace("/var/lib/callpool/gate", str(gate))
        .replace("127.0.0.1:5060", settings["listen"][0].removeprefix("udp:"))
        .replace("127.0.0.1:5070", "127.0.0.1:%d" % settings["destinations"][0]["port"])
    )
if note.exists():
    pid, started = map(int, note.read_text().split())
    end_group(ProcessId(pid=pid, started=started), str(config), grace=1.0)
subprocess.run([sys.executable, "-m", "callpool", "gate", "seed", str(gate)], check=True)
log = (place / "log" / "kamailio.log").open("ab")
child = subprocess.Popen(
    ["kamailio", "-f", str(config), "-DD", "-E", "-m", "64", "-Y", str(place)],
    stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
)
note.write_text(f"{{child.pid}} {{identify(child.pid).started}}")
"""


def leader(directory: Path) -> ProcessId:
    pid, started = map(int, (directory / "leader").read_text().split())
    return ProcessId(pid=pid, started=started)


@pytest.fixture
def lab() -> Iterator[LabHandle]:
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    service = directory / "service"
    service.write_text(SERVICE.format(python=sys.executable, example=str(EXAMPLE)))
    service.chmod(0o700)
    gate: tuple[tuple[str, Any], ...] = (
        ("mode", "external"),
        ("restart_command", [str(service)]),
        ("users", {}),
    )
    try:
        up(directory, Plan(names=("sbc-a",), gate=gate), lambda _: None)
        yield LabHandle(directory)
    finally:
        if (directory / "lab.json").exists():
            down(directory)
        if (directory / "leader").exists():
            end_group(leader(directory), str(directory / "existing.cfg"))
        shutil.rmtree(directory, ignore_errors=True)


def test_licenses_travel_into_an_existing_kamailio_and_calls_outlive_its_restarts(
    lab: LabHandle,
) -> None:
    now = int(time.time())
    lab.buy({SBC_SESSIONS: 6}, starts=now - 60, ends=now + 86_400)
    lab.allocate("sbc-a", sbc_sessions=6)
    wait_for("Remote", lambda: lab.row("sbc-a", SBC_SESSIONS)["remote"] == 6, seconds=60)
    first = leader(lab.directory)
    lab.call("POST", "/devices/sbc-a/restart", {"save": True})
    lab.await_actual("sbc-a", SBC_SESSIONS, 6)
    assert leader(lab.directory) != first
    assert not is_alive(first)

    async def story() -> None:
        long = await caller(lab.sip("sbc-a"), calls=2, rate=20, hold_ms=45_000)
        await asyncio.to_thread(
            wait_for, "2 calls", lambda: lab.gate("sbc-a")["sessions"] == 2, seconds=60
        )
        second = leader(lab.directory)
        lab.ask("sbc-a", "restart", save=False)
        assert leader(lab.directory) != second
        assert lab.gate("sbc-a")["sessions"] == 2
        # The core dead, somebody restarts the service by hand: the seed is the core's book,
        # and what nobody can know counts as used (law 3).
        lab.send("sbc-a", signal.SIGKILL)
        third = leader(lab.directory)
        service = await asyncio.create_subprocess_exec(str(lab.directory / "service"))
        assert await service.wait() == 0
        assert leader(lab.directory) != third
        fill = await caller(lab.sip("sbc-a"), calls=12, rate=50, hold_ms=6000)
        filled = await fill.wait(60)
        assert filled.admitted <= 4
        assert filled.admitted + filled.answers.get(503, 0) == 12
        result = await long.wait(120)
        assert (result.completed, result.failed) == (2, 0)

    asyncio.run(story())
    assert most(calls_up(lab, ["sbc-a"])) <= 6
    lab.start("sbc-a")
    lab.await_device("sbc-a")
    gate = lab.gate("sbc-a")
    assert gate["sessions"] == gate["uncertain"] <= 4
    assert "calls_uncertain" in {a["code"] for a in lab.status("sbc-a")["alarms"]}
