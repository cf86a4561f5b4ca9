"""Every alarm of an HA pair, raised and cleared by its real cause before a real receiver."""

from __future__ import annotations

import asyncio
import time

from pairkit import PairRig, eventually, pair
from pairwatch import Watch

from callpool.licensing.capacity import Capacity

_OWN_PAIR = ".1.3.6.1.4.1.32473.1.1.11"
_HA_READY = ".1.3.6.1.4.1.5003.9.10.10.2.10.1.0"


async def test_the_alarms_of_a_pair_by_their_real_causes() -> None:
    watches: list[Watch] = []

    def watched(p: PairRig) -> None:
        watches.extend(Watch(u) for u in p.units)

    try:
        async with pair(sessions=100, patience=10.0, prepare=watched) as p:
            first = p.active()
            second = p.other(first)
            watch = watches[p.units.index(first)]
            other = watches[p.units.index(second)]
            await eventually(lambda: watch.get(f"{_OWN_PAIR}.1.0") == "1")  # active
            await eventually(lambda: other.get(f"{_OWN_PAIR}.1.0") == "2")  # redundant
            assert watch.get(f"{_OWN_PAIR}.2.0") == second.serial
            await eventually(lambda: watch.get(f"{_OWN_PAIR}.3.0") == "1")  # synchronised
            await eventually(lambda: watch.get(_HA_READY) == "2")  # yes

            # A unit that has a newer local key than the other one.
            _, envelope = p.vendor.key(
                serials=[u.serial for u in p.units],
                counts=Capacity.of(sbc_sessions=120, far_end_users=100),
                maximum=Capacity.of(sbc_sessions=5000, far_end_users=5000),
                features=frozenset(), now=int(time.time()) + 1,
            )  # fmt: skip
            key = p.directory / "newer.key"
            key.write_text(envelope)
            await asyncio.to_thread(second.command, "key", "install", key)
            await watch.raised("ha_mismatch")
            await asyncio.to_thread(first.command, "key", "install", key)
            await watch.cleared("ha_mismatch")

            # A switchover that was asked for; told for ten seconds.
            await asyncio.to_thread(first.command, "pair", "switchover")
            began = await watch.raised("ha_switchover")
            assert await watch.cleared("ha_switchover") - began > 5
            await eventually(lambda: all(u.ready() for u in p.units))

            # Calls that come while what the active unit tells goes astray for a moment.
            async def blink() -> None:
                p.net.astray(second.part, True)
                calls = await p.calls(5, rate=50, hold_ms=8_000)
                await p.counted(5, second)
                p.net.astray(second.part, False)
                await p.counted(5)
                assert (await calls.wait(60)).failed == 0
                await p.counted(0)

            for _ in range(5):  # a machine that is busy may take so long that the link is "cut"
                await blink()
                if any("ha_drift" in u.alarms() for u in p.units):
                    break
                await eventually(lambda: all(u.ready() for u in p.units))
            await watch.raised("ha_drift")

            # Both have the service address: the units do not hear each other's VRRP.
            p.net.isolate(True)
            await watch.raised("ha_double_active")
            p.net.isolate(False)
            await watch.cleared("ha_double_active")

            # The way between them is gone: waited for at first, a fault after a while.
            p.net.link("a", "ha0", up=False)
            await watch.raised("ha_waiting")
            assert watch.get(f"{_OWN_PAIR}.3.0") == "2"
            assert watch.get(_HA_READY) == "3"  # no
            await watch.raised("ha_fault")
            p.net.link("a", "ha0", up=True)
            await watch.cleared("ha_fault")
            await watch.cleared("ha_waiting")
            await watch.cleared("ha_drift")
    finally:
        for made in watches:
            made.close()
