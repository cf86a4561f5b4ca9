"""Factory reset: what stays, what goes, and that it ends well whatever is killed on the way."""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from device_world import DAY, FakeUsage, World

from callpool.device.errors import DeviceError
from callpool.device.reset import Outcome
from callpool.licensing.errors import CallpoolError
from callpool.wire.messages import FACTORY_RESET, RestartOrder, WaitingMessage

#: Seconds that anything may take on a machine that is busy.
LIMIT: Final = 60.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await pooled(tmp_path)
    yield made
    await made.crash()


async def pooled(directory: Path) -> World:
    """A device with 10 sessions of the pool in force, on a key that counts 5."""
    made = World(directory / "device")
    await made.start()
    made.manager.allocate(10)
    await made.agent.pull()
    await made.go(0.0)
    await made.restart(save=True)
    assert made.row() == (10, 5, 15)
    return made


async def reset(world: World) -> Outcome:
    waiting = await world.agent.factory_reset("S1")
    await world.go(0.0)
    return await asyncio.wait_for(waiting, LIMIT)


def is_reset(world: World) -> None:
    """The end state, whatever the way there."""
    status, record = world.agent.status(), world.flash.record
    assert record is not None
    assert (world.row(), world.sessions()) == ((0, 5, 5), 5)
    assert (status.enrolled, status.server_status) == (False, "Not enrolled")
    assert (status.mode, status.managed) == ("Local License Key", "none")
    assert not record.resetting
    assert not record.restarting
    pool = record.pool
    assert (pool.certificate, pool.contact, pool.key_set) == ("", "", "")
    assert (pool.latest, pool.applied, pool.pending, pool.product_key) == (None, None, None, "")
    assert not world.layout.token.exists()
    assert not world.layout.next_identity.exists()


async def test_it_tells_the_manager_signed_and_then_drops_its_identity(world: World) -> None:
    before, record = world.layout.load_identity(), world.flash.record
    assert record is not None
    restarts, key = world.gate.restarts, record.local_key
    outcome = await reset(world)
    assert outcome == Outcome(told=True)
    is_reset(world)
    last = world.manager.requests[-1]
    assert (last.reason, last.remote_version, last.applied_version) == (FACTORY_RESET, 0, 0)
    assert world.gate.restarts == restarts + 1
    after = world.flash.record
    assert after is not None
    assert (after.serial, after.local_key) == ("S1", key)
    assert after.mark.mark >= record.mark.mark
    assert world.layout.load_identity().public != before.public
    asked = len(world.link.attempts)
    await world.go(2 * DAY)
    assert len(world.link.attempts) == asked, "it has nobody to talk to any more"
    # And it stays reset.
    await world.crash()
    await world.start()
    is_reset(world)


async def test_the_sip_service_has_restarted_before_the_manager_is_told(world: World) -> None:
    world.gate.used = FakeUsage(sessions=12)
    order: list[str] = []
    restart, exchange = world.gate.restart, world.link.exchange

    async def noted_restart(policy: Any) -> None:
        order.append("restart")
        await restart(policy)

    async def noted_exchange(path: str, envelope: str) -> str:
        order.append("contact")
        return await exchange(path, envelope)

    world.gate.restart, world.link.exchange = noted_restart, noted_exchange  # type: ignore[method-assign]
    await reset(world)
    assert order == ["restart", "contact"]
    # The calls that are up go on, and what of them stands on pool units is said.
    assert world.manager.requests[-1].remote_in_use == {"sbc_sessions": 7}


async def test_another_serial_number_is_no_confirmation(world: World) -> None:
    record = world.flash.record
    with pytest.raises(DeviceError) as caught:
        await world.agent.factory_reset("S2")
    assert caught.value.code == "wrong_serial"
    assert world.flash.record == record
    assert world.row() == (10, 5, 15)


async def test_a_full_flash_refuses_it_and_nothing_has_changed(world: World) -> None:
    world.flash.full = True
    with pytest.raises(DeviceError) as caught:
        await world.agent.factory_reset("S1")
    assert caught.value.code == "flash_write_failed"
    world.flash.full = False
    await world.go(0.0)
    assert world.row() == (10, 5, 15)
    assert world.agent.status().enrolled


async def test_a_flash_that_fills_up_on_the_way_holds_it_up_and_it_ends_later(
    world: World,
) -> None:
    waiting = await world.agent.factory_reset("S1")
    world.flash.full = True
    await world.go(60.0)
    assert not waiting.done()
    assert world.row() == (0, 5, 5)
    world.flash.full = False
    await world.go(10.0)
    # The last contact could not be written down, so it was not sent.
    assert (await waiting).code == "flash_write_failed"
    is_reset(world)


async def test_without_its_manager_it_is_reset_all_the_same_and_says_so(world: World) -> None:
    world.link.down = True
    lease_end = world.agent.status().lease_end
    outcome = await reset(world)
    assert (outcome.told, outcome.code) == (False, "manager_unreachable")
    assert outcome.lease_end == lease_end
    is_reset(world)


async def test_a_manager_that_hangs_holds_it_up_for_seconds_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = asyncio.Event()

    async def hang(path: str, envelope: str) -> str:
        await hanging.wait()
        return ""

    world.link.exchange = hang  # type: ignore[method-assign]
    # A contact under way is given up for it.
    await world.agent.pull()
    await world.agent.tick()
    assert world.agent.contacts.busy
    monkeypatch.setattr("callpool.device.agent.HEARING", 0.05)
    outcome = await reset(world)
    assert not outcome.told
    is_reset(world)


async def test_a_reply_that_is_not_the_managers_is_not_taken_for_its_word(world: World) -> None:
    replies: list[str] = []

    def replayed(reply: str) -> str:
        replies.append(reply)
        return replies[0]

    world.link.altered = replayed
    await world.agent.pull()
    await world.go(0.0)
    outcome = await reset(world)
    assert (outcome.told, outcome.code) == (False, "replayed_reply")
    is_reset(world)


async def test_it_enrols_again_with_the_same_manager_and_carries_no_old_wish_out_again(
    world: World,
) -> None:
    world.manager.restart = RestartOrder(number=4, save=True)
    await world.agent.pull()
    await world.go(0.0)
    await reset(world)
    restarts = world.gate.restarts
    world.layout.lay_token(world.manager.token)
    await world.agent.enrol()
    await world.go(0.0)
    assert world.row() == (10, 5, 5), "the pool's share has come, and waits for a restart"
    assert world.gate.restarts == restarts
    assert world.flash.record is not None
    assert world.flash.record.pool.seen_version == 1
    await world.restart(save=True)
    assert world.row() == (10, 5, 15)


async def test_evaluation_seconds_are_not_given_back(tmp_path: Path) -> None:
    world = World(tmp_path / "device", enrolled=False)
    await world.start()
    await world.agent.smart.enable()
    await world.agent.smart.count(50)
    await world.go(30 * DAY)
    left = world.agent.smart.agent.left(world.agent.smart.now())
    assert (await reset(world)).told is False
    agent = world.agent.smart.agent
    assert (agent.enabled, agent.count) == (False, 0)
    assert world.agent.status().managed == "none"
    assert agent.eval_left == pytest.approx(left, abs=5.0)
    assert world.sessions() == 5
    await world.crash()


class Killed(BaseException):
    """The process is gone."""


def killing(world: World, number: int) -> asyncio.Event:
    """Kill the device at its `number`-th write, order or request; the event says that it was."""
    left, killed = [number], asyncio.Event()

    def kill() -> None:
        killed.set()
        raise Killed

    def step(name: str, owner: Any, *, before: bool) -> None:
        real = getattr(owner, name)

        def bomb(*args: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and before:
                kill()
            done = real(*args)
            if left[0] == 0:
                kill()
            return done

        setattr(owner, name, bomb)

    step("store", world.flash, before=False)
    step("_tell", world.gate, before=True)
    step("answer", world.manager, before=False)
    return killed


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("reachable", [True, False])
async def test_killed_at_any_step_it_ends_in_a_reset_device(
    tmp_path: Path, number: int, reachable: bool
) -> None:
    world = await pooled(tmp_path)
    untouched = world.flash.store, world.gate._tell, world.manager.answer
    killed = killing(world, number)
    world.link.down = not reachable
    try:
        await world.agent.factory_reset("S1")
        going, gone = asyncio.create_task(world.go(0.0)), asyncio.create_task(killed.wait())
        done, _ = await asyncio.wait((going, gone), timeout=LIMIT, return_when=FIRST_COMPLETED)
        assert done, "it neither ends nor is killed"
        going.cancel()
        gone.cancel()
        await going
    except (Killed, asyncio.CancelledError):
        pass  # killed here, or in the exchange, whose answer then never comes
    await world.crash()
    world.flash.store, world.gate._tell, world.manager.answer = untouched  # type: ignore[method-assign]
    await world.start()
    await world.go(5.0)
    is_reset(world)
    if not killed.is_set():
        assert number > 4, "the bombs are on the way"
    if reachable:
        assert [r.reason for r in world.manager.requests].count(FACTORY_RESET) == 1
    await world.crash()


async def test_killed_between_the_new_key_and_the_flash_it_ends_in_a_reset_device(
    world: World,
) -> None:
    drop = type(world.layout).drop_identities
    core = world.agent.core
    await world.agent._reset.begin(who="test")
    drop(world.layout)
    assert core.opened.record.resetting
    await world.crash()
    asked = len(world.manager.envelopes)
    await world.start()
    is_reset(world)
    assert len(world.manager.envelopes) == asked, "a key that was never enrolled says nothing"


@pytest.mark.parametrize("mode", ["none", "fixed", "smart"])
async def test_floating_is_refused_with_what_to_turn_off(tmp_path: Path, mode: str) -> None:
    world = World(tmp_path / "device", enrolled=mode == "fixed")
    await world.start()
    if mode == "smart":
        await world.agent.smart.enable()
    record, told = world.flash.record, len(world.gate.told)
    with pytest.raises(CallpoolError) as caught:
        await world.agent.floating()
    code, sentence = {
        "none": ("floating_not_available", "not available in this release"),
        "fixed": ("managed_by_license_pool", "take it out of the pool"),
        "smart": ("managed_by_smart", "callpool device smart disable"),
    }[mode]
    assert (caught.value.code, sentence in caught.value.sentence) == (code, True)
    assert (world.flash.record, len(world.gate.told)) == (record, told)
    await world.crash()


async def test_the_mode_is_reported_and_a_change_of_it_at_once(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    await world.start()
    assert world.manager.requests[-1].mode == "none"
    before = len(world.manager.requests)
    await world.agent.smart.enable()
    await world.go(0.0)
    assert [r.mode for r in world.manager.requests[before:]] == ["smart"]
    await world.agent.smart.disable()
    await world.go(0.0)
    assert world.manager.requests[-1].mode == "none"
    world.manager.apply = "live"
    world.manager.allocate(3)
    await world.agent.pull()
    await world.go(0.0)
    assert world.manager.requests[-1].mode == "fixed"
    await world.crash()


async def test_a_device_without_a_license_says_that_it_is_out_of_service(tmp_path: Path) -> None:
    world = World(tmp_path / "device", local=0)
    world.manager.apply = "live"
    await world.start()
    status = world.agent.status()
    assert (status.in_service, status.out_of_service) == (False, "no SBC Sessions are licensed")
    asked = WaitingMessage(type="sbc_sessions", count=50, sentence="0 of them are free.")
    world.manager.waiting = (asked,)
    await world.agent.pull()
    await world.go(0.0)
    status = world.agent.status()
    assert status.out_of_service == (
        "no SBC Sessions are licensed; 50 SBC Sessions are asked for: 0 of them are free."
    )
    await world.crash()
    world.link.down = True
    await world.start()
    assert world.agent.status().waiting == (asked,), "it is known without the manager, too"
    world.link.down = False
    world.manager.waiting = ()
    world.manager.allocate(3)
    await world.agent.pull()
    await world.go(0.0)
    status = world.agent.status()
    assert (status.in_service, status.out_of_service) == (True, "")
    await world.crash()


@pytest.mark.parametrize("status", ["not_listed", "not_managed"])
async def test_a_device_that_its_manager_does_not_manage_says_so(world: World, status: str) -> None:
    world.manager.status = status
    await world.agent.pull()
    await world.go(0.0)
    assert status in world.alarms()
    assert status.replace("_", " ") in world.agent.status().server_status
    world.manager.status = "managed"
    await world.agent.pull()
    await world.go(0.0)
    assert status not in world.alarms()
