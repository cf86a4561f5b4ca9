"""The three ways to a syslog target: UDP (RFC 5426), TCP (RFC 6587), TLS (RFC 5425)."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Sequence
from typing import Any, Final, Protocol

from callpool.host.addresses import address
from callpool.host.syslog.message import DATAGRAM, STREAM
from callpool.host.syslog.target import SyslogTarget, tls_context

#: Seconds for a connection with its handshake, and for the receiver's machine to acknowledge.
PATIENCE: Final = 10.0
#: Seconds in which a receiver may still refuse our certificate after the handshake (TLS 1.3).
SETTLE: Final = 1.0
#: Seconds in which a machine tells that nothing listens on a UDP port.
UNREACHABLE: Final = 0.1
#: Seconds between two looks at what is acknowledged, the first and the longest.
LOOK: Final = (0.001, 0.05)


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
    return await asyncio.wait_for(opening, PATIENCE)


class _Datagrams(asyncio.DatagramProtocol):
    batch = 1
    most = DATAGRAM

    def __init__(self) -> None:
        self._refused: asyncio.Future[Exception] | None = None
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

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
    batch = 16
    most = STREAM

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._socket: Any = writer.get_extra_info("socket")
        writer.transport.set_write_buffer_limits(high=0)  # so `drain` waits for all of it

    async def send(self, messages: Sequence[bytes]) -> None:
        self._check()
        self._writer.write(b"".join(b"%d %s" % (len(m), m) for m in messages))
        await asyncio.wait_for(self._taken(), PATIENCE)

    async def _taken(self) -> None:
        """Return when the receiver's machine has acknowledged every byte."""
        await self._writer.drain()
        pause, longest = LOOK
        empty = 0
        while empty < 2:  # twice: what TLS still holds goes out as soon as there is room
            await asyncio.sleep(pause)
            self._check()
            pause = min(pause * 2, longest)
            empty = empty + 1 if self._unacknowledged() == 0 else 0

    def _unacknowledged(self) -> int:
        held = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
        return int(struct.unpack("i", held)[0])

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
            told = await asyncio.wait_for(self._reader.read(1), SETTLE)
        except TimeoutError:
            return
        if not told:
            self._check()

    def close(self) -> None:
        self._writer.transport.abort()


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
