"""A fleet of real device cores before a manager that a test runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from managerkit import Running

from callpool.lab.simulated_fleet import SimulatedFleet
from callpool.manager.client import Connection


async def until(condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
    """Wait until `condition` is true; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  the fleet tells nobody
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def enrolled(
    manager: Running, directory: Path, devices: int, *, hints: bool = False
) -> AsyncIterator[SimulatedFleet]:
    """Make a fleet, let it enrol, end it."""
    connection = Connection(
        url=manager.url,
        ca_file=str(manager.site.layout.ca),
        username="admin",
        password=manager.site.password,
    )
    fleet = SimulatedFleet(directory, connection, devices=devices, hints=hints)
    await asyncio.to_thread(fleet.make, lambda _: None)
    fleet.compose()
    try:
        await fleet.enrol(lambda _: None)
        yield fleet
    finally:
        await fleet.close()


async def contact(fleet: SimulatedFleet, times: int = 1) -> None:
    """Let every device make so many good contacts, one after the other."""
    for _ in range(times):
        before = [d.agent.contacts.last_contact or 0.0 for d in fleet.devices]
        await fleet.all_at_once()
        await until(
            lambda before=before: all(  # type: ignore[misc]
                (d.agent.contacts.last_contact or 0.0) > b and not d.agent.contacts.busy
                for d, b in zip(fleet.devices, before, strict=True)
            )
        )
