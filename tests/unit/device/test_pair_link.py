"""The way between two cores: proved on both ends, and closed to anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from callpool.device.errors import DeviceError
from callpool.device.pair_link import Answer, PairLink, Question, UnitState
from callpool.host.ports import free_port

ONE, TWO = "127.0.0.2", "127.0.0.3"
SECRET, OTHER = "ab" * 32, "cd" * 32


def state(serial: str) -> UnitState:
    return UnitState(
        serial=serial, role="active", run="r", start=1, healthy=True, synchronised=False,
        peer_age=-1.0,
    )  # fmt: skip


async def _answer(question: Question) -> Answer:
    return Answer(state=state(f"heard {question.state.serial}"))


@asynccontextmanager
async def listening(port: int) -> AsyncIterator[PairLink]:
    link = PairLink(secret=SECRET, address=TWO, peer=ONE, port=port)
    await link.start(_answer)
    try:
        yield link
    finally:
        await link.close()


async def test_a_question_is_answered() -> None:
    port = free_port(TWO)
    async with listening(port):
        asker = PairLink(secret=SECRET, address=ONE, peer=TWO, port=port)
        assert (await asker.ask(Question(state=state("S1")))).state.serial == "heard S1"


async def test_another_secret_is_neither_answered_nor_believed() -> None:
    port = free_port(TWO)
    async with listening(port) as link:
        asker = PairLink(secret=OTHER, address=ONE, peer=TWO, port=port)
        with pytest.raises(DeviceError) as refused:
            await asker.ask(Question(state=state("S1")))
        assert refused.value.code in ("peer_unreachable", "peer_not_believed")
        assert link.refused == 1


async def test_another_address_is_not_listened_to() -> None:
    port = free_port(TWO)
    async with listening(port):
        asker = PairLink(secret=SECRET, address="127.0.0.4", peer=TWO, port=port)
        with pytest.raises(DeviceError):
            await asker.ask(Question(state=state("S1")))


async def test_a_recorded_question_buys_nothing() -> None:
    port = free_port(TWO)
    async with listening(port) as link:
        reader, writer = await asyncio.open_connection(TWO, port, local_addr=(ONE, 0))
        nonce = await reader.readexactly(16)
        body = b"\0" * 16 + b"{}"
        mac = link._mac(b"ask", bytes(16), body)  # right, but for another nonce
        assert nonce != bytes(16)
        writer.write(len(body).to_bytes(4, "big") + mac + body)
        assert await reader.read() == b""
        writer.close()
        assert link.refused == 1
