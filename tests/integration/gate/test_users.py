"""Far-end users: an exact cap on addresses of record; refresh and removal are never judged."""

from __future__ import annotations

import contextlib

from gatekit import HOST, REALM, Phone, Rig, becomes, call_up, caps, eventually, invite, rig, users

from callpool.host import sipp
from callpool.licensing.admission import AdmissionPolicy, Step


def registered(r: Rig) -> list[str]:
    return sorted(r.gate.book.users)


async def test_registrations_at_once_are_admitted_to_the_license_and_not_beyond() -> None:
    names = users(40)
    async with rig(caps(users=15), users=names) as r:
        running = await sipp.register(r.address, dict.fromkeys(names, "pw"), realm=REALM, rate=200)
        result = await running.wait(60)
        assert (result.admitted, result.refused) == (15, 25)
        await eventually(lambda: r.gate.usage().users == 15)
        assert await r.count("u") == 15
        assert r.gate.usage().peak_users == 15


async def test_a_refresh_and_a_removal_pass_whatever_the_policy_says() -> None:
    async with rig(caps(users=2), users=users(5)) as r:
        with Phone(r.address) as phone:
            assert (await phone.register("u0")).code == 200
            assert (await phone.register("u1")).code == 200
            refused = await phone.register("u2")
            assert refused.code == 503
            assert "callpool user_limit:" in refused.header("Warning")
            await r.gate.apply(AdmissionPolicy(steps=(Step(admit=False, reason="lease_ended"),)))
            assert (await phone.register("u0", cseq=5)).code == 200  # a refresh
            assert (await phone.register("u0", contact="<sip:u0@192.0.2.9>")).code == 200
            assert (await phone.register("u1", expires=0)).code == 200
            await eventually(lambda: r.gate.usage().users == 1)
            here = f"<sip:u0@{HOST}:{phone.port}>;expires=0, <sip:u0@192.0.2.9>;expires=0"
            assert (await phone.register("u0", expires=None, contact=here)).code == 200
            await eventually(lambda: r.gate.usage().users == 0)
            assert "lease_ended" in (await phone.register("u0")).header("Warning")
            # Removing what is not there is no new user.
            assert (await phone.register("u4", expires=0)).code == 200
            assert (await phone.register("u4", expires=0, contact="*")).code == 200
            gone = "<sip:u4@192.0.2.9>;expires=0"
            assert (await phone.register("u4", expires=None, contact=gone)).code == 200
            assert (await phone.register("u4", expires=None, contact=None)).code == 200


async def test_every_contact_is_removed_by_a_star() -> None:
    async with rig(caps(users=1), users=users(1)) as r:
        with Phone(r.address) as phone:
            for host in ("192.0.2.1", "192.0.2.2"):
                assert (await phone.register("u0", contact=f"<sip:u0@{host}>")).code == 200
            assert await r.count("u") == 1
            await becomes(lambda: r.gate.usage().users, 1)
            assert (await phone.register("u0", expires=0, contact="*")).code == 200
            await eventually(lambda: r.gate.usage().users == 0)


async def test_a_mixture_of_a_removal_and_a_new_contact_is_judged() -> None:
    async with rig(caps(users=0), users=users(1)) as r:
        with Phone(r.address) as phone:
            both = "<sip:u0@192.0.2.1>;expires=0, <sip:u0@192.0.2.2>;expires=60"
            answer = await phone.register("u0", expires=None, contact=both)
            assert answer.code == 503
            assert "no_license" in answer.header("Warning")
            mixed = "<sip:u0@192.0.2.1>;expires=0, <sip:u0@192.0.2.2>"
            assert (await phone.register("u0", expires=None, contact=mixed)).code == 503
            sneaky = "<sip:u0@192.0.2.2>;expires=60"
            assert (await phone.register("u0", expires=0, contact=sneaky)).code == 503
            assert await r.count("u") == 0


async def test_one_user_written_in_two_ways_is_one_user() -> None:
    async with rig(caps(users=1), users=users(1)) as r:
        with Phone(r.address) as phone:
            assert (await phone.register("u0")).code == 200
            other = f"sip:u%30@{REALM.upper()}"
            assert (await phone.register("u0", aor=other)).code in (200, 401, 403)
            assert await r.count("u") == 1


async def test_contacts_of_one_user_are_free_up_to_the_most_that_is_set() -> None:
    async with rig(caps(users=1), users=users(1), max_contacts=3) as r:
        with Phone(r.address) as phone:
            codes = [
                (await phone.register("u0", contact=f"<sip:u0@192.0.2.{i}>")).code
                for i in range(1, 6)
            ]
            assert codes == [200, 200, 200, 503, 503]
            assert await r.count("u") == 1


async def test_a_registration_that_expires_gives_its_license_back() -> None:
    async with rig(caps(users=1), users=users(2), min_expires=1, expiry_interval=1) as r:
        with Phone(r.address) as phone:
            assert (await phone.register("u0", expires=5)).code == 200
            assert (await phone.register("u1", expires=60)).code == 503
            await becomes(lambda: r.gate.usage().peak_users, 1)
            await becomes(lambda: r.gate.usage().users, 0)
            assert (await phone.register("u1", expires=60)).code == 200


async def test_a_wrong_password_registers_nobody_and_an_unknown_caller_is_refused() -> None:
    async with rig(caps(users=5), users=users(1), trusted_peers=()) as r:
        with Phone(r.address) as phone:
            assert (await phone.register("u0", password="no")).code == 401
            somebody_else = await phone.register("u0", aor=f"sip:boss@{REALM}")
            assert somebody_else.code in (401, 403)
            answer = await phone.ask(invite(phone, "stranger@test"))
            assert answer.code in (401, 407)
            assert (await r.count("u"), await r.count()) == (0, 0)


async def test_registrations_are_counted_and_reachable_again_after_kamailio_is_killed() -> None:
    async with rig(caps(users=3, sessions=5), users=users(4)) as r:
        with Phone(r.address) as phone, Phone(r.address) as other:
            here = f"<sip:u0@{HOST}:{r.uas.port}>"
            assert (await phone.register("u0", contact=here)).code == 200
            assert (await phone.register("u1")).code == 200
            await eventually(lambda: r.gate.usage().users == 2)
            first = r.gate.kamailio_pid
            await kill_main(r)
            await eventually(lambda: r.gate.kamailio_pid not in (0, first))
            await eventually(lambda: [a for a in r.alarms if a.code == "gate_restarted"])
            assert await r.count("u") == 2
            # u1's telephone rings; u0's is the answerer.
            uri = f"sip:u1@{HOST}:{r.port}"
            ring = other.message("INVITE", uri, call_id="reach@test")

            async def rings() -> str:
                other.send(ring)  # UDP: as any client would, until it is answered
                with contextlib.suppress(TimeoutError):
                    return (await phone.receive(1.0)).text
                return ""

            assert (await eventually(rings, what="u1's telephone rings")).startswith("INVITE")
            await call_up(other, "reach2@test", number="u0")
            assert (await phone.register("u1", cseq=9)).code == 200
            assert (await phone.register("u2")).code == 200
            assert (await phone.register("u3")).code == 503
            assert (await phone.register("u1", expires=0)).code == 200
            await eventually(lambda: registered(r) == [f"u0@{REALM}", f"u2@{REALM}"])


async def kill_main(r: Rig) -> None:
    import os
    import signal

    os.kill(r.gate.kamailio_pid, signal.SIGKILL)
