"""The device as it runs: real manager, real Kamailio, real TLS."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from devicekit import (
    PASSWORD,
    Device,
    Process,
    Site,
    call,
    command,
    eventually,
    kamailio_at,
    load,
    read_page,
    site,
    with_user,
)

from callpool.host.ports import free_port


@pytest.fixture(scope="module")
def shared(module_path: Path) -> Iterator[Site]:
    with site(module_path) as made:
        yield made


@pytest.fixture
def live(shared: Site) -> Iterator[Site]:
    """The shared site; each test has devices of its own."""
    yield shared
    for device in shared.devices:
        device.close()
    for name in {d["name"] for d in shared.client.call("GET", "/devices")["devices"]}:
        shared.client.call("DELETE", f"/devices/{name}")
    shared.devices.clear()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def test_a_license_travels_from_the_order_to_kamailio_and_waits_for_a_restart_with_save(
    live: Site,
) -> None:
    device = live.device("a")
    device.start()
    eventually(device.connected)
    assert not device.layout.token.exists()
    assert device.row() == (0, 5, 5)
    eventually(lambda: device.status()["hints"])
    # Only a hint can bring it: by itself the device would not call for minutes.
    eventually(lambda: device.status()["next_contact_seconds"] > 200)
    live.allocate("a", sbc_sessions=10, far_end_users=8)
    device.becomes(10, 5, 5)
    assert device.status()["pending"]
    # The operator restarts it from the manager: nothing is typed at the device.
    live.client.call("POST", "/devices/a/restart", {"save": False})
    eventually(lambda: device.status()["restart_done"] == 1)
    assert device.row() == (10, 5, 5)
    live.client.call("POST", "/devices/a/restart", {"save": True})
    device.becomes(10, 5, 15)
    assert load(device.layout.root / "run.json")["sip"] == f"127.0.0.1:{device.sip}"
    # Down again, restarted locally.
    live.allocate("a", sbc_sessions=4, far_end_users=8)
    device.becomes(4, 5, 15)
    said = call("device", "restart", "--dir", device.layout.root, "--save", "--json")
    assert json.loads(said)["capacity"][0]["actual"] == 9
    eventually(lambda: not device.alarms())
    said = call("device", "status", "--dir", device.layout.root)
    assert "License Pool" in said
    assert "Connected" in said
    assert "token" not in device.layout.journal.read_text().replace('"cause":"token"', "")


def test_live_is_in_force_within_a_second_and_a_core_killed_at_any_moment_loses_nothing(
    live: Site,
) -> None:
    device = live.device("b", apply="live")
    device.start()
    eventually(device.connected)
    for round_, sessions in enumerate((20, 5, 30, 12)):
        live.allocate("b", sbc_sessions=sessions, far_end_users=2)
        if round_:
            time.sleep(random.uniform(0.0, 0.15))  # the instant of the kill is the point
            kamailio = device.running()["kamailio_pid"]
            device.kill()
            assert kamailio_at(kamailio), "Kamailio goes on"
            device.start()
            assert device.running()["kamailio_pid"] == kamailio, "and is taken over"
        device.becomes(sessions, 5, 5 + sessions)
    assert "clone_locked" not in device.alarms()


def pull(device: Device) -> None:
    """Contact the manager and wait until that was good."""
    before = device.status()["last_contact"]
    device.ask("pull")
    eventually(lambda: device.status()["last_contact"] > before)


def test_a_copied_flash_is_worth_nothing_once_either_has_called(live: Site) -> None:
    device = live.device("c", apply="live")
    device.start()
    eventually(device.connected)
    live.allocate("c", sbc_sessions=20)
    device.becomes(20, 5, 25)
    assert device.process is not None
    assert device.process.end() == 0
    copied = device.layout.root.with_name("c-copy")
    shutil.copytree(device.layout.root, copied)
    device.start()
    eventually(device.connected)
    for _ in range(2):
        pull(device)
    # The copy comes up on other ports, with the same keys and the same flash.
    settings = load(copied / "device.json")
    settings["gate"]["listen"] = [f"udp:127.0.0.1:{free_port()}"]
    settings["pages"] = ""
    (copied / "device.json").write_text(json.dumps(settings))
    copy = Device.__new__(Device)
    copy.site, copy.layout = live, type(device.layout)(copied)
    live.devices.append(copy)
    copy.process = None
    copy.start()
    eventually(lambda: "clone_locked" in copy.alarms())
    assert not copy.connected()
    # Neither is renewed until an operator decides.
    device.ask("pull")
    eventually(lambda: "clone_locked" in device.alarms())
    # The operator decides for the original: it goes on by a token, the copy does not.
    token = live.client.call("POST", f"/units/{device.serial}/unlock", {})["token"]
    call("device", "enrol", "--dir", device.layout.root, CALLPOOL_TOKEN=token)
    eventually(lambda: device.connected() and "clone_locked" not in device.alarms())
    device.becomes(20, 5, 25)
    copy.ask("pull")
    eventually(lambda: "not trusted" in str(copy.status()["alarms"]))
    # The original has a new key, so the copy cannot lock it again.
    pull(device)
    assert device.connected()


def test_cut_off_for_longer_than_the_lease_it_restarts_on_its_local_key(alone: Site) -> None:
    device = alone.device("d", apply="live")
    device.start()
    eventually(device.connected)
    alone.allocate("d", sbc_sessions=20)
    device.becomes(20, 5, 25)
    assert alone.manager is not None
    alone.manager.end()
    alone.clock.advance(6.5 * 86400)
    eventually(lambda: {"contact_lost", "lease_warning"} <= device.alarms())
    assert device.row() == (20, 5, 25)
    before = device.running()["kamailio_pid"]
    alone.clock.advance(0.6 * 86400)
    device.becomes(0, 5, 5)
    # The gate stepped down by itself; the core restarts the SIP service as well.
    eventually(lambda: device.running()["kamailio_pid"] not in (0, before))
    assert device.row() == (0, 5, 5)
    assert device.status()["server_status"] == "Disconnected"
    # Started anew with the manager still away, it says so and goes on.
    assert device.process is not None
    device.process.end()
    device.start()
    eventually(lambda: "contact_lost" in device.alarms())
    said = device.process.said
    eventually(lambda: "The manager cannot be reached" in said())
    alone.start()
    device.ask("pull")
    device.becomes(20, 5, 25)


def test_the_page_shows_it_over_https_and_dies_without_the_core_noticing(live: Site) -> None:
    device = live.device("e", apply="live")
    device.start()
    eventually(device.connected)
    live.allocate("e", sbc_sessions=20)
    device.becomes(20, 5, 25)
    with_user(device)
    url, trusted = f"https://127.0.0.1:{device.pages}", device.layout.pages_certificate

    def page(path: str) -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            return read_page(url, trusted, "anna", PASSWORD, path)
        return None

    def shows() -> Any:
        answer = page("/")
        return answer if answer and 'class="actual">25</td>' in answer.text else None

    answer = eventually(shows)
    assert "License Pool" in answer.text
    assert device.serial in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    told = page("/status.json")
    assert told is not None
    assert told.json()["capacity"][0]["remote"] == 20
    assert (missing := page("/etc/passwd")) is not None
    assert missing.status_code == 404
    kamailio = device.running()["kamailio_pid"]
    faces = device.running()["faces_pid"]
    os.kill(faces, signal.SIGKILL)
    eventually(lambda: device.running()["faces_pid"] not in (0, faces))
    eventually(shows)
    assert device.running()["kamailio_pid"] == kamailio
    # The faces never outlive their core.
    faces = device.running()["faces_pid"]
    device.kill()
    eventually(lambda: not kamailio_at(faces))


def test_uncertain_sessions_are_given_back_by_the_operators_statement(live: Site) -> None:
    device = live.device("u")
    device.start()
    device.kill()
    kamailio = load(device.layout.gate / "gate.json")["pid"]
    assert kamailio, "to signal 0 is to signal this test's own group"
    os.killpg(kamailio, signal.SIGKILL)
    device.start()
    # Calls may have been up while nobody counted: the whole license counts as used.
    assert device.ask("calls")["uncertain"] == device.ask("calls")["sessions"] == 5
    eventually(lambda: "calls_uncertain" in device.alarms())
    said = call("device", "calls", "--dir", device.layout.root, "--forget-uncertain")
    assert "Sessions given back: 5." in said
    told = json.loads(call("device", "calls", "--dir", device.layout.root, "--json"))
    assert (told["uncertain"], told["sessions"]) == (0, 0)
    assert "calls_uncertain" not in device.alarms()
    notes = [json.loads(line) for line in device.layout.journal.read_text().splitlines()]
    [note] = [n for n in notes if n["event"] == "forget_uncertain"]
    assert (note["cause"], note["who"], note["sessions"]) == ("asked", "local", 5)
    assert note["at"] > 0


def test_a_stop_ends_all_three_and_leaves_nothing_behind(live: Site) -> None:
    device = live.device("f")
    device.start()
    running = eventually(lambda: (r := device.running())["faces_pid"] and r)
    said = call("device", "stop", "--dir", device.layout.root)
    assert "Stopping" in said
    assert device.process is not None
    eventually(device.process.ended)
    assert device.process.end() == 0
    for name in ("pid", "kamailio_pid", "faces_pid"):
        assert not kamailio_at(running[name]), name
    assert not device.layout.control.exists()
    assert "[not_running]" in call("device", "status", "--dir", device.layout.root, ok=False)


def test_a_test_call_needs_its_feature_and_is_a_real_call(live: Site) -> None:
    device, other = live.device("g"), live.device("h", local=0)
    device.start()
    other.start()
    answerer = subprocess.Popen(
        [sys.executable, "-c", ANSWERER, str(device.answerer)], stdout=subprocess.PIPE
    )
    try:
        assert answerer.stdout is not None
        answerer.stdout.readline()
        said = json.loads(call("device", "test-call", "--dir", device.layout.root, "100", "--json"))
        assert said["answered"]
        assert said["code"] == 200
    finally:
        answerer.terminate()
        answerer.communicate()
    eventually(lambda: device.ask("calls")["admitted"] == 1)
    said = call("device", "test-call", "--dir", other.layout.root, ok=False)
    assert "[feature_not_licensed]" in said


ANSWERER = """
import asyncio, signal, sys
from callpool.host.sipp import answerer
async def main():
    sipp = await answerer(port=int(sys.argv[1]), timeout=60)
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    print("ready", flush=True)
    await done.wait()
    await sipp.stop()
asyncio.run(main())
"""


def test_a_device_that_cannot_start_says_why_and_exits(tmp_path: Path) -> None:
    directory = tmp_path / "x"
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    common: list[object] = ["--pages", "", "--listen", f"udp:127.0.0.1:{port}"]
    assert "[no_device]" in call("device", "run", "--dir", directory, ok=False)
    for words, code in (
        (["--serial", "../x"], "bad_serial"),
        (["--serial", "X", "--manager", "http://m"], "bad_manager_url"),
        (["--serial", "X", "--maximum", "sbc_sessions=-1"], "bad_count"),
        (["--serial", "X", "--destination", "nowhere"], "bad_destination"),
        (["--serial", "X", "--trust", "everyone"], "bad_gate_settings"),
    ):
        assert f"[{code}]" in call("device", "init", "--dir", directory, *words, ok=False)
        assert not (directory / "device.json").exists(), "nothing is half done"
    said = call(
        "device", "init", "--dir", directory, "--serial", "X", ok=False, CALLPOOL_TOKEN="rubbish"
    )
    assert "[bad_token]" in said
    call("device", "init", "--dir", directory, "--serial", "X", *common)
    assert "[device_exists]" in call(
        "device", "init", "--dir", directory, "--serial", "X", *common, ok=False
    )
    assert "[port_in_use]" in call("device", "run", "--dir", directory, ok=False)
    taken.close()
    settings = load(directory / "device.json")
    settings["gate"]["kamailio"] = str(tmp_path / "kamailio")
    (directory / "device.json").write_text(json.dumps(settings))
    assert "[kamailio_missing]" in call("device", "run", "--dir", directory, ok=False)
    # A flash that was altered, and one of another device.
    flash = directory / "flash"
    [slot] = flash.glob("flash.1")
    raw = slot.read_bytes()
    for file in flash.iterdir():
        file.write_bytes(raw[:-5])
    assert "[flash_corrupt]" in call("device", "run", "--dir", directory, ok=False)
    for file in flash.iterdir():
        file.write_bytes(raw)
    (directory / "secret").write_bytes(b"x" * 32)
    said = call("device", "run", "--dir", directory, ok=False)
    assert "[flash_foreign]" in said
    assert len(said.strip().splitlines()) == 1, "one sentence"


def test_one_directory_carries_one_device(tmp_path: Path) -> None:
    directory = tmp_path / "y"
    call(
        "device", "init", "--dir", directory, "--serial", "Y", "--pages", "",
        "--listen", f"udp:127.0.0.1:{free_port()}",
    )  # fmt: skip
    first = Process(command("device", "run", "--dir", directory), tmp_path / "y.log")
    try:
        eventually((directory / "control.sock").exists)
        assert "[already_running]" in call("device", "run", "--dir", directory, ok=False)
    finally:
        assert first.end() == 0
