"""True refusals and repeats, as real calls to a real Kamailio are counted."""

from __future__ import annotations

from gatekit import HOST, Phone, call_up, caps, eventually, invite, rig, users


async def test_the_same_caller_again_is_a_repeat_until_the_time_is_over() -> None:
    async with rig(caps(sessions=1), repeat_seconds=3) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "up@test")
            number = 0

            async def refused(who: str, called: str = "1000") -> None:
                nonlocal number
                number += 1
                request = invite(
                    phone, f"no{number}@test", number=called, from_uri=f"sip:{who}@{HOST}"
                )
                answer = await phone.ask(request)
                assert answer.code == 503
                phone.acknowledge(request, answer)

            def counted(true: int, repeats: int) -> bool:
                return r.gate.usage().turned_away.get("sbc_sessions") == (true, repeats)

            await refused("alice")
            await refused("alice")
            await refused("bob")
            await refused("alice", "2000")
            await eventually(lambda: counted(3, 1), what="3 true refusals and a repeat")
            # Kamailio's own ticks say when the time is over.
            tick = await r.count("up")

            async def later() -> bool:
                return await r.count("up") > tick + 4

            await eventually(later, 30, what="the time of a repeat to pass")
            await refused("alice")
            await eventually(lambda: counted(4, 1), what="a true refusal again")
            assert r.gate.take_high() == (1, 0)
            assert (await call.bye()).code == 200


async def test_a_telephone_that_tries_to_register_again_and_again_is_one_true_refusal() -> None:
    async with rig(caps(sessions=1, users=0), users=users(2)) as r:
        with Phone(r.address) as phone:
            for number in range(3):
                assert (await phone.register("u0", cseq=1 + 2 * number)).code == 503
            assert (await phone.register("u1")).code == 503
        await eventually(
            lambda: r.gate.usage().turned_away == {"far_end_users": (2, 2)},
            what="two telephones turned away",
        )


async def test_what_was_refused_without_a_core_counts_when_it_is_back() -> None:
    async with rig(caps(sessions=0)) as r:
        await eventually(lambda: r.gate.usage().alive, what="a heartbeat")
        await r.gate.detach()
        with Phone(r.address) as phone:
            for number in range(3):
                request = invite(phone, f"no{number}@test", from_uri=f"sip:a@{HOST}")
                phone.acknowledge(request, await phone.ask(request))
        await r.gate.attach(caps(sessions=0))
        # Nobody was there to see that it was one caller.
        await eventually(
            lambda: r.gate.usage().turned_away == {"sbc_sessions": (3, 0)}, what="three refusals"
        )
