"""The three ways to a syslog target: UDP (RFC 5426), TCP (RFC 6587), TLS (RFC 5425)."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Sequence
from typing import Final, Protocol, cast

from callpool.host.addresses import address
from callpool.host.syslog.message import DATAGRAM, STREAM
from callpool.host.syslog.target import SyslogTarget, tls_context

#: Seconds for a connection with its handshake, and for the receiver's machine to acknowledge.
PATIENCE: Final = 10.0
#: Seconds in which a receiver may still refuse our certificate after the handshake (TLS 1.3).
SETTLE: Final = 1.0
#: Seconds in which a machine tells that nothing listens on a UDP port.
UNREACHABLE: Final = 0.1
#: Bytes that the kernel takes at once: more than one batch.
ROOM: Final = 256 * 1024
#: Where `struct tcp_info` (linux/tcp.h) has `tcpi_bytes_acked`.
_ACKED_AT: Final = 120
_TCP: Final = (socket.AF_INET, socket.SOCK_STREAM)

#: Seconds between two looks at what is acknowledged, the first and the longest.
LOOK: Final = (0.005, 0.05)


class Link(Protocol):
    """An open way to a target."""

    #: How many messages go together, and how many bytes each may have.
    batch: int
    most: int

    async def send(self, messages: Sequence[bytes]) -> None:
        """Send, and return when they have left; raises OSError, TimeoutError."""
        ...

    def close(self) -> None:
        """Close at once."""
        ...


async def open_link(target: SyslogTarget) -> Link:
    """Open a way to `target`; raises CallpoolError `bad_syslog_target`, OSError, TimeoutError."""
    opening = _open_datagrams(target) if target.transport == "udp" else _open_stream(target)
    # Not `wait_for`: before Python 3.12 it forgets a cancellation that comes with the result.
    async with asyncio.timeout(PATIENCE):
        return await opening


class _Datagrams(asyncio.DatagramProtocol):
    batch = 1
    most = DATAGRAM

    def __init__(self) -> None:
        self._refused: asyncio.Future[Exception] | None = None
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def error_received(self, exc: Exception) -> None:
        if self._refused is not None and not self._refused.done():
            self._refused.set_result(exc)

    async def send(self, messages: Sequence[bytes]) -> None:
        assert self._transport is not None
        for message in messages:
            self._refused = asyncio.get_running_loop().create_future()
            self._transport.sendto(message)
            refused, _ = await asyncio.wait({self._refused}, timeout=UNREACHABLE)
            for told in refused:
                raise told.result()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def _open_datagrams(target: SyslogTarget) -> Link:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_datagram_endpoint(
        _Datagrams, remote_addr=address(target.address)
    )
    return protocol


class _Stream:
    batch = 8
    most = STREAM

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        # Our own handle: what was acknowledged can be asked after asyncio has closed its own.
        self._socket = socket.fromfd(writer.get_extra_info("socket").fileno(), *_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        # So `drain` waits for all of it. At 0 TLS would pause for ever (CPython 3.11).
        writer.transport.set_write_buffer_limits(high=1)

    async def send(self, messages: Sequence[bytes]) -> None:
        self._check()
        self._writer.write(b"".join(b"%d %s" % (len(m), m) for m in messages))
        async with asyncio.timeout(PATIENCE):
            await self._taken()

    async def _taken(self) -> None:
        """Return when the receiver's machine has acknowledged every byte.

        One that then closes has read them all: had it not, it would have reset the connection.
        """
        await self._writer.drain()
        goal = self._given()
        pause, longest = LOOK
        while True:
            # First: a reset that follows the acknowledgement at once is to be seen as well.
            await asyncio.sleep(pause)
            if self._acknowledged() >= goal:
                break
            self._check()
            pause = min(pause * 2, longest)
        broken = self._reader.exception()
        if broken is not None:
            raise broken

    def _given(self) -> int:
        """Return how many bytes the kernel has been given, as `_acknowledged` counts them."""
        while True:
            acknowledged = self._acknowledged()
            held = fcntl.ioctl(self._socket, termios.TIOCOUTQ, struct.pack("i", 0))
            if self._acknowledged() == acknowledged:
                return acknowledged + int(struct.unpack("i", held)[0])

    def _acknowledged(self) -> int:
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + 8)
        return int(struct.unpack_from("Q", info, _ACKED_AT)[0])

    def _check(self) -> None:
        """Raise what broke the connection, if anything did."""
        broken = self._reader.exception()
        if broken is not None:
            raise broken
        if self._reader.at_eof() or self._writer.is_closing():
            raise ConnectionResetError(None, "it closed the connection")

    async def settle(self) -> None:
        """Give the receiver time to refuse; raises OSError where it does."""
        try:
            async with asyncio.timeout(SETTLE):
                told = await self._reader.read(1)
        except TimeoutError:
            return
        if not told:
            self._check()

    def close(self) -> None:
        self._writer.transport.abort()
        self._socket.close()


async def _open_stream(target: SyslogTarget) -> Link:
    host, port = address(target.address)
    if target.transport == "tcp":
        return _Stream(*await asyncio.open_connection(host, port))
    context = await asyncio.to_thread(tls_context, target)
    name = target.server_name or host
    streams = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    link = _Stream(*streams)
    try:
        await link.settle()
    except BaseException:
        link.close()
        raise
    return link
