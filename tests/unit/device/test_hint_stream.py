"""The hint stream is opened again by each device at a moment of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from callpool.device.errors import LinkError
from callpool.device.hints import HintStream
from callpool.device.manager_link import SPREAD, STREAM_OPEN


class Link:
    """A manager that says how its fleet is to be spread, goes, and has no room at first."""

    def __init__(self) -> None:
        self.opened = 0

    async def hints(self, path: str, envelope: str) -> AsyncIterator[str]:
        self.opened += 1
        if self.opened == 2:
            raise LinkError("overloaded", "No room.", retry_after=30.0)
        yield STREAM_OPEN
        yield f"{SPREAD}5000.0"


async def test_the_manager_says_over_how_long_its_fleet_is_spread_and_retry_after_is_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    spread: list[tuple[float, float]] = []
    done = asyncio.Event()
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            done.set()
            await asyncio.Event().wait()
        await real(0)

    def uniform(least: float, most: float) -> float:
        spread.append((least, most))
        return most

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(random, "uniform", uniform)
    link: Any = Link()
    heard: list[str] = []
    stream = HintStream(link, "/hints", request=lambda: "x", heard=heard.append)
    stream.want(True)
    stream.start()
    await asyncio.wait_for(done.wait(), 30)
    await stream.close()
    assert heard == [STREAM_OPEN, STREAM_OPEN]
    # At most ten minutes, whatever the manager says.
    assert spread[0] == (0.0, 600.0)
    assert slept[0] == 600.0
    assert slept[1] >= 30.0
