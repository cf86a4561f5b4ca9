"""Where a call ends in an unusual way: once, and at the real end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import pytest
from farend import FarEnd
from gatekit import (
    HOST,
    REALM,
    Call,
    Phone,
    becomes,
    call_up,
    caps,
    eventually,
    ha1,
    invite,
    rig,
    users,
)
from test_existing_config import external
from test_survival import killed_and_back, killed_whole, separate_driver

from callpool.device.gate.settings import Destination, GateError
from callpool.host import sipp
from callpool.host.ports import free_port


async def test_a_challenged_bye_ends_nothing_and_the_one_with_credentials_ends_once() -> None:
    far = await FarEnd.open(challenge_bye=True)
    async with rig(caps(sessions=2), far=far) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "challenged@test")
            await call_up(phone, "other@test")
            assert (await call.bye(9)).code == 401
            assert await r.count() == 2
            assert (await phone.ask(invite(phone, "third@test"))).code == 503
            with_credentials = {"Route": call.routes, "Authorization": 'Digest username="x"'}
            text = call.text("BYE", 10, headers=with_credentials)
            for _ in range(4):
                phone.send(text)
            assert (await phone.final("10 BYE")).code == 200
            await r.settled(1)


async def test_a_bye_that_the_callee_sends_ends_the_call() -> None:
    far = await FarEnd.open()
    async with rig(caps(sessions=1), far=far) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "far@test")
            route = "\r\n".join(f"Route: {v}" for v in far.invites[0].all("Record-Route"))
            assert far.transport is not None
            far.transport.sendto(
                (
                    f"BYE sip:phone@{HOST}:{phone.port} SIP/2.0\r\n"
                    f"Via: SIP/2.0/UDP {HOST}:{far.port};branch=z9hG4bKfarbye\r\n{route}\r\n"
                    f"From: <sip:1000@{HOST}>;tag={call.to_tag}\r\n"
                    f"To: <sip:phone@{HOST}>;tag=f\r\nCall-ID: far@test\r\nCSeq: 1 BYE\r\n"
                    "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
                ).encode(),
                (HOST, r.port),
            )
            bye = await phone.receive()
            assert bye.text.startswith("BYE")
            assert await r.count() == 1  # not before it is answered
            vias = "".join(f"Via: {v}\r\n" for v in bye.headers("Via"))
            same = "".join(f"{n}: {bye.header(n)}\r\n" for n in ("From", "To", "Call-ID", "CSeq"))
            phone.send(f"SIP/2.0 200 OK\r\n{vias}{same}Content-Length: 0\r\n\r\n")
            await r.settled(0)


async def test_a_bye_that_nobody_answers_ends_the_call_by_timeout() -> None:
    far = await FarEnd.open()
    async with rig(caps(sessions=1), far=far, reply_timeout_ms=2000) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "deaf@test")
            far.close()
            assert (await call.bye()).code in (408, 477, 500)
            await r.settled(0)


async def test_a_call_that_is_never_answered_times_out_and_gives_back() -> None:
    far = await FarEnd.open(answer=lambda _: 180)
    async with rig(caps(sessions=1), far=far, ring_timeout_ms=1200) as r:
        with Phone(r.address) as phone:
            text = invite(phone, "rings@test")
            answer = await phone.ask(text)
            assert answer.code == 408
            phone.acknowledge(text, answer)
            await r.settled(0)
            await eventually(lambda: far.cancels)


async def test_a_cancel_before_any_answer_gives_back() -> None:
    far = await FarEnd.open(answer=lambda _: 0)
    async with rig(caps(sessions=1), far=far) as r:
        with Phone(r.address) as phone:
            branch = phone.branch()
            text = invite(phone, "early@test", branch=branch)
            phone.send(text)
            await eventually(lambda: far.invites)
            phone.send(invite(phone, "early@test", branch=branch).replace("INVITE", "CANCEL"))
            assert await r.count() == 1
            far.reply(far.invites[0], 180)
            await eventually(lambda: far.cancels)
            far.reply(far.invites[0], 487)
            answer = await phone.final("1 INVITE")
            assert answer.code == 487
            phone.acknowledge(text, answer)
            await r.settled(0)


async def test_a_cancel_that_crosses_the_200_ends_nothing_the_bye_does() -> None:
    far = await FarEnd.open(answer=lambda _: 180)
    async with rig(caps(sessions=1), far=far) as r:
        with Phone(r.address) as phone:
            branch = phone.branch()
            text = invite(phone, "cross@test", branch=branch)
            phone.send(text)
            await eventually(lambda: far.invites)
            phone.send(text.replace("INVITE", "CANCEL"))
            await eventually(lambda: far.cancels)
            far.reply(far.invites[0], 200)  # answered before the CANCEL was seen
            answer = await phone.final("1 INVITE")
            assert answer.code == 200
            call = Call(phone, "cross@test", answer, text)
            phone.send(call.text("ACK", 1))
            assert await r.count() == 1
            assert (await phone.ask(invite(phone, "second@test"))).code == 503
            assert (await call.bye()).code == 200
            await r.settled(0)


@pytest.mark.parametrize("code", [486, 200])
@pytest.mark.parametrize("again", [False, True])
async def test_a_call_that_rang_while_kamailio_died_counts_once_to_its_end(
    code: int, again: bool
) -> None:
    far = await FarEnd.open(answer=lambda _: 180)
    async with rig(caps(sessions=2), far=far) as r:
        with Phone(r.address) as phone:
            text = invite(phone, "rang@test")
            phone.send(text)
            await eventually(lambda: r.gate.usage().sessions == 1)
            await killed_and_back(r)
            if again:
                # The caller tells it again: no second call, and no second session.
                phone.send(text)
                await eventually(lambda: len(far.invites) == 2)
                assert far.invites[0].header("Via") == far.invites[1].header("Via")
            assert await r.count() == 1
            far.reply(far.invites[0], code)
            answer = await phone.final()
            assert answer.code == code
            if code == 200:
                call = Call(phone, "rang@test", answer, text)
                phone.send(call.text("ACK", 1))
                assert await r.count() == 1
                assert (await call.bye()).code == 200
            await r.settled(0)


async def test_a_bye_that_was_under_way_when_kamailio_died_ends_the_call() -> None:
    far = await FarEnd.open()
    async with rig(caps(sessions=2), far=far) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "bye@test")
            await eventually(lambda: r.gate.usage().sessions == 1)
            far.challenge_bye = True  # hold the answer back
            far.byes.clear()
            phone.send(call.text("BYE", 9))
            await eventually(lambda: far.byes)
            await eventually(lambda: r.gate.usage().in_sync)
            await killed_and_back(r)
            assert await r.count() == 1
            far.reply(far.byes[0], 200)
            await r.settled(0)


async def test_the_gate_listens_on_ipv6() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.fail("This machine has no ::1; enable IPv6 on lo to run this test.")
    uas = await sipp.answerer(host="::1")
    port = free_port("::1")
    try:
        async with rig(
            caps(sessions=2),
            listen=(f"udp:[::1]:{port}",),
            trusted_peers=("::1", "2001:db8::/32"),
            destinations=(Destination(host="[::1]", port=uas.port),),
        ) as r:
            running = await sipp.caller(("::1", port), calls=5, rate=100, hold_ms=6000, host="::1")
            result = await running.wait(60)
            assert (result.admitted, result.refused, result.failed) == (2, 3, 0)
            await r.settled(0)
            await becomes(lambda: r.gate.usage().in_sync, True)
    finally:
        await uas.stop(grace=0.5)


async def test_a_frozen_kamailio_is_alarmed_and_counts_right_afterwards() -> None:
    async with rig(caps(sessions=3)) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "before@test")
            os.killpg(r.gate.kamailio_pid, signal.SIGSTOP)
            try:
                phone.send(invite(phone, "during@test"))
                await eventually(lambda: [a for a in r.alarms if a.code == "gate_silent"])
                assert not r.gate.usage().alive
                with pytest.raises(GateError, match="does not answer"):
                    await r.gate.apply(caps(sessions=2))
            finally:
                os.killpg(r.gate.kamailio_pid, signal.SIGCONT)
            await eventually(lambda: [a for a in r.alarms if a.code == "gate_clear"])
            assert (await phone.final(call_id="during@test")).code == 200
            # The policy that could not be set is in force by now.
            assert (await phone.ask(invite(phone, "third@test"))).code == 503
            assert (await call.bye()).code == 200
            await r.settled(1)
            assert not [a for a in r.alarms if a.code in ("gate_restarted", "gate_drift")]


async def test_a_core_that_was_deaf_under_load_has_the_right_book_again() -> None:
    async with rig(caps(sessions=200)) as r:  # more than there are calls, however slow they are
        intake = r.gate._intake
        events = intake.events
        assert events is not None
        loop = asyncio.get_running_loop()
        running = await sipp.caller(r.address, calls=150, rate=60, hold_ms=400)
        await eventually(lambda: r.gate.usage().admitted > 5)
        events.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
        loop.remove_reader(events.socket)
        intake.events = None
        with Phone(r.address) as phone:
            await call_up(phone, "stays@test")
            more = 0
            while events.dropped() <= 50:
                more += 1
                assert (await (await call_up(phone, f"more{more}@test")).bye()).code == 200
        events.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        intake.events = events
        loop.add_reader(events.socket, intake.readable)
        result = await running.wait(60)
        assert result.failed == 0
        await r.settled(1)
        await becomes(lambda: r.gate.usage().in_sync, True)
        await becomes(lambda: r.gate.usage().admitted, result.admitted + 1 + more)


async def test_users_change_without_a_restart() -> None:
    async with rig(caps(users=5), users=users(2)) as r:
        with Phone(r.address) as phone:
            assert (await phone.register("u0")).code == 200
            assert (await phone.register("u7")).code == 401
            await r.gate.set_users({"u0": ha1("u0", "new"), "u7": ha1("u7")})
            assert (await phone.register("u7")).code == 200
            assert (await phone.register("u1")).code == 401
            assert (await phone.register("u0", cseq=5)).code == 401
            assert (await phone.register("u0", cseq=8, password="new")).code == 200
            await r.gate.restart(caps(users=5))
            assert (await phone.register("u7", cseq=11)).code == 200
            assert (await phone.register("u1")).code == 401
            with pytest.raises(GateError) as caught:
                await r.gate.set_users({})
            assert caught.value.code == "restart_needed"
            with pytest.raises(GateError) as caught:
                await r.gate.set_users({"evil\n": "0" * 32})
            assert caught.value.code == "bad_gate_settings"


async def test_two_new_users_at_once_for_the_last_license() -> None:
    async with rig(caps(users=1), users=users(20), workers=8) as r:
        phones = [Phone(r.address) for _ in range(20)]
        answers = await asyncio.gather(*(p.register(f"u{i}") for i, p in enumerate(phones)))
        for phone in phones:
            phone.close()
        assert sorted(a.code for a in answers) == [200] + [503] * 19
        await eventually(lambda: r.gate.usage().users == 1)
        assert await r.count("u") == 1
        assert next(iter(r.gate.book.users)).endswith(f"@{REALM}")


async def test_uncertain_units_are_forgotten_by_the_operators_statement() -> None:
    async with rig(None, start=False) as r:
        with Phone(r.address) as phone:
            async with separate_driver(r, caps(sessions=4)) as driver:
                known = await call_up(phone, "known@test")
                await r.journalled("known@test")
                driver.kill()
                await driver.wait()
                await killed_whole(r)
            await r.gate.attach(caps(sessions=4))
            assert await r.gate.forget_uncertain() == 3
            assert (await r.count(), await r.count("ph")) == (1, 0)
            assert (r.gate.usage().sessions, r.gate.usage().uncertain) == (1, 0)
            assert await r.gate.forget_uncertain() == 0
            for i in range(3):
                await call_up(phone, f"new{i}@test")
            assert (await phone.ask(invite(phone, "over@test"))).code == 503
            await r.settled(4)
            await killed_and_back(r)  # nor do they come back
            assert (await r.count(), await r.count("ph")) == (4, 0)
            assert (await known.bye()).code == 200
            await r.settled(3)


async def test_a_restart_does_not_put_off_the_end_of_uncertain_units() -> None:
    async with rig(None, start=False, max_call_seconds=300) as r:
        async with separate_driver(r, caps(sessions=2)) as driver:
            driver.kill()
            await driver.wait()
            await killed_whole(r)
        await r.gate.attach(caps(sessions=2))
        end = await r.count("phend")
        assert end > 300
        await killed_and_back(r)
        assert (await r.count("phend"), await r.count("ph")) == (end, 2)


async def test_a_restart_command_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with external() as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "through@t")
            await eventually(lambda: r.gate.usage().sessions == 1)
            script = tmp_path / "fails"
            script.write_text(f"#!{sys.executable}\nprint('unit is masked')\nraise SystemExit(4)\n")
            script.chmod(0o755)
            good = r.gate._service._settings
            for command in ((str(script),), (str(tmp_path / "absent"),)):
                r.gate._service._settings = msgspec.structs.replace(good, restart_command=command)
                with pytest.raises(GateError) as caught:
                    await r.gate.restart(caps(sessions=9))
                assert caught.value.code == "restart_command_failed"
            r.gate._service._settings = good
            assert r.gate.policy == caps(sessions=3)
            await call_up(phone, "second@t")
            await call_up(phone, "third@t")
            assert (await phone.ask(invite(phone, "fourth@t"))).code == 503
            assert (await call.bye()).code == 200
            await r.settled(2)
            await r.gate.restart(caps(sessions=9))
            assert await r.count() == 2
