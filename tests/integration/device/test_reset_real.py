"""A factory reset of a real device, its core killed (-9) on the way."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devicekit import Process, Site, call, command, eventually, site


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def test_a_core_killed_during_a_factory_reset_ends_in_a_reset_device(
    alone: Site,
) -> None:
    device = alone.device("r", apply="live")
    device.start()
    alone.allocate("r", sbc_sessions=10)
    device.becomes(10, 5, 15)
    chosen = random.Random(4)

    def begun() -> int:
        return device.layout.journal.read_text().count('"factory_reset"')

    for number in range(1, 4):
        asking = Process(
            command("device", "factory-reset", "--dir", device.layout.root, "--serial", "SN-r"),
            alone.directory / "reset.log",
        )
        # The instant of the kill is the point: counted from the write that begins the reset.
        eventually(lambda number=number: begun() == number)  # type: ignore[misc]  # a lambda's default
        time.sleep(chosen.uniform(0.0, 0.3))
        device.kill()
        asking.end()
        device.start()
        eventually(lambda: not device.status()["enrolled"])
        device.becomes(0, 5, 5)
        assert not device.layout.token.exists()
        # The manager has heard of it, once or again, or holds the share; never less than is used.
        assert alone.shown("r")["units"][0]["held"]["sbc_sessions"] in (0, 10)
        token = alone.client.call("POST", "/units/SN-r/unlock", {})["token"]
        call("device", "enrol", "--dir", device.layout.root, CALLPOOL_TOKEN=token)
        eventually(device.connected)
        device.becomes(10, 5, 15)
