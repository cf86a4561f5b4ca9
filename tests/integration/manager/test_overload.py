"""A real manager and a fleet of real device cores that calls all at once."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
from fleetkit import enrolled, until
from managerkit import Site, running


async def test_a_fleet_that_calls_all_at_once_is_served_in_turn_and_the_nearest_lease_end_first(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path / "manager", lab_clock="", contacts_waiting=6)
    with running(site) as manager:
        async with enrolled(manager, tmp_path / "fleet", 80) as fleet:
            soon = int(time.time()) + 1000
            site.alter(f"UPDATE unit SET lease_end = {soon} WHERE serial < 'SIM-000005'")  # noqa: S608  ours
            for device in fleet.devices:
                device.link.put_off = 0
            fleet.figures.failures.clear()
            asked = fleet.figures.asked
            begun = await fleet.all_at_once()
            await until(lambda: fleet.figures.failures["overloaded"] > 10)
            async with httpx.AsyncClient(verify=fleet.context, trust_env=False) as operator:
                answer = await operator.get(
                    f"{manager.url}/api/v1/pool", auth=("admin", site.password), timeout=30
                )
                assert answer.status_code == 200
            await until(lambda: fleet.fresh(begun) == 80)
            figures = fleet.figures
            assert sum(device.link.put_off for device in fleet.devices) > 10
            assert [device.link.put_off for device in fleet.devices[:5]] == [0] * 5
            assert (figures.too_soon, figures.obeyed_and_failed, figures.errors) == (0, 0, 0)
            assert figures.asked - asked == 80 + figures.failures["overloaded"]
            assert not any(device.core.faults for device in fleet.devices)


async def test_a_manager_that_returns_gets_its_fleet_back_spread_over_time(tmp_path: Path) -> None:
    site = Site(tmp_path / "manager", lab_clock="", reconnects_per_second=2.0)
    with running(site) as manager:
        port = manager.port
        async with enrolled(manager, tmp_path / "fleet", 40, hints=True) as fleet:
            # 40 streams at 2 a second: over 20 seconds, longer than a manager takes to start.
            await until(lambda: all(d.agent.contacts.hints for d in fleet.devices))
            spreads = [d.agent.contacts.spread for d in fleet.devices]
            assert max(spreads) >= 15.0
            manager.kill()
            await until(lambda: not any(d.agent.contacts.hints for d in fleet.devices))
            opened = fleet.figures.hints
            with running(site, f"127.0.0.1:{port}"):
                back: list[float] = []

                def all_back() -> bool:
                    new = fleet.figures.hints - opened - len(back)
                    back.extend([time.monotonic()] * new)
                    return all(d.agent.contacts.hints for d in fleet.devices)

                await until(all_back)
                assert len(back) >= 40
                assert back[-1] - back[0] > 3.0
