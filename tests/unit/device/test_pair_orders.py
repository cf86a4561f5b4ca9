"""A unit of an HA pair: its role, the manager's switchover orders, and what it is alarmed of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from device_world import NOW, World

from callpool.device.errors import DeviceError
from callpool.device.pair import Pair
from callpool.device.pair_address import ServiceAddress
from callpool.device.pair_keys import Listing
from callpool.device.pair_link import PairLink, UnitState
from callpool.device.pair_settings import PairSettings
from callpool.wire.messages import PairReport, SwitchOrder

SETTINGS = PairSettings(
    peer_serial="S2", address="127.0.0.2", peer="127.0.0.3", service="127.0.0.9/8", interface="lo"
)


class QuietGate:
    """A Kamailio without calls."""

    start_number = 1

    def __init__(self) -> None:
        self.serving: list[bool] = []

    def keys(self) -> dict[str, tuple[int, int]]:
        return {}

    def contacts(self) -> dict[str, tuple[str, ...]]:
        return {}

    async def add_key(self, key: str, kind: int, age: int) -> None: ...
    async def end_key(self, key: str) -> None: ...
    async def tell_user(self, aor: str) -> None: ...
    async def drop_user(self, aor: str) -> None: ...

    async def serve(self, serving: bool) -> None:
        self.serving.append(serving)

    async def answers(self) -> bool:
        return True


class Unit:
    """A device in virtual time, with the files that a keepalived would write."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory / "d")
        self.settings = PairSettings(
            **{f: getattr(SETTINGS, f) for f in SETTINGS.__struct_fields__ if f != "runtime"},
            runtime=str(directory / "run"),
        )
        self.gate = QuietGate()
        self.pair: Pair

    async def start(self) -> None:
        await self.world.start()
        core, agent = self.world.agent.core, self.world.agent
        address = ServiceAddress(self.settings, "S1", self.world.layout.root)
        address.prepare()
        self.address = address
        self.pair = Pair(
            core=core, gate=self.gate, settings=self.settings,
            link=PairLink(secret="ab" * 32, address="127.0.0.2", peer="127.0.0.3", port=1),
            address=address, post=agent.post, directory=self.world.layout.root,
            monotonic=lambda: self.world.clock.now().boottime,
        )  # fmt: skip
        core.pair = self.pair
        self.pair.on_active = lambda: agent.contact("switchover")

    async def role(self, word: str) -> None:
        """keepalived says its role."""
        (self.address.runtime / "beat").touch()
        (self.address.runtime / "role").write_text(f"{word}\n")
        await self.pair._look()

    def hear(self, role: str, *, synchronised: bool = True, passes: int = 2) -> None:
        """The other unit says how it is, and what it holds: nothing."""
        actual = self.world.agent.core.actual(self.world.agent.core.now()).to_dict()
        self.pair._take(
            UnitState(
                serial="S2",
                role=role,
                run="r",
                start=1,
                healthy=True,
                synchronised=synchronised,
                peer_age=0.1,
                actual=actual,
            )
        )
        for _ in range(passes):
            there = Listing(calls={}, users={})
            self.pair._comparison.compare([], [], there, self.pair._tombs)

    @property
    def rank(self) -> int:
        return int((self.address.runtime / "rank").read_text())

    def reported(self) -> PairReport:
        """What the manager was last told."""
        report = self.world.manager.requests[-1].pair
        assert report is not None
        return report

    async def contact(self) -> None:
        await self.world.agent.pull()
        await self.world.go(0.0)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)
                await self.world.go(0.0)

    def result(self) -> tuple[int, str]:
        pool = self.world.agent.core.opened.record.pool
        return pool.switch_done, pool.switch_result


@pytest.fixture
async def unit(tmp_path: Path) -> AsyncIterator[Unit]:
    made = Unit(tmp_path)
    await made.start()
    yield made
    await made.pair.close()
    await made.world.crash()


async def active(unit: Unit) -> None:
    await unit.role("MASTER")
    unit.hear("redundant")


async def test_a_role_is_what_keepalived_says_and_what_is_heard_of_the_other_unit(
    unit: Unit,
) -> None:
    assert unit.pair.role == "fault"  # no keepalived
    await unit.role("BACKUP")
    assert unit.pair.role == "redundant"
    await unit.role("MASTER")
    assert unit.pair.role == "alone"
    unit.hear("redundant")
    assert unit.pair.role == "active"
    assert unit.gate.serving == [True]
    await unit.role("FAULT")
    assert (unit.pair.role, unit.gate.serving) == ("fault", [True, False])


async def test_the_new_active_unit_contacts_the_manager_once_it_knows_all_calls(
    unit: Unit,
) -> None:
    await unit.role("BACKUP")
    unit.hear("active", passes=1)
    before = len(unit.world.manager.requests)
    await unit.role("MASTER")
    await unit.world.go(0.0)
    assert len(unit.world.manager.requests) == before  # its calls are still being learnt
    unit.hear("redundant")
    unit.pair._tell_news()
    await unit.world.go(0.0)
    last = unit.world.manager.requests[-1]
    assert last.reason == "switchover"
    assert last.pair == PairReport(peer="S2", role="active", synchronised=True, peer_age=0.0)


async def test_who_has_the_address_ranks_higher_than_one_that_comes_back(unit: Unit) -> None:
    await unit.role("BACKUP")
    assert unit.rank == 0
    await unit.role("MASTER")
    await unit.pair._look()
    assert unit.rank == 20
    unit.address.prepare()  # `pair keepalived`, beside the core
    assert unit.rank == 20


async def test_an_order_is_carried_out_once_and_its_end_is_told(unit: Unit) -> None:
    await active(unit)
    unit.world.manager.switch = SwitchOrder(number=3, to="S2")
    await unit.contact()
    assert unit.result() == (3, "under way")
    await unit.until(lambda: unit.pair._switchover.yielding)
    await unit.pair._look()
    assert unit.rank == -20
    await unit.role("BACKUP")
    unit.hear("active")
    await unit.until(lambda: unit.result() == (3, "done"))
    await unit.contact()
    assert (unit.reported().role, unit.reported().switch_done) == ("redundant", 3)
    assert unit.reported().switch_result == "done"
    await unit.role("MASTER")  # back again: the same order, told again, moves nothing
    unit.hear("redundant")
    await unit.contact()
    await unit.pair._look()
    assert unit.rank == 20


@pytest.mark.parametrize(
    ("order", "prepare", "why"),
    [
        (SwitchOrder(number=1, to="S2", until=NOW - 5.0), "whole", "refused: expired"),
        (SwitchOrder(number=1, to="S9"), "whole", "refused: S9 is not the other unit"),
        (SwitchOrder(number=1, to="S2"), "deaf", "refused: the other unit is not heard"),
        (SwitchOrder(number=1, to="S2"), "redundant", "refused: this unit is not the active one"),
        (SwitchOrder(number=1, to="S1"), "whole", "done"),
    ],
)
async def test_an_order_that_cannot_be_carried_out_says_why(
    unit: Unit, order: SwitchOrder, prepare: str, why: str
) -> None:
    await unit.role("BACKUP" if prepare == "redundant" else "MASTER")
    if prepare != "deaf":
        unit.hear("redundant")
    unit.world.manager.switch = order
    await unit.contact()
    assert unit.result() == (1, why)
    await unit.pair._look()
    assert unit.rank in (0, 20)


async def test_an_order_waits_a_moment_for_the_units_to_be_synchronised(unit: Unit) -> None:
    await unit.role("MASTER")
    unit.hear("redundant", passes=0)
    unit.world.manager.switch = SwitchOrder(number=1, to="S2")
    for _ in range(2):  # told again meanwhile
        await unit.contact()
        assert unit.result() == (0, "")
    unit.hear("redundant")
    await unit.until(lambda: unit.result() == (1, "under way"))
    await unit.until(lambda: unit.pair._switchover.yielding)
    await unit.role("BACKUP")
    unit.hear("active")
    await unit.until(lambda: unit.result() == (1, "done"))


async def test_an_order_for_units_that_stay_unsynchronised_is_refused_and_another_is_not(
    unit: Unit,
) -> None:
    await unit.role("MASTER")
    unit.hear("redundant", passes=0)
    unit.world.manager.switch = SwitchOrder(number=1, to="S2")
    await unit.contact()
    for _ in range(4):  # the other unit is heard all the time
        unit.world.clock.advance(1.5)
        unit.hear("redundant", passes=0)
    await unit.until(lambda: unit.result() == (1, "refused: the units are not synchronised"))
    unit.hear("redundant")
    unit.world.manager.switch = SwitchOrder(number=2, to="S2")
    await unit.contact()
    assert unit.result() == (2, "under way")


async def test_an_order_that_the_other_unit_does_not_follow_fails_and_the_address_stays(
    unit: Unit,
) -> None:
    await active(unit)
    unit.world.manager.switch = SwitchOrder(number=1, to="S2")
    await unit.contact()
    await unit.until(lambda: unit.pair._switchover.yielding)
    unit.world.clock.advance(11.0)
    await unit.until(lambda: unit.result()[1].startswith("failed: "))
    await unit.role("MASTER")
    assert unit.rank == 20


async def test_a_core_that_died_over_an_order_does_not_begin_it_again(unit: Unit) -> None:
    await active(unit)
    unit.world.manager.switch = SwitchOrder(number=1, to="S2")
    await unit.contact()
    await unit.pair.close()
    await unit.world.crash()
    await unit.start()
    await unit.role("MASTER")
    unit.pair.run()
    await unit.until(lambda: unit.result()[1].startswith("failed: the core was restarted"))
    await unit.contact()
    assert unit.result()[0] == 1


async def test_alarms_grow_from_waiting_to_fault_and_say_when_they_are_expected(
    unit: Unit,
) -> None:
    await active(unit)
    assert unit.world.alarms() & {"ha_waiting", "ha_fault"} == set()
    unit.world.clock.advance(3.0)
    assert unit.world.alarms() >= {"ha_waiting"}
    unit.world.clock.advance(30.0)
    assert unit.world.alarms() >= {"ha_fault"}
    unit.world.manager.expect_ha_alarms_until = NOW + 3600.0
    await unit.contact()
    texts = [a.text for a in unit.world.agent.status().alarms if a.code == "ha_fault"]
    assert "(expected: a planned run)" in texts[0]
    unit.world.clock.advance(7200.0)
    texts = [a.text for a in unit.world.agent.status().alarms if a.code == "ha_fault"]
    assert "expected" not in texts[0]


async def test_two_active_units_are_alarmed(unit: Unit) -> None:
    await unit.role("MASTER")
    unit.hear("active")
    assert "ha_double_active" in unit.world.alarms()
    unit.hear("redundant")
    assert "ha_double_active" not in unit.world.alarms()


@pytest.mark.parametrize("patience", [4.9, 600.1, float("nan")])
def test_how_long_the_other_unit_may_be_away_has_bounds(patience: float) -> None:
    with pytest.raises(DeviceError) as refused:
        msgspec.structs.replace(SETTINGS, patience=patience)
    assert refused.value.code == "bad_pair_settings"
    assert "5 to 600 seconds" in refused.value.sentence
