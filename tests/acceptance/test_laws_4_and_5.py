"""Laws 4 and 5: nothing is trusted because it arrived; one record, written first."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lawkit import LabMaker

from callpool.device.control import ask
from callpool.device.flash import Flash
from callpool.device.gate.rpc import Rpc
from callpool.device.record import FlashRecord, open_record
from callpool.device.settings import Layout
from callpool.host.ports import free_port
from callpool.host.process import end_group, identify
from callpool.lab.fleet import Plan
from callpool.lab.handle import LabHandle
from callpool.lab.processes import spawn, stop, wait_for
from callpool.licensing.capacity import SBC_SESSIONS
from callpool.licensing.errors import CallpoolError
from callpool.wire.messages import CONTACT_PATH

LEASE = 12.0


def buy(lab: LabHandle, sessions: int) -> None:
    now = int(time.time())
    lab.buy({SBC_SESSIONS: sessions}, starts=now - 60, ends=now + 86_400)


def stop_device(lab: LabHandle, name: str) -> None:
    lab.ask(name, "stop")
    wait_for(f"{name} to stop", lambda: not lab.alive(name), seconds=60)


def start_fails(directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "callpool", "device", "run", "--dir", str(directory)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_device_copied_to_a_second_machine_is_worth_at_most_one_lease(
    make_lab: LabMaker,
) -> None:
    options = ("--lease-seconds", str(LEASE), "--poll-seconds", "2", "--retry-seconds", "2")
    lab = make_lab(Plan(names=("sbc-a",), apply="live", manager_options=options))
    buy(lab, 10)
    lab.allocate("sbc-a", sbc_sessions=10)
    lab.await_actual("sbc-a", SBC_SESSIONS, 10)
    stop_device(lab, "sbc-a")
    original = Path(lab.device("sbc-a").directory)
    copy = lab.directory / "copy"
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("*.sock"))
    settings = json.loads((copy / "device.json").read_text())
    settings["gate"]["listen"] = [f"udp:127.0.0.1:{free_port()}"]
    settings["pages"] = ""
    (copy / "device.json").write_text(json.dumps(settings))
    lab.start("sbc-a")
    second = spawn(
        "copy",
        [sys.executable, "-m", "callpool", "device", "run", "--dir", str(copy)],
        lab.directory / "log" / "copy.log",
    )

    def of_copy(command: str) -> dict[str, Any]:
        return dict(ask(Layout(copy).control, command, timeout=60.0))

    def actual_of_copy() -> int:
        rows = of_copy("status")["capacity"]
        return int(next(r["actual"] for r in rows if r["type"] == SBC_SESSIONS))

    def both_fell() -> bool:
        try:
            return actual_of_copy() == 0 and lab.row("sbc-a", SBC_SESSIONS)["actual"] == 0
        except CallpoolError:
            return False

    try:
        wait_for("the copy to be noticed", lambda: locked(lab), seconds=60)
        noticed = time.time()
        wait_for("both to fall to their local key", both_fell, seconds=LEASE + 60)
        # Never renewed after it was noticed: at most one lease, and the time to look.
        assert time.time() - noticed < LEASE + 10
        codes = {a["code"] for a in lab.status("sbc-a")["alarms"]} | {
            a["code"] for a in of_copy("status")["alarms"]
        }
        assert "clone_locked" in codes
    finally:
        kamailio = identify(int(of_copy("running")["kamailio_pid"]))
        stop(second, grace=15)
        if kamailio is not None:
            end_group(kamailio, str(copy / "gate" / "kamailio.cfg"))
    # The operator decides for the original: a token by which one machine goes on.
    token = lab.call("POST", f"/units/{lab.device('sbc-a').serial}/unlock")["token"]
    done = subprocess.run(
        [sys.executable, "-m", "callpool", "device", "enrol", "--dir", str(original),
         "--token-file", "-"],
        input=token, text=True, capture_output=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lab.await_actual("sbc-a", SBC_SESSIONS, 10)


def locked(lab: LabHandle) -> bool:
    units = [u for d in lab.pool()["devices"] for u in d["units"]]
    return any(u["locked"] for u in units)


def test_a_flash_that_was_altered_or_belongs_to_another_device_is_refused_by_name(
    make_lab: LabMaker,
) -> None:
    lab = make_lab(Plan(names=("sbc-a", "sbc-b"), apply="live"))
    buy(lab, 10)
    lab.allocate("sbc-a", sbc_sessions=10)
    lab.await_actual("sbc-a", SBC_SESSIONS, 10)
    for name in ("sbc-a", "sbc-b"):
        stop_device(lab, name)
    flash_a, flash_b = (Path(lab.device(n).flash) for n in ("sbc-a", "sbc-b"))
    kept = lab.directory / "kept"
    shutil.copytree(flash_b, kept)
    shutil.rmtree(flash_b)
    shutil.copytree(flash_a, flash_b)
    assert "[flash_foreign]" in start_fails(Path(lab.device("sbc-b").directory))
    for slot in flash_a.iterdir():
        slot.write_bytes(slot.read_bytes().replace(b'"sbc_sessions":10', b'"sbc_sessions":99'))
        slot.write_bytes(slot.read_bytes()[:-40] + b"x" * 40)
    said = start_fails(Path(lab.device("sbc-a").directory))
    assert "[flash_altered]" in said or "[flash_corrupt]" in said
    # Nothing was lost or half done: with its own flash the device starts as before.
    shutil.rmtree(flash_b)
    shutil.copytree(kept, flash_b)
    lab.start("sbc-b")
    lab.await_device("sbc-b")


def journal(directory: Path) -> list[dict[str, Any]]:
    """Return a device's journal."""
    return [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]


def enforced_by_kamailio(gate: Path) -> int:
    """Ask Kamailio itself, without the core, what it admits now."""

    async def look() -> str:
        rpc = Rpc(gate / "rpc.sock", gate / "rpc-test.sock")
        rpc.open()
        try:
            answer = await rpc.call("htable.get", "cp_pol", "p")
        finally:
            rpc.close()
        return str(answer["item"]["value"])

    steps = [step.split(";") for step in asyncio.run(look()).split("/")]
    now = time.time()
    return int(next(s[4] for s in steps if int(s[0]) == 0 or now < int(s[0])))


def record_of(directory: Path) -> FlashRecord:
    """Read the flash without the core."""
    layout = Layout(directory)
    record = Flash(layout.flash, layout.load_secret()).load()
    assert record is not None
    return record


def in_flash(directory: Path) -> int:
    """Read what the flash alone says is applied."""
    opened = open_record(record_of(directory), Layout(directory).load())
    return opened.license.actual_at(time.time()).get(SBC_SESSIONS)


@pytest.mark.parametrize(
    "seed",
    [3, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(4, 10))],
)
def test_a_core_killed_at_any_instant_has_on_disk_what_kamailio_enforces(
    make_lab: LabMaker, seed: int
) -> None:
    lab = make_lab(Plan(names=("sbc-a",), apply="live"))
    buy(lab, 100)
    chosen = random.Random(seed)
    directory = Path(lab.device("sbc-a").directory)
    for round_ in range(6):
        # Rising counts: a gate that were ahead of its flash would show the larger number.
        sizes = [10 * round_ + n for n in (1, 3, 5, 8)]
        for size in sizes:
            lab.allocate("sbc-a", sbc_sessions=size)
        until = time.monotonic() + chosen.uniform(0.0, 0.06)
        wait_for("the instant", lambda until=until: time.monotonic() >= until, seconds=1)  # type: ignore[misc]  # a lambda's default
        lab.kill("sbc-a")
        stored, in_force = in_flash(directory), enforced_by_kamailio(directory / "gate")
        assert in_force <= stored, "Kamailio enforced what was not yet on disk"
        lab.start("sbc-a")
        lab.await_device("sbc-a")
        assert enforced_by_kamailio(directory / "gate") >= stored
        lab.await_actual("sbc-a", SBC_SESSIONS, sizes[-1])
        assert in_flash(directory) == enforced_by_kamailio(directory / "gate") == sizes[-1]


@pytest.fixture
def small_flash(make_lab: LabMaker) -> Iterator[LabHandle]:
    """A lab whose one device keeps its flash on a file system of 256 KiB."""
    lab = make_lab(Plan(names=("sbc-a",), apply="live"))
    buy(lab, 50)
    lab.allocate("sbc-a", sbc_sessions=10)
    lab.await_actual("sbc-a", SBC_SESSIONS, 10)
    stop_device(lab, "sbc-a")
    flash = Path(lab.device("sbc-a").flash)
    kept = lab.directory / "kept"
    shutil.copytree(flash, kept)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(flash)], check=True)
    try:
        shutil.copytree(kept, flash, dirs_exist_ok=True)
        lab.start("sbc-a")
        lab.await_device("sbc-a")
        lab.await_actual("sbc-a", SBC_SESSIONS, 10)
        yield lab
    finally:
        stop(lab.process("sbc-a"), grace=15)
        subprocess.run(["umount", str(flash)], check=True)


def fill(flash: Path) -> Path:
    """Leave no room beside the flash; return what takes it."""
    ballast = flash / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as out:
        while out.write(b"x" * 512):
            pass
    return ballast


def test_a_grant_that_arrives_and_cannot_be_written_is_neither_enforced_nor_acknowledged(
    small_flash: LabHandle,
) -> None:
    lab = small_flash
    device = lab.device("sbc-a")
    directory, gate = Path(device.directory), Path(device.directory) / "gate"

    def unit() -> dict[str, Any]:
        (found,) = lab.call("GET", "/devices")["devices"]
        return dict(found["units"][0])

    def asked() -> bool:
        pending = record_of(directory).pool.pending
        return pending is not None and pending.path == CONTACT_PATH

    def quiet() -> bool:
        return not asked() and not unit()["pending"]

    wait_for("the grant before to be acknowledged", quiet, seconds=60)
    applied, before = unit()["applied_version"], len(journal(directory))
    # The request is written and sent, the manager holds its answer back, and the disk is full
    # by the time that the raised grant arrives.
    lab.send("sbc-a", signal.SIGSTOP)
    lab.allocate("sbc-a", sbc_sessions=40)
    lab.send("manager", signal.SIGSTOP)
    lab.send("sbc-a", signal.SIGCONT)
    lab.ask("sbc-a", "pull")
    wait_for("the request to be written", asked, seconds=60)
    ballast = fill(Path(device.flash))
    lab.send("manager", signal.SIGCONT)
    wait_for(
        "the device to say so",
        lambda: "reply_refused" in {e["event"] for e in journal(directory)[before:]},
        seconds=60,
    )
    assert enforced_by_kamailio(gate) == 10
    assert lab.row("sbc-a", SBC_SESSIONS)["actual"] == 10
    assert in_flash(directory) == 10
    assert "enforced" not in {e["event"] for e in journal(directory)[before:]}
    assert unit()["applied_version"] == applied
    ballast.unlink()
    lab.ask("sbc-a", "pull")
    lab.await_actual("sbc-a", SBC_SESSIONS, 40)
    assert enforced_by_kamailio(gate) == in_flash(directory) == 40
    wait_for("it to be acknowledged", lambda: unit()["applied_version"] > applied, seconds=60)


def test_what_cannot_be_written_is_not_enforced_and_nothing_is_lost_when_space_returns(
    small_flash: LabHandle,
) -> None:
    lab = small_flash
    flash, gate = Path(lab.device("sbc-a").flash), Path(lab.device("sbc-a").directory) / "gate"
    ballast = fill(flash)
    lab.allocate("sbc-a", sbc_sessions=40)

    def alarms() -> set[str]:
        return {a["code"] for a in lab.status("sbc-a")["alarms"]}

    wait_for("the device to say so", lambda: "flash_write_failed" in alarms(), seconds=60)
    assert enforced_by_kamailio(gate) == 10
    assert lab.row("sbc-a", SBC_SESSIONS)["actual"] == 10
    assert lab.pool()["types"][SBC_SESSIONS]["held"] == 40
    ballast.unlink()
    lab.ask("sbc-a", "pull")
    lab.await_actual("sbc-a", SBC_SESSIONS, 40)
    assert enforced_by_kamailio(gate) == 40
    assert "flash_write_failed" not in alarms()
