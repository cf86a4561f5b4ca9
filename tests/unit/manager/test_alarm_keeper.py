"""The manager stops its alarm process whenever it is told to, also while settings change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from callpool.manager import keeper
from callpool.manager.settings import Layout


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20.0):
        while not condition():  # noqa: ASYNC110  looked at from outside
            await asyncio.sleep(0.001)


def test_a_stop_while_the_settings_change_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Slow:
        """A process that takes its time to end."""

        def __init__(self, words: object, *, ended: object) -> None:
            seen.append("started")

        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("ending")
                await asyncio.sleep(0.05)
                seen.append("ended")

    monkeypatch.setattr(keeper, "Keeper", Slow)
    monkeypatch.setattr(keeper, "_LOOK", 0.001)
    layout = Layout(tmp_path)
    layout.snmp.write_text("{}")

    async def course() -> None:
        task = asyncio.create_task(keeper.alarm_process(layout))
        await until(lambda: "started" in seen)
        layout.snmp.unlink()
        layout.snmp.write_text("{ }")
        await until(lambda: "ending" in seen)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=20.0)
        assert done == {task}
        assert task.cancelled()

    asyncio.run(course())
    assert seen == ["started", "ending"]  # cancelled twice: the child ends as its input closes


def test_an_alarm_process_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    class Fails:
        """No process at first, then one."""

        def __init__(self, words: object, *, ended: object) -> None:
            nonlocal tries
            tries += 1

        async def run(self) -> None:
            if tries < 3:
                raise OSError(11, "Resource temporarily unavailable")
            await asyncio.Event().wait()

    monkeypatch.setattr(keeper, "Keeper", Fails)
    monkeypatch.setattr(keeper, "_LOOK", 0.001)
    layout = Layout(tmp_path)
    layout.snmp.write_text("{}")

    async def course() -> None:
        task = asyncio.create_task(keeper.alarm_process(layout))
        await until(lambda: tries == 3)
        task.cancel()
        await asyncio.wait({task}, timeout=20.0)
        assert task.cancelled()

    asyncio.run(course())
