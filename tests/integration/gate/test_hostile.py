"""What a stranger or a careless peer may send: nothing free, nothing injected, nothing relayed."""

from __future__ import annotations

import pytest
from farend import FarEnd
from gatekit import HOST, Phone, becomes, call_ids, call_up, caps, eventually, invite, rig, users

from callpool.device.gate.driver import KamailioGate
from callpool.device.gate.settings import Destination
from callpool.host import sipp
from callpool.host.clock import SystemClock
from callpool.host.ports import free_port


async def test_another_callers_tag_under_a_live_call_id_is_another_call() -> None:
    far = await FarEnd.open()
    async with rig(caps(sessions=1), far=far) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "shared@test")
            answer = await phone.ask(invite(phone, "shared@test", from_tag="other"))
            assert answer.code == 503
            await r.gate.apply(caps(sessions=2))
            second = await phone.ask(
                invite(phone, "shared@test", from_tag="third", branch="z9hG4bKthird")
            )
            assert second.code == 200
            assert await r.count() == len(far.up) == 2
            assert (await call.bye()).code == 200
            await r.settled(1)
            assert far.up == {"shared@test;third"}


WEIRD = [
    "a b@test", 'quo"te@test', "semi;colon/slash@test", "dollar$ci$(var(x){s.len})@test",
    "per%s%n%x@test", "x" * 300 + "@test", "y" * 900, "t\tab@test", "cr\rE end 1 victim@test",
    "fold\r\n E end 1 victim@test", "\x01ctl@test", "=>key@test",
]  # fmt: skip


async def test_strange_call_ids_break_neither_datagrams_nor_journal_nor_seed() -> None:
    far = await FarEnd.open()
    # One worker, so that whatever came before the last call has been dealt with before it.
    async with rig(caps(sessions=50), far=far, workers=1) as r:
        with Phone(r.address) as phone:
            await call_up(phone, "victim@test")
            texts = [invite(phone, w, branch=f"z9hG4bKw{i}") for i, w in enumerate(WEIRD)]
            for text in texts:
                phone.send(text)
            for bad in (b"\xff\xfe8bit@test", b"\xc3\xa4@test"):
                raw = invite(phone, "EIGHT", branch=f"z9hG4bK{bad.hex()}").encode()
                phone.socket.sendto(raw.replace(b"EIGHT", bad), phone.target)
            await call_up(phone, "last@test")
            await r.settled(len(far.up))
            await r.gate.resync()
            count = await r.count()
            assert r.gate.usage().sessions == count == len(far.up)
            assert {"victim@test", "last@test"} <= call_ids(r)
            assert not [c for c in call_ids(r) if any(x in c for x in " \t\n")]
            # And all of it comes back from the disk, no more and no less.
            await r.gate.restart(caps(sessions=50))
            assert await r.count() == count
            await r.gate.resync()
            assert r.gate.book.repaired == (0, 0)
            other = KamailioGate(r.gate.settings, SystemClock())
            await r.gate.detach()
            await other.attach(caps(sessions=50))
            assert other.usage().sessions == count
            await other.stop()


async def test_a_zero_byte_in_a_call_id_hides_no_call_and_adds_none() -> None:
    async with rig(caps(sessions=9), far=await FarEnd.open(), workers=1) as r:
        with Phone(r.address) as phone:
            await call_up(phone, "victim@test")
            phone.send(invite(phone, "nul\x00\r\n 64 forged@test", branch="z9hG4bKnul"))
            await call_up(phone, "last@test")
            count = await r.count()
            await r.gate.resync()
            assert r.gate.usage().sessions == count
            await r.gate.restart(caps(sessions=9))
            await r.gate.resync()
            assert r.gate.usage().sessions == await r.count() == count


async def test_long_and_strange_names_do_not_lose_a_refusal() -> None:
    async with rig(caps(sessions=0)) as r:
        with Phone(r.address) as phone:
            names = ["n" * 900, "a;b=c", "%0d%0aE%20end", "q'uote", "a/b"]
            for i, name in enumerate(names):
                text = invite(phone, f"long{i}@test", from_uri=f"sip:{name}@{HOST}")
                assert (await phone.ask(text)).code == 503
            await eventually(lambda: r.gate.usage().refused == {"no_license": len(names)})
            await becomes(lambda: r.gate.book.gap, False)
            assert {x.call_id for x in r.refusals} == {f"long{i}@test" for i in range(len(names))}


async def test_a_registration_that_could_break_the_seed_is_refused() -> None:
    async with rig(caps(users=5), users=users(3)) as r:
        with Phone(r.address) as phone:
            for call_id in ("a b", "x\ty", "fold\r\n more"):
                assert (await phone.register("u0", call_id=call_id)).code != 200
            answer = await phone.register("u0", contact=f"<sip:u0\t;x@{HOST}>")
            assert answer.code != 200
            assert (await phone.register("u1", contact=f'"A\tB" <sip:u1@{HOST}>')).code == 200
            await eventually(lambda: r.gate.usage().users == 1)
            await r.gate.restart(caps(users=5))
            assert await r.count("u") == 1


async def test_a_registration_that_fails_leaves_no_lock_behind() -> None:
    names = users(1)
    async with rig(caps(users=1), users=names, max_contacts=1, workers=8) as r:
        with Phone(r.address) as phone:
            assert (await phone.register("u0", contact="<sip:u0@192.0.2.1>")).code == 200
            for i in range(20):
                bad = await phone.register("u0", contact=f"<sip:u0@192.0.2.{i + 2}>")
                assert bad.code >= 400
            for contact in ("<sip:>", "<mailto:x>", "garbage"):
                await phone.register("u0", contact=contact)
            assert (await phone.register("u0", contact="<sip:u0@192.0.2.1>")).code == 200
            assert (await phone.register("u0", contact="*", expires=0)).code == 200
            await eventually(lambda: r.gate.usage().users == 0)


async def test_no_request_of_a_stranger_goes_where_he_likes() -> None:
    """Without a call of his own: no Route, no request-URI, no To-tag makes a relay of it."""
    listen_host = "127.0.0.9"
    async with rig(caps(sessions=9), trusted_peers=("127.0.0.8",)) as r:
        with Phone(r.address, host=listen_host) as stranger, Phone(r.address) as victim:
            here = f"sip:x@{HOST}:{victim.port}"
            routes = [
                {}, {"Route": f"<{here};lr>"},
                {"Route": f"<sip:{HOST}:{r.port};lr>\n<{here};lr>"},
                {"Route": f"<sip:{HOST}:{r.port};lr;cp={'a' * 32}>, <{here};lr>"},
            ]  # fmt: skip
            for i, headers in enumerate(routes):
                for tag in ("", "x"):
                    for method in ("INVITE", "BYE", "MESSAGE", "OPTIONS", "ACK", "CANCEL"):
                        stranger.send(
                            stranger.message(
                                method, here, call_id=f"o{i}{tag}@t", to_tag=tag, headers=headers
                            )
                        )
            assert await victim.silence(0.5)
            assert await r.count() == 0


async def test_a_live_call_is_no_relay_for_a_stranger_without_its_route() -> None:
    far = await FarEnd.open(host="127.0.0.7")
    destinations = (Destination(host="127.0.0.7", port=far.port),)
    async with rig(
        caps(sessions=9), far=far, destinations=destinations, trusted_peers=("127.0.0.8",)
    ) as r:
        with (
            Phone(r.address, host="127.0.0.8") as peer,
            Phone(r.address, host="127.0.0.9") as thief,
            Phone(r.address) as victim,
        ):
            peer.send(invite(peer, "live@test"))
            answer = await peer.final()
            assert answer.code == 200
            text = thief.message(
                "INVITE", f"sip:x@{HOST}:{victim.port}", call_id="live@test", to_tag="far", cseq=2
            )
            assert (await thief.ask(text)).code == 404
            assert await victim.silence(0.3)
            assert await r.count() == 1


async def test_an_answer_that_nobody_asked_for_ends_no_call() -> None:
    async with rig(caps(sessions=1)) as r:
        with Phone(r.address) as phone:
            await call_up(phone, "kept@test")
            for code, cseq in ((486, "1 INVITE"), (200, "2 BYE"), (481, "2 BYE")):
                phone.send(
                    f"SIP/2.0 {code} Forged\r\n"
                    f"Via: SIP/2.0/UDP {HOST}:{r.port};branch=z9hG4bKforged{code}\r\n"
                    f"Via: SIP/2.0/UDP {HOST}:{phone.port};branch=z9hG4bKx\r\n"
                    f"From: <sip:phone@{HOST}>;tag=f\r\nTo: <sip:1000@{HOST}>;tag=x\r\n"
                    f"Call-ID: kept@test\r\nCSeq: {cseq}\r\nContent-Length: 0\r\n\r\n"
                )
                await phone.receive()  # it went through
            assert await r.count() == 1
            assert (await phone.ask(invite(phone, "second@test"))).code == 503


async def test_a_flood_from_a_stranger_is_ignored_and_a_peer_is_not() -> None:
    async with rig(caps(sessions=9), flood_limit=10) as r:
        with Phone(r.address, host="127.0.0.9") as stranger, Phone(r.address) as peer:
            for i in range(120):
                stranger.send(stranger.message("MESSAGE", f"sip:x@{HOST}", call_id=f"f{i}@t"))
            # Served in between, and when the last of them is, so is the flood before it.
            for i in range(30):
                assert (await (await call_up(peer, f"peer{i}@t")).bye()).code == 200
            answers = 0
            while not await stranger.silence():
                answers += 1
            # About 10; on a slow machine the flood spreads over several times two seconds.
            assert 5 <= answers <= 60, answers


@pytest.mark.parametrize("workers", [1, 8])
async def test_the_cap_is_exact_with_one_worker_and_with_eight_over_udp_and_tcp(
    workers: int,
) -> None:
    port = free_port()
    listen = (f"udp:{HOST}:{port}", f"tcp:{HOST}:{port}")
    async with rig(caps(sessions=9), workers=workers, listen=listen) as r:
        running = [
            await sipp.caller(r.address, calls=30, rate=150, hold_ms=6000, transport=t)
            for t in ("udp", "tcp")
        ]
        results = [await x.wait(60) for x in running]
        assert sum(x.admitted for x in results) == 9
        assert [x.failed for x in results] == [0, 0]
        await r.settled(0)
        await becomes(lambda: r.gate.usage().peak_sessions, 9)


async def test_a_call_from_tcp_to_udp_is_carried_by_its_mac_alone() -> None:
    port = free_port()
    listen = (f"udp:{HOST}:{port}", f"tcp:{HOST}:{port}")
    async with rig(caps(sessions=9), mac_only=True, listen=listen) as r:
        running = await sipp.caller(
            r.address, calls=3, rate=50, hold_ms=100, transport="tcp", scenario="uac_reinvite"
        )
        result = await running.wait(60)
        assert (result.completed, result.failed) == (3, 0), running.errors()
        await r.settled(0)


async def test_the_age_of_a_call_outlives_a_year_of_ticks() -> None:
    async with rig(caps(sessions=2), max_call_seconds=20) as r:
        with Phone(r.address) as phone:
            await r.gate._rpc.call("htable.seti", "cp_cnt", "up", (1 << 25) - 3)
            await r.gate._rpc.call("htable.seti", "cp_cnt", "boot", (1 << 25) - 4)
            call = await call_up(phone, "old@test")

            async def past() -> bool:
                return await r.count("up") > (1 << 25) + 1

            await eventually(past)
            await call_up(phone, "new@test")
            await r.gate.resync()
            assert all(0 <= v < 1 << 30 for v in r.gate.book.calls.values())
            assert await r.count() == 2
            await r.gate.restart(caps(sessions=2))
            assert await r.count() == 2
            del call
            await r.settled(0)
