"""The local key on a device: what is refused, what its end does, and what the pool never gives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from device_world import DAY, NOW, VENDOR, World, local_key

from callpool.device.setup import Plan, install_offline, set_up
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError
from callpool.licensing.key import LocalKey
from callpool.licensing.lease import APPLY_LIVE
from callpool.wire.envelope import LOCAL_KEY, sign
from callpool.wire.keys import SigningKey


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "device")
    await made.start()
    yield made
    await made.crash()


def foreign() -> str:
    key = LocalKey(
        key_id="LK-9",
        sequence=9,
        serials=("S1",),
        counts=Capacity.of(sbc_sessions=99),
        maximum=Capacity.of(sbc_sessions=99),
        features=frozenset(),
        issued_at=1,
    )
    return sign(SigningKey.generate(), LOCAL_KEY, key.to_payload())


def altered() -> str:
    parts = local_key(9, sbc_sessions=99).split(".")
    middle = parts[1]
    parts[1] = middle[:-2] + ("A" if middle[-2] != "A" else "B") + middle[-1]
    return ".".join(parts)


BAD: dict[str, tuple[Callable[[], str], str]] = {
    "another serial": (lambda: local_key(9, serial="S2", sbc_sessions=9), "key_for_another_serial"),
    "altered": (altered, "bad_signature"),
    "another vendor": (foreign, "unknown_signer"),
    "expired": (lambda: local_key(9, ends=int(NOW), sbc_sessions=9), "key_expired"),
    "older": (lambda: local_key(1, sbc_sessions=9), "older_key"),
    "no key at all": (lambda: "hello", "bad_envelope"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_key_that_cannot_be_is_refused_in_one_sentence_and_nothing_changes(
    world: World, case: str
) -> None:
    core = world.agent.core
    await core.install_key(local_key(2, sbc_sessions=7))
    before, told = world.flash.record, len(world.gate.told)
    make, code = BAD[case]
    with pytest.raises(CallpoolError) as caught:
        await core.install_key(make())
    assert caught.value.code == code
    assert caught.value.sentence.count("\n") == 0
    assert (world.flash.record, len(world.gate.told)) == (before, told)
    assert world.row() == (0, 7, 7)


async def test_a_key_is_replaced_and_counts_at_once_without_a_restart(world: World) -> None:
    restarts = world.gate.restarts
    await world.agent.core.install_key(local_key(2, sbc_sessions=9))
    assert (world.row(), world.sessions()) == ((0, 9, 9), 9)
    await world.agent.core.install_key(local_key(3, sbc_sessions=1))
    assert (world.row(), world.sessions()) == ((0, 1, 1), 1)
    assert world.gate.restarts == restarts


async def test_a_key_that_ends_warns_and_stops_counting_by_the_gates_own_step(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    await world.agent.core.install_key(local_key(2, ends=int(NOW + 40 * DAY), sbc_sessions=7))
    assert "local_key_ends" not in world.alarms()
    await world.go(39 * DAY)
    assert "local_key_ends" in world.alarms()
    assert world.agent.status().features == ("Test Call",)
    # Whatever becomes of the core, the gate holds the step already.
    assert world.gate.policy.at(NOW + 40 * DAY - 2).caps["sbc_sessions"] == 17
    assert world.gate.policy.at(NOW + 40 * DAY + 2).caps["sbc_sessions"] == 10
    await world.go(DAY + 60)
    assert world.row() == (10, 0, 10)
    assert world.agent.status().features == ()
    assert "local_key_ended" in world.alarms()
    await world.crash()
    await world.start()
    assert world.row() == (10, 0, 10), "an ended key in the flash is no reason not to start"
    await world.agent.core.install_key(local_key(3, sbc_sessions=4))
    assert world.row() == (10, 4, 14)
    assert not {"local_key_ended", "local_key_ends"} & world.alarms()


async def test_features_come_from_the_local_key_only(tmp_path: Path) -> None:
    world = World(tmp_path / "device", local=0)
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(100, 100)
    await world.start()
    assert world.row() == (100, 0, 100)
    assert world.agent.status().features == ()
    await world.agent.core.install_key(local_key(1, sbc_sessions=0))
    assert world.agent.status().features == ("Test Call",)
    assert world.row() == (100, 0, 100)
    await world.crash()


async def test_what_exceeds_the_maximum_is_told_apart_before_and_after_it_is_applied(
    world: World,
) -> None:
    def said() -> str:
        return "".join(a.text for a in world.agent.status().alarms if a.code == "over_allocated")

    world.manager.allocate(1005)
    await world.agent.pull()
    await world.go(0.0)
    assert world.row() == (1005, 5, 5)
    assert "10 SBC Sessions will not be applied" in said()
    await world.restart(save=True)
    assert world.row() == (1005, 5, 1000)
    assert "10 SBC Sessions are not used" in said()
    world.manager.allocate(900)
    await world.agent.pull()
    await world.go(0.0)
    assert "are not used" in said(), "until the new allocation is applied"
    await world.restart(save=True)
    assert world.row() == (900, 5, 905)
    assert said() == ""


def test_an_expired_key_is_refused_while_the_device_is_made_and_while_it_is_off(
    tmp_path: Path,
) -> None:
    device = World(tmp_path / "device")
    expired = local_key(5, ends=1_700_000_000, sbc_sessions=5)
    with pytest.raises(CallpoolError) as caught:
        install_offline(device.layout, expired)
    assert caught.value.code == "key_expired"
    plan = Plan(serial="S1", vendor_key=VENDOR.public.text, key=expired)
    with pytest.raises(CallpoolError) as caught:
        set_up(type(device.layout)(tmp_path / "other"), plan)
    assert caught.value.code == "key_expired"
    assert not (tmp_path / "other" / "device.json").exists()
