"""The queue of one target, against real sockets on loopback."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress

import pytest

from callpool.host.syslog import links
from callpool.host.syslog.message import Level, SyslogMessage
from callpool.host.syslog.sender import SyslogSender
from callpool.host.syslog.target import SyslogTarget


def message(number: int) -> SyslogMessage:
    return SyslogMessage(
        at=0.0, severity=Level.NOTICE, hostname="h", app="a", msgid="M", text=f"number {number}"
    )


def numbers(raw: bytes) -> list[int]:
    """What a stream held, by its octet counts."""
    found = []
    while raw:
        count, _, rest = raw.partition(b" ")
        frame, raw = rest[: int(count)], rest[int(count) :]
        match = re.search(rb"number (\d+)$", frame)
        assert match, frame
        found.append(int(match[1]))
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        for _ in iter(condition, True):
            await asyncio.sleep(0.005)


class Receiver:
    """A TCP receiver that can be closed and opened again on the same port."""

    def __init__(self) -> None:
        self.got = b""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with suppress(OSError):
            while more := await reader.read(65536):
                self.got += more
        writer.close()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


async def test_what_is_put_while_the_target_is_down_arrives_in_order_once_it_is_up() -> None:
    receiver = Receiver()
    await receiver.open()
    sender = SyslogSender(
        SyslogTarget(address=receiver.address, transport="tcp"), retry=(0.01, 0.05)
    )
    task = asyncio.create_task(sender.run())
    done: list[int] = []
    sender.put(message(0), lambda: done.append(0))
    await until(lambda: done == [0])
    await receiver.close()
    for number in range(1, 41):
        sender.put(message(number), lambda n=number: done.append(n))  # type: ignore[misc]
    await until(lambda: sender.failure != "")
    assert sender.waiting == 40
    await receiver.open()
    await until(lambda: sender.waiting == 0)
    await until(lambda: len(numbers(receiver.got)) == 41)
    assert numbers(receiver.got) == done == list(range(41))
    assert (sender.sent, sender.dropped, sender.failure) == (41, 0, "")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await receiver.close()


async def test_a_full_queue_loses_its_oldest_counts_them_and_never_calls_them_done() -> None:
    receiver = Receiver()
    sender = SyslogSender(SyslogTarget(address="127.0.0.1:9", transport="tcp"), room=5)
    done: list[int] = []
    for number in range(8):
        sender.put(message(number), lambda n=number: done.append(n))  # type: ignore[misc]
    assert (sender.waiting, sender.dropped, done) == (5, 3, [])
    await receiver.open()
    sender.target = SyslogTarget(address=receiver.address, transport="tcp")
    task = asyncio.create_task(sender.run())
    await until(lambda: sender.waiting == 0)
    await until(lambda: numbers(receiver.got) == [3, 4, 5, 6, 7])
    assert done == [3, 4, 5, 6, 7]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await receiver.close()


async def test_a_receiver_that_resets_what_it_has_not_read_gets_it_again() -> None:
    receiver = Receiver()
    refused = 0

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refused
        refused += 1
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    sender = SyslogSender(
        SyslogTarget(address=receiver.address, transport="tcp"), retry=(0.01, 0.05)
    )
    task = asyncio.create_task(sender.run())
    last = 0

    def refused_again() -> bool:
        nonlocal last, refused
        if not sender.waiting:  # on a slow machine a reset may come after all that is waited for
            last, refused = last + 1, 0
            sender.put(message(last))
        return refused >= 2

    await until(refused_again)
    assert sender.waiting == 1
    server.close()
    await receiver.open()
    await until(lambda: numbers(receiver.got) == [last])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await receiver.close()


async def test_a_stop_that_comes_with_the_acknowledgement_is_a_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver = Receiver()
    await receiver.open()
    acknowledged, asked = asyncio.Event(), asyncio.Event()

    async def taken(_: object) -> None:
        asked.set()
        await acknowledged.wait()

    monkeypatch.setattr(links._Stream, "_taken", taken)
    sender = SyslogSender(SyslogTarget(address=receiver.address, transport="tcp"))
    task = asyncio.create_task(sender.run())
    sender.put(message(1))
    await asked.wait()
    acknowledged.set()
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled()
    await receiver.close()
