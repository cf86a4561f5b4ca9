"""`callpool device status` and `smart status`: what is wrong, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from device_world import DAY, World
from smart_authority import SmartWorld

from callpool.device.smart_status import rows
from callpool.device.status_text import lines, show


async def test_it_tells_what_waits_for_a_restart_and_how_long_the_lease_lasts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path / "device", local=0)
    await world.start()
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    status = world.agent.status()
    told = dict(lines(status))
    assert told["In service"] == (
        "No: no SBC Sessions are licensed; 10 have arrived and wait for a restart with save"
    )
    assert told["Lease ends"].endswith("UTC (in 7 d 0 h)")
    assert told["Last contact"].endswith("UTC (0 min ago)")
    show(status)
    shown = " ".join(capsys.readouterr().out.split())
    assert "`callpool device restart --save`" in shown
    assert "[restart_pending] To do: Restart the device with save;" in shown
    world.link.down = True
    await world.go(DAY + 120.0)
    status = world.agent.status()
    assert dict(lines(status))["Last contact"].endswith("(1 d 0 h ago)")
    show(status)
    assert "To do: Check the network path" in " ".join(capsys.readouterr().out.split())
    await world.crash()


async def test_smart_status_says_why_calls_are_refused_and_what_to_do(tmp_path: Path) -> None:
    world = SmartWorld(tmp_path / "device")
    await world.start()

    def told() -> dict[str, str]:
        return dict(rows(world.agent.smart_status()))

    assert told()["Calls"].startswith("reject: smart licensing is not enabled (")
    assert "smart enable" in told()["To do"]
    await world.tell("enable")
    assert told()["Calls"].startswith("reject: no count is configured (")
    assert dict(lines(world.agent.status()))["In service"].startswith("No: no count")
    assert "smart count N" in told()["To do"]
    await world.tell("count", count=50)
    assert told()["Calls"].startswith("allow (")
    assert dict(lines(world.agent.status()))["In service"] == "Yes"
    assert "smart register" in told()["To do"]
    world.authority.good = False
    await world.tell("register", token=world.authority.token)
    assert world.state == "OutOfCompliance"
    assert told()["To do"] == "Buy more, or configure a smaller count on a device of the account."
    world.authority.good = True
    await world.tell("renew_auth")
    assert "To do" not in told()
    world.link.down = True
    await world.go(31 * DAY)
    assert told()["To do"] == "Restore contact with the license authority."
    await world.agent.smart.close()
    await world.crash()
