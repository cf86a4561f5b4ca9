"""A graceful restart: the gate's step before it, and how it comes to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from device_world import FakeUsage, World

from callpool.device.drain import Drain, check_wait, drained
from callpool.device.errors import DeviceError
from callpool.licensing.admission import MAX_STEPS, RESTARTING, AdmissionPolicy, Step


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "device")
    await made.start()
    made.gate.used = FakeUsage(sessions=2, emergency=1)
    yield made
    await made.crash()


def step(world: World) -> Step:
    return world.gate.policy.at(world.clock.now().wall)


async def test_new_calls_wait_outside_until_those_in_progress_have_ended(world: World) -> None:
    drain = await world.agent.restart_gracefully(60, save=False, who="t")
    now = world.clock.now().wall
    assert drain.until == now + 60
    waiting = step(world)
    assert (waiting.admit, waiting.reason, waiting.calls_only) == (False, RESTARTING, True)
    assert waiting.caps["far_end_users"] == 2, "registrations are judged as ever"
    # The gate admits again by itself at the end, whatever becomes of the core.
    assert world.gate.policy.at(now + 60).admit
    assert not world.agent.status().in_service
    assert "about to restart" in world.agent.status().out_of_service
    assert world.row() == (0, 5, 5)
    await world.go(5.0)
    assert world.gate.restarts == 0
    world.gate.used = FakeUsage(sessions=0, emergency=1)
    await world.go(5.0)
    assert world.gate.restarts == 0, "an emergency call is a call"
    world.gate.used = FakeUsage()
    await world.go(1.0)
    assert world.gate.restarts == 1
    assert step(world).admit
    assert world.agent.status().in_service


async def test_it_restarts_at_the_latest_when_its_time_is_up(world: World) -> None:
    await world.agent.restart_gracefully(60, save=False, who="t")
    await world.go(59.0)
    assert world.gate.restarts == 0
    await world.go(2.0)
    assert world.gate.restarts == 1
    assert step(world).admit


@pytest.mark.parametrize("save", [True, False])
async def test_it_applies_what_the_pool_has_sent_only_with_save(world: World, save: bool) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    await world.agent.restart_gracefully(30, save=save, who="t")
    await world.go(31.0)
    assert world.row() == ((10, 5, 15) if save else (10, 5, 5))


async def test_it_can_be_given_up_and_an_immediate_restart_takes_its_place(world: World) -> None:
    await world.agent.restart_gracefully(60, save=False, who="t")
    assert await world.agent.cancel_restart(who="t")
    assert step(world).admit
    assert not await world.agent.cancel_restart(who="t")
    await world.go(100.0)
    assert world.gate.restarts == 0
    await world.agent.restart_gracefully(60, save=False, who="t")
    await world.restart(save=False)
    assert world.gate.restarts == 1
    await world.go(100.0)
    assert world.gate.restarts == 1


async def test_a_restart_that_cannot_be_written_admits_calls_again(world: World) -> None:
    await world.agent.restart_gracefully(10, save=True, who="t")
    world.flash.full = True
    await world.go(11.0)
    assert world.gate.restarts == 0
    assert step(world).admit


@pytest.mark.parametrize("seconds", [0, -1, 3601, 1.5, "5", None, True])
def test_how_long_it_waits_is_a_whole_number_of_seconds(seconds: object) -> None:
    with pytest.raises(DeviceError) as caught:
        check_wait(seconds)
    assert caught.value.code == "bad_wait"


def test_the_step_takes_the_place_of_those_that_end_before_it() -> None:
    def ends(*untils: float | None) -> AdmissionPolicy:
        return AdmissionPolicy(steps=tuple(Step(until=u, caps={"cps": 5}) for u in untils))

    drain = Drain(until=100.0, boottime=100.0, save=False, who="t")
    made = drained(ends(50.0, 100.0, 150.0, None), drain, 40.0)
    assert [s.until for s in made.steps] == [100.0, 150.0, None]
    assert drained(ends(150.0, None), drain, 101.0) == ends(150.0, None)
    full = ends(*(200.0 + n for n in range(MAX_STEPS - 1)), None)
    assert drained(full, drain, 40.0) == full
