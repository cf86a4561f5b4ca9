"""Law 2: an established call is never cut; law 4: a bare To-tag proves nothing."""

from __future__ import annotations

import pytest
from gatekit import HOST, Phone, becomes, call_ids, call_up, caps, eventually, invite, rig

from callpool.host import sipp
from callpool.licensing.admission import AdmissionPolicy, Step

CLOSED = AdmissionPolicy(steps=(Step(admit=False, reason="eval_expired"),))


async def test_calls_go_on_and_end_in_order_after_the_license_has_shrunk_to_nothing() -> None:
    async with rig(caps(sessions=5)) as r:
        running = await sipp.caller(
            r.address, calls=5, rate=100, hold_ms=4000, scenario="uac_reinvite"
        )
        await eventually(lambda: r.gate.usage().sessions == 5)
        await r.gate.apply(CLOSED)
        result = await running.wait(60)
        assert (result.completed, result.failed) == (5, 0)
        await r.settled(0)


async def test_a_shrunken_license_admits_again_only_below_it() -> None:
    async with rig(caps(sessions=4)) as r:
        with Phone(r.address) as phone:
            up = [await call_up(phone, f"s{i}@test") for i in range(4)]
            await r.gate.apply(caps(sessions=2))
            for i in range(2):
                assert (await phone.ask(invite(phone, f"n{i}@test"))).code == 503
                assert (await up[i].bye()).code == 200
            await eventually(lambda: r.gate.usage().sessions == 2)
            assert (await phone.ask(invite(phone, "n2@test"))).code == 503
            assert (await up[2].bye()).code == 200
            await call_up(phone, "n3@test")
            await r.settled(2)


@pytest.mark.parametrize("mac_only", [False, True])
async def test_a_forged_to_tag_is_answered_481_and_reaches_nobody(mac_only: bool) -> None:
    async with rig(caps(sessions=9), mac_only=mac_only) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "real@test")
            cp = call.routes.partition("cp=")[2][:32]
            assert len(cp) == 32
            proxy = f"<sip:{HOST}:{r.port};lr=on"
            forged: list[dict[str, str]] = [
                {},
                {"Route": f"{proxy}>"},
                {"Route": f"{proxy};cp={'0' * 32}>"},
                {"Route": f"{proxy};cp={cp}>"},  # another call's
                {"Route": f"{proxy};cp={cp[:31]}>"},
            ]
            for i, headers in enumerate(forged):
                for method in ("INVITE", "BYE", "MESSAGE"):
                    text = phone.message(
                        method, call.remote, call_id=f"forged{i}@test", to_tag="x", headers=headers
                    )
                    assert (await phone.ask(text)).code == 481, (i, method)
            assert await r.count() == 1
            assert (await call.bye()).code == 200
            await r.settled(0)


async def test_a_stray_ack_is_swallowed() -> None:
    async with rig(caps(sessions=1)) as r:
        with Phone(r.address) as phone:
            uri = f"sip:1000@{HOST}:{r.port}"
            phone.send(phone.message("ACK", uri, call_id="stray@test", to_tag="x"))
            assert await phone.silence()


async def test_the_mac_alone_carries_a_call_whose_key_is_gone() -> None:
    async with rig(caps(sessions=2)) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "lost@test")
            await r.settled(1)
            await r.gate.end_call("lost@test")
            await r.settled(0)
            reinvite = call.text("INVITE", 2)
            answer = await phone.ask(reinvite)
            assert answer.code == 200
            phone.send(call.text("ACK", 2))
            assert (await call.bye()).code == 200
            assert await r.count() == 0


async def test_a_bye_that_comes_twice_gives_back_once() -> None:
    async with rig(caps(sessions=9)) as r:
        with Phone(r.address) as phone:
            one = await call_up(phone, "one@test")
            await call_up(phone, "two@test")
            text = one.text("BYE", 9)
            for _ in range(10):
                phone.send(text)
            assert (await phone.final("9 BYE")).code == 200
            phone.send(one.text("BYE", 10))
            await r.settled(1)


async def test_an_end_by_command_is_exact() -> None:
    async with rig(caps(sessions=3)) as r:
        with Phone(r.address) as phone:
            for i in range(3):
                await call_up(phone, f"c{i}@test")
            await r.settled(3)
            for _ in range(3):
                await r.gate.end_call("c1@test")
            await r.settled(2)
            assert call_ids(r) == {"c0@test", "c2@test"}


async def test_a_call_older_than_any_call_may_be_is_swept() -> None:
    async with rig(caps(sessions=1), max_call_seconds=2) as r:
        with Phone(r.address) as phone:
            await call_up(phone, "old@test")
            await becomes(lambda: r.gate.usage().admitted, 1)
            await r.settled(0)


async def test_nothing_is_relayed_to_where_the_sender_likes() -> None:
    async with rig(caps(sessions=9)) as r:
        with Phone(r.address) as phone, Phone(r.address) as victim:
            for headers in ({}, {"Route": f"<sip:{HOST}:{victim.port};lr>"}):
                text = phone.message(
                    "INVITE",
                    f"sip:x@{HOST}:{victim.port}",
                    call_id=f"open{len(headers)}@t",
                    headers=headers,
                )
                answer = await phone.ask(text)
                assert answer.code == 200  # the fixed destination answers it
            assert await victim.silence(0.2)
