"""Every alarm of clocks and of smart licensing by its real cause, told to snmptrapd and in tables.

The device has a lab's clock of its own beside the manager's, so the two can differ; a reboot is
another boot ID, bound over the kernel's in a mount namespace of the device's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from alarmkit import DAY, Road, Watch, buy_smart, by_road, install_key, site_with_road
from devicekit import Device, eventually

from callpool.host.clock import LabClock, LabTime
from callpool.host.files import write_durably
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError


class Machine:
    """The machine under one device: a clock of its own, and boots."""

    def __init__(self, device: Device) -> None:
        self._device = device
        directory = device.site.directory
        self._file, self._boot = directory / "device-clock", directory / "boot-id"
        self.clock = LabClock(self._file)
        self._boots = 0
        self.reboot()
        device.configure(lab_clock=str(self._file))
        device.wrapper = (
            "unshare", "--mount", "sh", "-c",
            f'mount --bind {self._boot} /proc/sys/kernel/random/boot_id && exec "$@"', "sh",
        )  # fmt: skip

    def advance(self, seconds: float) -> None:
        """Let time pass, here and at the manager."""
        self._device.site.clock.advance(seconds)
        self.clock.advance(seconds)

    def reboot(self) -> None:
        """Have the next start be another boot's. The file stays: it is bound."""
        self._boots += 1
        self._boot.write_text(f"00000000-0000-4000-8000-{self._boots:012d}\n")

    @contextlib.contextmanager
    def set_back(self, seconds: float) -> Iterator[None]:
        """Set the clock back for a while. (Elapsed time stands still then: it never goes back.)"""
        kept = self._file.read_bytes()
        was = msgspec.json.decode(kept, type=LabTime)
        back = msgspec.structs.replace(was, offset=was.offset - seconds)
        write_durably(self._file, msgspec.json.encode(back))
        try:
            yield
        finally:
            write_durably(self._file, kept)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Device, Road, Watch, Machine]]:
    with site_with_road(tmp_path) as (made, road):
        device = made.device("s", apply="live")
        by_road(made, device)
        machine = Machine(device)
        watch = Watch(device)
        try:
            device.start()
            eventually(device.connected)
            yield device, road, watch, machine
        finally:
            watch.close()


def test_clocks_and_smart_licensing_are_alarmed_until_what_is_wrong_is_mended(
    watched: tuple[Device, Road, Watch, Machine],
) -> None:
    device, road, watch, machine = watched
    made = device.site

    # The two clocks differ; then a machine comes up with a clock that is behind.
    machine.clock.advance(120)
    device.ask("pull")
    assert "+120 s" in watch.raised("clock_skew").glob(9)
    made.clock.advance(120)
    device.ask("pull")
    watch.cleared("clock_skew")
    made.clock.advance(600)
    device.ask("pull")
    assert "-600 s" in watch.raised("clock_skew").glob(9)
    assert device.process is not None
    assert device.process.end() == 0
    machine.reboot()
    road.cut = True
    device.start()
    watch.raised("clock_behind")
    road.cut = False
    device.ask("pull")
    watch.cleared("clock_behind")
    machine.clock.advance(600)
    device.ask("pull")
    watch.cleared("clock_skew")

    # The evaluation nears its end while the registration fails, and ends.
    made.client.call("POST", "/smart/accounts", {"name": "acme"})
    buy_smart(made, 100)
    device.ask("smart", action="enable")
    device.ask("smart", action="count", count=50)
    machine.advance(31 * DAY)
    watch.raised("smart_evaluation_ends")
    token = made.client.call("POST", "/smart/tokens", {})["token"]
    road.cut = True
    with contextlib.suppress(CallpoolError):  # it is tried again by itself
        device.ask("smart", action="register", token=token)
    watch.raised("smart_registration_failed")
    machine.advance(60 * DAY)
    watch.raised("smart_evaluation_expired")
    assert [n.severity for n in watch.told("smart_evaluation_expired")] == [2, 5]
    road.cut = False
    # The token has expired meanwhile.
    token = made.client.call("POST", "/smart/tokens", {})["token"]
    device.ask("smart", action="register", token=token, force=True)
    watch.cleared("smart_registration_failed")
    watch.cleared("smart_evaluation_expired")
    eventually(lambda: smart(device)["state"] == "Authorized")

    # More is configured than purchased, then more than a newer key lets the device carry.
    device.ask("smart", action="count", count=150)
    watch.raised("smart_out_of_compliance")
    device.ask("smart", action="count", count=50)
    watch.cleared("smart_out_of_compliance")
    maximum = Capacity.of(sbc_sessions=1000, far_end_users=1000, cps=20)
    install_key(device, maximum=maximum)
    watch.raised("smart_count_above_maximum")
    device.ask("smart", action="count", count=20)
    watch.cleared("smart_count_above_maximum")

    # The wall clock leaves the ID certificate's dates.
    with machine.set_back(400 * DAY):
        watch.raised("smart_clock_out_of_range")
    watch.cleared("smart_clock_out_of_range")

    # The authority is not reached: renewals fail, and at 90 days the authorization ends.
    eventually(lambda: smart(device)["state"] == "Authorized")
    road.cut = True
    machine.advance(31 * DAY)
    watch.raised("smart_renewal_failed")
    machine.advance(60 * DAY)
    watch.raised("smart_authorization_expired")
    assert [n.severity for n in watch.told("smart_authorization_expired")] == [4, 5]
    road.cut = False
    machine.advance(4 * 3600 + 1)
    watch.cleared("smart_authorization_expired")


def smart(device: Device) -> dict[str, object]:
    """Smart licensing now."""
    return dict(device.ask("smart", action="status")["smart"])
