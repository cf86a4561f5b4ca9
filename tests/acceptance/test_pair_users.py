"""Telephones that registered with one unit are reached by way of the other."""

from __future__ import annotations

import asyncio
import hashlib

from pairkit import CALLEE, CALLER, SERVICE, eventually, pair

from callpool.host import sipp

REALM = "callpool"
PHONE = 5070


def ha1(name: str) -> str:
    return hashlib.md5(f"{name}:{REALM}:pw".encode(), usedforsecurity=False).hexdigest()


async def test_a_telephone_is_called_and_counted_by_the_unit_that_it_did_not_register_with() -> (
    None
):
    names = [f"u{i}" for i in range(5)]
    async with pair(sessions=50, users={n: ha1(n) for n in names}, realm=REALM) as p:
        first = p.active()
        second = p.other(first)

        async def register(expires: int) -> sipp.SippResult:
            running = await sipp.register(
                (SERVICE, 5060), dict.fromkeys(names, "pw"), realm=REALM, expires=expires,
                host=CALLEE, port=PHONE, wrapper=p.net.inside("y"),
            )  # fmt: skip
            return await running.wait(60)

        assert (await register(600)).admitted == 5

        def users() -> list[int]:
            return [u.status()["capacity"][1]["in_use"] for u in p.units]

        await eventually(lambda: users() == [5, 5])
        first.power_off()
        await eventually(second.has_address)
        phones = await sipp.run(
            str(p.directory / "uas.xml"), host=CALLEE, port=PHONE, wrapper=p.net.inside("y")
        )
        calls = await sipp.caller(
            (SERVICE, 5060), calls=5, rate=10, hold_ms=200, number="u3", domain=REALM,
            host=CALLER, port=30_000, wrapper=p.net.inside("x"),
        )  # fmt: skip
        result = await calls.wait(60)
        assert (result.admitted, result.failed) == (5, 0), result
        assert (await phones.stop(grace=1.0)).calls == 5, phones.errors()
        # What is removed while one unit is away is known to it when it is back.
        assert (await register(0)).admitted == 5
        await eventually(lambda: second.status()["capacity"][1]["in_use"] == 0)
        await asyncio.to_thread(first.power_on)
        await eventually(lambda: all(u.ready() for u in p.units))
        assert users() == [0, 0]
