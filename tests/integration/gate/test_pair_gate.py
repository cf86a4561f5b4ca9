"""Two units' Kamailios tell each other what they do; each counts from its own keys."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from farend import FarEnd, Message
from gatekit import HOST, Call, Phone, Rig, becomes, call_up, caps, eventually, invite, rig, users

from callpool.device.gate.settings import Destination, PairGate
from callpool.host.ports import free_port

ONE, TWO = "127.0.0.2", "127.0.0.3"
PAIR_SECRET = "c4" * 32


@contextlib.asynccontextmanager
async def two(**more: Any) -> AsyncIterator[tuple[Rig, Rig]]:
    """Two gates that are a pair, each with an answerer and an address of its own."""
    port = free_port(ONE)

    def side(address: str, peer: str) -> PairGate:
        return PairGate(address=address, peer=peer, port=port, secret=PAIR_SECRET)

    counts = caps(sessions=3000, users=100)
    async with (
        rig(counts, pair=side(ONE, TWO), **more) as a,
        rig(counts, pair=side(TWO, ONE), **more) as b,
    ):
        yield a, b


def operation(text: str, secret: str) -> bytes:
    """An operation as a unit sends it, proved by `secret`."""
    inner = hashlib.sha256(f"{secret}.1.{text}".encode()).hexdigest()
    mac = hashlib.sha256(f"{secret}.2.{inner}".encode()).hexdigest()
    return (
        "CPOP sip:callpool SIP/2.0\r\nVia: SIP/2.0/UDP callpool;branch=z9hG4bKcp\r\n"
        "From: <sip:callpool>;tag=1\r\nTo: <sip:callpool>\r\nCall-ID: callpool\r\n"
        f"CSeq: 1 CPOP\r\nCP-Mac: {mac}\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    ).encode()


async def test_calls_of_one_unit_are_counted_on_the_other_and_end_there_exactly_once() -> None:
    async with two() as (a, b):
        with Phone(a.address) as phone:
            calls = [await call_up(phone, f"pair{i}@test") for i in range(6)]
            await becomes(b.count, 6)
            await becomes(lambda: b.gate.usage().sessions, 6)
            assert b.gate.usage().admitted == 0  # admitted on the other one
            for call in calls[:3]:
                assert (await call.bye()).code == 200
            await becomes(b.count, 3)
            # The other three hang up by way of the other unit.
            for call in calls[3:]:
                phone.target = b.address
                there = {"Route": call.routes.replace(f":{a.port};", f":{b.port};")}
                bye = call.text("BYE", 9, headers=there)
                assert (await phone.ask(bye)).code == 200
                # A copy: no second release, whoever still knows the call.
                assert (await phone.ask(bye)).code in (200, 408, 481)
        await a.settled(0)
        await b.settled(0)
        assert (a.gate.usage().in_sync, b.gate.usage().in_sync) == (True, True)


async def test_both_units_end_at_zero_after_calls_on_both_at_once() -> None:
    async with two() as (a, b):
        results = await asyncio.gather(
            a.calls(400, rate=150, hold_ms=50), b.calls(400, rate=150, hold_ms=50)
        )
        for result in results:
            assert result.failed == 0
        await a.settled(0)
        await b.settled(0)


async def test_an_operation_without_the_secret_or_from_elsewhere_changes_nothing() -> None:
    async with two() as (a, b):
        with Phone(a.address) as phone:
            await call_up(phone, "kept@test")
            await becomes(b.count, 1)
            key = next(iter(b.gate.book.calls))
            pair = a.gate.settings.pair
            assert pair is not None
            for source, secret in ((ONE, "00" * 32), (HOST, PAIR_SECRET), ("127.0.0.9", "")):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
                    forger.bind((source, 0))
                    for n in (1, 10**9):
                        target = (TWO, pair.port)
                        forger.sendto(operation(f"{n} E {key}", secret), target)
                        forger.sendto(operation(f"{n} A 0 forged@test;x", secret), target)
            # A true one that is sent after them has arrived.
            await call_up(phone, "later@test")
            await becomes(b.count, 2)
            assert set(b.gate.book.calls) == set(a.gate.book.calls)


async def test_an_admission_that_comes_after_its_end_is_dropped_and_a_later_one_counts() -> None:
    async with two() as (_, b):
        pair = b.gate.settings.pair
        assert pair is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind((ONE, 0))

            def tell(text: str) -> None:
                peer.sendto(operation(text, PAIR_SECRET), (TWO, pair.port))

            tell("102 E late@test;x")
            tell("101 A 0 late@test;x")
            tell("103 A 0 other@test;x")
            await becomes(b.count, 1)
            tell("104 A 0 late@test;x")
            await becomes(b.count, 2)
            tell("105 E late@test;x")
            tell("106 E other@test;x")
            tell("107 E other@test;x")
            await b.settled(0)


async def registered(r: Rig) -> tuple[int, list[str]]:
    """How many users Kamailio counts, and who is in the core's book."""
    return await r.count("u"), sorted(u.partition("@")[0] for u in r.gate.book.users)


async def test_registrations_are_the_same_on_both_units() -> None:
    async with two(users=users(3)) as (a, b):
        with Phone(a.address) as phone:
            for name in ("u0", "u1", "u2"):
                assert (await phone.register(name)).code == 200
            for unit in (a, b):
                await becomes(partial(registered, unit), (3, ["u0", "u1", "u2"]))
            (mine,), (theirs,) = (r.gate.book.users["u0@callpool"] for r in (a, b))
            assert (mine.address, mine.callid, mine.cseq) == (
                theirs.address, theirs.callid, theirs.cseq
            )  # fmt: skip
            assert abs(mine.expires - theirs.expires) <= 1
            # Refreshed and removed on the other unit.
            phone.target = b.address
            assert (await phone.register("u0", expires=0, contact="*", cseq=50)).code == 200
            for unit in (a, b):
                await becomes(partial(registered, unit), (2, ["u1", "u2"]))


@dataclass
class MovedFarEnd(FarEnd):
    """Answers to where the service address is now, whoever asked."""

    now_at: tuple[str, int] | None = None

    def reply(self, request: Message, code: int) -> None:
        super().reply(replace(request, source=self.now_at or request.source), code)


async def test_an_answer_that_comes_with_the_address_before_the_core_has_seen_it_move_ends_the_call(
) -> None:  # fmt: skip
    """The former unit has asked and is restarted; the answer is the only one that ever comes."""
    far = await MovedFarEnd.open()
    async with two(far=far) as (a, b):
        with Phone(a.address) as phone:
            kept = await call_up(phone, "kept@test")
            ended = await call_up(phone, "ended@test")
            await becomes(b.count, 2)
            far.now_at = b.address
            assert (await ended.bye()).code == 200  # through b, which knows nothing of the BYE
            await a.gate.restart(caps(sessions=3000))
            await b.settled(1)
            await a.settled(1)
            # A refusal of what is being set up, likewise.
            far.answer = lambda _: 0
            before = len(far.invites)
            phone.send(invite(phone, "refused@test"))
            await becomes(b.count, 2)
            # It is counted before it is relayed.
            await eventually(lambda: len(far.invites) > before)
            far.reply(far.invites[-1], 486)
            assert (await phone.final()).code == 486
            await b.settled(1)
            await a.settled(1)
            phone.target = b.address
            far.now_at = None
            there = {"Route": kept.routes.replace(f":{a.port};", f":{b.port};")}
            assert (await phone.ask(kept.text("BYE", 9, headers=there))).code == 200
        await a.settled(0)
        await b.settled(0)


@pytest.mark.parametrize("seen", [False, True])
async def test_an_invite_that_is_told_again_where_the_address_is_now_is_no_second_fork(
    seen: bool,
) -> None:
    """Whether or not the core has seen the address come, and however late the admission is told."""
    far = await FarEnd.open()
    async with two(far=far) as (a, b):
        if seen:
            await b.gate.serve(True)
            boot = await b.count("boot")
            await eventually(lambda: b.gate.book.beat.tick > boot + 1)
        with Phone(a.address) as phone:
            call = await call_up(phone, "again@test")
            await becomes(b.count, 1)
            phone.target = b.address
            text = call.request.replace(f":{a.port}", f":{b.port}")
            assert (await phone.ask(text)).code == 200
            assert len(far.invites) == 2
            there = {"Route": call.routes.replace(f":{a.port};", f":{b.port};")}
            assert (await phone.ask(call.text("BYE", 9, headers=there))).code == 200
        await b.settled(0)
        await a.settled(0)


async def test_who_calls_is_told_to_wait_once_the_call_has_gone_out_and_not_where_it_cannot() -> (
    None
):
    """Whoever has a 100 does not ask again, and the other unit cannot help him then."""
    far = await FarEnd.open(answer=lambda _: 0)
    async with two(far=far) as (a, _):
        with Phone(a.address) as phone:
            text = invite(phone, "out@test")
            phone.send(text)
            assert (await phone.receive()).code == 100
            await eventually(lambda: far.invites)  # it may be read a moment later here
            far.reply(far.invites[0], 200)
            call = Call(phone, "out@test", await phone.final(), text)
            phone.send(call.text("ACK", 1))
            phone.send(call.text("INVITE", 2))
            assert (await phone.receive()).code == 100
            await eventually(lambda: len(far.invites) == 2)
            far.reply(far.invites[1], 200)
            assert (await phone.final("2 INVITE")).code == 200
            phone.send(call.text("ACK", 2))
            assert (await call.bye()).code == 200
        await a.settled(0)
    # Nothing can be sent to a broadcast address, nor from an address that has gone.
    nowhere = (Destination(host="255.255.255.255", port=9),)
    async with two(destinations=nowhere) as (a, b):
        with Phone(a.address) as phone:
            phone.send(invite(phone, "stuck@test"))
            assert (await phone.receive()).code == 500
        await a.settled(0)
        await b.settled(0)
