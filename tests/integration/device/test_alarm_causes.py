"""Every alarm of a pool device by its real cause: told to snmptrapd, and in both tables.

Which test proves which alarm: tests/unit/device/test_alarm_coverage.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alarmkit import DAY, Watch, by_road, install_key, site_with_road
from devicekit import Device, call, eventually, load, site

from callpool.device.flash import Flash
from callpool.host.ports import free_port
from callpool.host.sipp import SippResult, answerer, caller, register
from callpool.licensing.capacity import Capacity
from callpool.wire.tokens import join, split

REALM = "test.callpool.example"


def test_every_word_of_the_manager_is_an_alarm_until_it_is_taken_back(tmp_path: Path) -> None:
    with site_with_road(tmp_path) as (made, road):
        device = made.device("a", apply="live")
        by_road(made, device)
        watch = Watch(device)
        try:
            # Not enrolled: the token is of this manager, and nobody made it.
            good = device.layout.token.read_text().strip()
            secret, anchor = split(good)
            device.layout.token.write_text(join(secret[::-1], anchor))
            device.start()
            watch.raised("enrolment_failed")
            call("device", "enrol", "--dir", device.layout.root, CALLPOOL_TOKEN=good)
            watch.cleared("enrolment_failed")
            eventually(device.connected)
            made.allocate("a", sbc_sessions=10)
            device.becomes(10, 5, 15)

            # Replies that the manager did not sign.
            road.alter = True
            device.ask("pull")
            watch.raised("reply_refused")
            watch.raised("contact_lost")
            road.alter = False
            device.ask("pull")
            watch.cleared("reply_refused")
            watch.cleared("contact_lost")

            # Managed before, and then not: two alarms, and both are over when it is again.
            made.client.call("PATCH", "/devices/a", {"mode": "none"})
            told = watch.raised("no_longer_managed")
            assert told.glob(2) == "Device is no longer managed by the SBC License Pool."
            watch.raised("not_managed")
            made.client.call("PATCH", "/devices/a", {"mode": "fixed"})
            watch.cleared("no_longer_managed")
            watch.cleared("not_managed")

            # Not even listed.
            made.client.call("DELETE", "/devices/a")
            watch.raised("not_listed")
            watch.raised("no_longer_managed")
            body = {"name": "a", "serials": [device.serial], "apply": "live"}
            made.client.call("POST", "/devices", body)
            device.ask("pull")
            watch.cleared("not_listed")
            watch.cleared("no_longer_managed")
            assert [n.severity for n in watch.told("not_listed")] == [4, 0, 4, 0]

            two_modes(made.allocate, device, road, watch)
            clone_locked(device, watch)
        finally:
            watch.close()


def two_modes(allocate: Any, device: Device, road: Any, watch: Watch) -> None:
    """A grant that was under way while smart licensing was turned on."""
    device.becomes(0, 5, 5)
    eventually(lambda: not device.status()["pending"] and device.connected())
    road.lose = True
    allocate("a", sbc_sessions=10)
    eventually(lambda: "contact_lost" in device.alarms())
    device.ask("smart", action="enable")
    # The same bytes are sent again, and answered as before; the word of the new mode is held up.
    road.lose, road.let_through = False, 1
    device.ask("pull")
    watch.raised("two_modes")
    road.cut, road.let_through = False, None
    device.ask("pull")
    watch.cleared("two_modes")
    device.ask("smart", action="disable")
    eventually(lambda: device.status()["managed"] != "smart" and device.connected())


def clone_locked(device: Device, watch: Watch) -> None:
    """A machine that was rolled back: its contact value is an old one."""
    stop(device)
    kept = device.layout.root.with_name("kept")
    shutil.copytree(device.layout.flash, kept)
    device.start()
    for _ in range(3):
        before = eventually(lambda: device.status()["last_contact"])
        device.ask("pull")
        eventually(lambda before=before: device.status()["last_contact"] > before)  # type: ignore[misc]  # a lambda's default
    stop(device)
    shutil.rmtree(device.layout.flash)
    kept.rename(device.layout.flash)
    device.start()
    watch.raised("clone_locked")
    token = device.site.client.call("POST", f"/units/{device.serial}/unlock", {})["token"]
    call("device", "enrol", "--dir", device.layout.root, CALLPOOL_TOKEN=token)
    watch.cleared("clone_locked")


def stop(device: Device) -> None:
    assert device.process is not None
    assert device.process.end() == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Device, Watch]]:
    """A device with a flash of 256 KiB, whose Kamailio program is a link of the test's own."""
    with site(tmp_path) as made:
        device = made.device("g", apply="live")
        flash = device.layout.flash
        kept = flash.with_name("kept")
        shutil.copytree(flash, kept)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", flash], check=True)
        watch = Watch(device)
        try:
            shutil.copytree(kept, flash, dirs_exist_ok=True)
            program(device).symlink_to(str(shutil.which("kamailio")))
            device.configure(gate={"kamailio": str(program(device))})
            device.start()
            eventually(device.connected)
            made.allocate("g", sbc_sessions=10)
            device.becomes(10, 5, 15)
            yield device, watch
        finally:
            watch.close()
            device.close()
            subprocess.run(["umount", flash], check=True)


def program(device: Device) -> Path:
    return device.layout.root / "kamailio"


def kamailio(device: Device) -> int:
    """Kamailio's main process, and its process group."""
    pid = int(load(device.layout.gate / "gate.json")["pid"])
    assert pid, "none at the moment; to signal 0 is to signal this test's own group"
    return pid


def test_what_fails_on_the_device_itself_is_an_alarm_until_it_is_mended(
    small: tuple[Device, Watch],
) -> None:
    device, watch = small
    made = device.site

    # Kamailio dies and cannot be started again.
    link = program(device).readlink()
    program(device).unlink()
    os.kill(kamailio(device), signal.SIGKILL)
    watch.raised("gate_down")
    program(device).symlink_to(link)
    watch.cleared("gate_down")

    # Kamailio is frozen while a local key is installed; licenses of the pool arrive meanwhile.
    frozen = kamailio(device)
    os.killpg(frozen, signal.SIGSTOP)
    try:
        install_key(device, counts=Capacity.of(sbc_sessions=6, far_end_users=5))
        assert not watch.told("key_upgrade_under_way")
        made.allocate("g", sbc_sessions=12)
        told = watch.raised("key_upgrade_under_way")
        assert "while the installation of local key LK-" in told.glob(9)
        assert device.row() == (12, 6, 15), "neither is enforced yet"
    finally:
        os.killpg(frozen, signal.SIGCONT)
    watch.cleared("key_upgrade_under_way")
    watch.cleared("gate_down")
    device.becomes(12, 6, 18)

    # The flash is full, then it is not.
    ballast = device.layout.flash / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as out:
        while out.write(b"x" * 512):
            pass
    made.allocate("g", sbc_sessions=14)
    told = watch.raised("flash_write_failed")
    assert told.glob(2) == "Device License pool server configuration failed "
    ballast.unlink()
    device.ask("pull")
    watch.cleared("flash_write_failed")
    device.becomes(14, 6, 20)

    # Nobody counted for a while.
    device.kill()
    os.killpg(kamailio(device), signal.SIGKILL)
    device.start()
    watch.raised("calls_uncertain")
    call("device", "calls", "--dir", device.layout.root, "--forget-uncertain")
    watch.cleared("calls_uncertain")

    # The newest generation of the flash is torn.
    stop(device)
    flash = Flash(device.layout.flash, device.layout.load_secret())
    assert flash.load() is not None
    torn = flash.slot(flash.generation)
    torn.write_bytes(torn.read_bytes()[:-40])
    device.start()
    watch.raised("flash_fell_back")
    stop(device)
    device.start()
    watch.cleared("flash_fell_back")

    # The local key nears its end, and ends: one alarm that grows graver.
    install_key(device, ends=made.clock.now().wall + 20 * DAY)
    watch.raised("local_key_ends")
    made.clock.advance(21 * DAY)
    watch.raised("local_key_ended")
    assert [n.severity for n in watch.told("local_key_ended")] == [2, 4]
    install_key(device)
    watch.cleared("local_key_ended")


async def test_use_is_alarmed_at_95_percent_and_cleared_at_80_by_real_calls_and_registrations(
    tmp_path: Path,
) -> None:
    with site(tmp_path) as made:
        device = made.device("u", apply="live")
        names = {f"user{n:02d}": f"pass{n:02d}" for n in range(19)}
        device.configure(
            gate={
                "users": {n: hashlib.md5(  # noqa: S324  SIP's digest
                          f"{n}:{REALM}:{p}".encode()).hexdigest()
                          for n, p in names.items()},
                "realm": REALM,
                "workers": 2,
            }
        )  # fmt: skip
        watch = Watch(device)
        far = await answerer(port=device.answerer, timeout=120)
        try:
            device.start()
            await asyncio.to_thread(eventually, device.connected)
            made.allocate("u", sbc_sessions=15, far_end_users=15)
            await asyncio.to_thread(device.becomes, 15, 5, 20)
            await sessions(device, watch)
            await users(device, watch, names)
        finally:
            await far.stop()
            watch.close()


async def sessions(device: Device, watch: Watch) -> None:
    """19 calls of 20; two end, then one more: 95, 85 and 80 percent."""
    address = ("127.0.0.1", device.sip)
    held = ((16, 30_000), (2, 5_000), (1, 14_000))
    callers = [await caller(address, calls=n, rate=50, hold_ms=ms) for n, ms in held]
    try:
        await asyncio.to_thread(eventually, lambda: in_use(device, 0) == 19)
        told = await asyncio.to_thread(watch.raised, "sessions_nearly_used")
        assert "19 of 20" in told.glob(9)
        await asyncio.to_thread(eventually, lambda: in_use(device, 0) == 17)
        await asyncio.to_thread(looked_twice, device)
        assert in_use(device, 0) == 17, "or the machine is too slow for this test"
        assert watch.told("sessions_nearly_used")[-1].severity == 2, "not over at 85 percent"
        await asyncio.to_thread(watch.cleared, "sessions_nearly_used")
        assert in_use(device, 0) == 16
        assert [n.severity for n in watch.told("sessions_nearly_used")] == [2, 0]
    finally:
        for sipp in callers:
            await sipp.stop()


async def users(device: Device, watch: Watch, names: dict[str, str]) -> None:
    """19 registrations of 20; two are removed, then one more."""
    address = ("127.0.0.1", device.sip)
    some = list(names.items())
    port = free_port()  # one phone: a removal names the contact that was registered

    async def told(users: list[tuple[str, str]], expires: int) -> SippResult:
        sipp = await register(address, dict(users), realm=REALM, expires=expires, port=port)
        return await sipp.wait(60)

    await told(some, 600)
    await asyncio.to_thread(watch.raised, "users_nearly_used")
    await told(some[:2], 0)
    await asyncio.to_thread(eventually, lambda: in_use(device, 1) == 17)
    await asyncio.to_thread(looked_twice, device)
    assert watch.told("users_nearly_used")[-1].severity == 2
    await told(some[2:3], 0)
    await asyncio.to_thread(watch.cleared, "users_nearly_used")
    assert [n.severity for n in watch.told("users_nearly_used")] == [2, 0]


def in_use(device: Device, row: int) -> int:
    return int(device.status()["capacity"][row]["in_use"])


def looked_twice(device: Device) -> None:
    """Wait until the core has looked for alarms twice more, and the agent has read that."""
    began = float(device.ask("alarms")["uptime"])
    eventually(lambda: device.ask("alarms")["uptime"] > began + 1.5)
