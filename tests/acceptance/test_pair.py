"""An HA pair with real keepalived, Kamailio and SIPp: one service, two units, no call lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from functools import partial

import pytest
from pairkit import PairRig, Probe, Unit, eventually, longest_gap, pair

from callpool.device.pair_settings import CORE_PORT, SIP_PORT
from callpool.licensing.capacity import Capacity

HELD = 200
#: Seconds within which the other unit serves (issue 7).
LIMIT = 3.0


def befall(unit: Unit, what: str) -> Callable[[], None]:
    """Have something happen to a unit; return what mends it."""
    if what == "killed":
        unit.power_off()
        return unit.power_on
    if what == "cut off":
        unit.cut_off()
        return lambda: unit.cut_off(up=True)
    return unit.fill_disk().unlink


@pytest.mark.parametrize(
    "what",
    [
        "killed",
        pytest.param("cut off", marks=pytest.mark.full),
        pytest.param("disk full", marks=pytest.mark.full),
    ],
)
async def test_when_the_active_unit_fails_the_other_serves_and_every_call_ends_by_its_own_bye(
    what: str,
) -> None:
    async with pair(sessions=HELD) as p:
        first = p.active()
        second = p.other(first)
        running = await p.calls(HELD, rate=100, hold_ms=25_000)
        await p.counted(HELD)
        probe = Probe(p.net)
        mend = befall(first, what)
        await eventually(lambda: second.role() in ("active", "alone"), within=20)
        # The licenses are all in use by calls that the other unit admitted: no more and no fewer.
        more = await p.calls(10, rate=50, hold_ms=0)
        assert (await more.wait(60)).refused == 10
        assert longest_gap(probe.ended()) < LIMIT
        # The unit that comes back learns the calls, and does not take the address back.
        mend()
        await eventually(lambda: all(u.ready() for u in p.units))
        await p.counted(HELD)
        assert p.active() is second
        result = await running.wait(90)
        assert (result.completed, result.failed) == (HELD, 0), result
        await p.counted(0)
        # The cap is exact afterwards.
        after = await p.calls(HELD + 20, rate=200, hold_ms=4_000)
        result = await after.wait(90)
        assert (result.admitted, result.refused) == (HELD, 20), result
        await p.counted(0)


async def test_no_call_fails_while_the_units_change_places() -> None:
    async with pair(sessions=HELD) as p:
        first = p.active()
        second = p.other(first)
        held = await p.calls(20, rate=100, hold_ms=30_000)
        await p.counted(20)
        running = await p.calls(300, rate=20, hold_ms=1_500)
        for unit, other in ((first, second), (second, first)):
            await asyncio.sleep(2)  # of attempts before, between and after
            said = await asyncio.to_thread(unit.command, "pair", "switchover", "--json")
            assert json.loads(said) == {"result": "done"}
            await eventually(lambda o=other: o.role() == "active")  # type: ignore[misc]
            await eventually(lambda u=unit: u.ready())  # type: ignore[misc]
            assert (first.has_address(), second.has_address()) == (other is first, other is second)
        result = await running.wait(90)
        assert (result.completed, result.failed) == (300, 0), result
        await p.counted(20)
        result = await held.wait(90)
        assert (result.completed, result.failed) == (20, 0), result
        await p.counted(0)


async def test_two_active_units_are_alarmed_settle_and_count_right() -> None:
    async with pair(sessions=HELD) as p:
        for unit, own in zip(p.units, ("10.78.0.1", "10.78.0.2"), strict=True):
            wanted = {("UDP", SIP_PORT), ("TCP", CORE_PORT)}
            await eventually(partial(_listens, p, unit.part, own, wanted))
            # A socket that is made and closed meanwhile is none that listens.
            seen = [p.net.listening(unit.part, own) for _ in range(5)]
            assert set.intersection(*seen) == wanted, seen
        held = await p.calls(40, rate=100, hold_ms=15_000)
        await p.counted(40)
        p.net.isolate(True)
        await eventually(lambda: all("ha_double_active" in u.alarms() for u in p.units))
        p.net.isolate(False)
        await eventually(lambda: all("ha_double_active" not in u.alarms() for u in p.units))
        await eventually(lambda: sorted(u.role() for u in p.units) == ["active", "redundant"])
        result = await held.wait(90)
        assert (result.completed, result.failed) == (40, 0), result
        await p.counted(0)


def _listens(p: PairRig, part: str, own: str, wanted: set[tuple[str, int]]) -> bool:
    return wanted <= p.net.listening(part, own)


async def test_what_the_units_could_not_tell_each_other_is_mended_once_they_can() -> None:
    async with pair(sessions=HELD) as p:
        first = p.active()
        second = p.other(first)
        ending = await p.calls(30, rate=100, hold_ms=6_000)
        await p.counted(30)
        p.net.link("a", "ha0", up=False)
        lasting = await p.calls(50, rate=50, hold_ms=25_000)
        assert (await ending.wait(60)).failed == 0
        await p.counted(50, first)
        assert second.sessions() == 30  # nothing of it has come there
        assert not second.view()["synchronised"]
        await eventually(lambda: all("ha_waiting" in u.alarms() for u in p.units))
        p.net.link("a", "ha0", up=True)
        await p.counted(50)
        await eventually(lambda: all(u.ready() for u in p.units))
        result = await lasting.wait(60)
        assert (result.completed, result.failed) == (50, 0), result
        await p.counted(0)


async def test_a_unit_that_is_stopped_hands_the_address_over_first() -> None:
    async with pair(sessions=50) as p:
        first = p.active()
        second = p.other(first)
        held = await p.calls(20, rate=50, hold_ms=30_000)
        await p.counted(20)
        going = await p.calls(100, rate=20, hold_ms=100)
        await asyncio.to_thread(first.command, "stop")
        assert first.core is not None
        await asyncio.to_thread(first.core.wait, 60)
        assert second.has_address()
        result = await going.wait(60)
        assert (result.completed, result.failed) == (100, 0), result
        first.start_core()
        await eventually(lambda: all(u.ready() for u in p.units))
        await p.counted(20)
        assert (await held.wait(60)).failed == 0
        await p.counted(0)


async def test_a_local_key_for_the_pair_is_installed_with_one_switchover() -> None:
    """The procedure of docs/pool.md, "A local key on a pair"."""
    async with pair(sessions=50) as p:
        first = p.active()
        second = p.other(first)
        held = await p.calls(40, rate=100, hold_ms=60_000)
        await p.counted(40)
        going = await p.calls(0, rate=10, hold_ms=200)
        _, envelope = p.vendor.key(
            serials=[u.serial for u in p.units],
            counts=Capacity.of(sbc_sessions=80, far_end_users=100),
            maximum=Capacity.of(sbc_sessions=5000, far_end_users=5000), features=frozenset(),
            now=int(time.time()) + 1,
        )  # fmt: skip
        key = p.directory / "more.key"
        key.write_text(envelope)

        async def install(unit: Unit) -> None:
            await asyncio.to_thread(unit.command, "key", "install", key)
            await asyncio.to_thread(unit.command, "restart", "--save")
            await eventually(lambda: all(u.ready() for u in p.units))

        await install(second)
        said = await asyncio.to_thread(first.command, "pair", "switchover", "--json")
        assert json.loads(said) == {"result": "done"}
        await eventually(lambda: p.active() is second)
        await install(first)
        result = await going.finish(60)
        assert (result.failed, result.refused) == (0, 0), result
        assert p.active() is second, "one switchover, and no way back"
        await p.counted(40)
        more = await p.calls(50, rate=100, hold_ms=3_000)
        counted = await more.wait(90)
        assert (counted.admitted, counted.refused) == (40, 10), counted
        result = await held.wait(120)
        assert (result.completed, result.failed) == (40, 0), result
        await p.counted(0)
