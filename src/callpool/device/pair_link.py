"""The way between the cores of a pair: one question and one answer per TCP connection.

Both are proved by HMAC-SHA-256 over the pair's secret, the server's nonce and the asker's, so
neither a repeat nor a stranger is believed; and only the peer's address is listened to. What is
said is no secret: it is what SIP says in clear beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from callpool.device.errors import DeviceError
from callpool.device.pair_keys import Listing

#: Seconds that a question may take.
LIMIT: Final = 1.0
_NONCE: Final = 16
_LONGEST: Final = 64 << 20

T = TypeVar("T")


class UnitState(msgspec.Struct, frozen=True, kw_only=True):
    """How a unit sees itself."""

    serial: str
    #: active, redundant, alone or fault.
    role: str
    #: Which run of its core, and which start of its Kamailio: another one begins anew.
    run: str
    start: int
    #: Whether its SIP service answers and its disk can be written.
    healthy: bool
    #: Whether it knows all keys of the other.
    synchronised: bool
    #: Seconds since it heard the other one; negative for never.
    peer_age: float
    sessions: int = 0
    users: int = 0
    #: A sum over its keys: equal where the keys are equal.
    digest: int = 0
    #: The grant version that it enforces, and what it enforces per license type.
    running_version: int = 0
    actual: dict[str, int] = {}
    software: str = ""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What one core asks the other."""

    state: UnitState
    #: Whether every key is wanted, and of which keys it is to be told whether they ended.
    listing: bool = False
    suspects: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the other one says."""

    state: UnitState
    listing: Listing | None = None


class PairLink:
    """One unit's end."""

    def __init__(self, *, secret: str, address: str, peer: str, port: int) -> None:
        """Talk from `address` to `peer`, TCP `port` on both; `secret` is hex digits."""
        self._key = bytes.fromhex(secret)
        self._address, self._peer, self._port = address, peer, port
        self._server: asyncio.Server | None = None
        self._answer: Callable[[Question], Awaitable[Answer]] | None = None
        self._serving: set[asyncio.StreamWriter] = set()
        #: Questions that were not proved.
        self.refused = 0

    async def start(self, answer: Callable[[Question], Awaitable[Answer]]) -> None:
        """Answer questions from now on; raises DeviceError `pair_port`."""
        self._answer = answer
        try:
            self._server = await asyncio.start_server(
                self._serve, self._address, self._port, limit=1 << 20
            )
        except OSError as error:
            raise DeviceError(
                "pair_port",
                f"{self._address}:{self._port} cannot be listened on for the other unit: "
                f"{error.strerror}.",
            ) from error

    async def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._serving):
                writer.close()
            self._server = None

    async def ask(self, question: Question, limit: float = LIMIT) -> Answer:
        """Ask the other unit; raises DeviceError `peer_unreachable` or `peer_not_believed`."""
        try:
            async with asyncio.timeout(limit):
                reader, writer = await asyncio.open_connection(
                    self._peer, self._port, limit=1 << 20, local_addr=(self._address, 0)
                )
                try:
                    theirs, mine = await reader.readexactly(_NONCE), secrets.token_bytes(_NONCE)
                    body = mine + msgspec.json.encode(question)
                    await _write(writer, self._mac(b"ask", theirs, body), body)
                    mac, reply = await _read(reader)
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            raise DeviceError(
                "peer_unreachable", f"The other unit does not answer: {error or 'no answer'}."
            ) from error
        if not hmac.compare_digest(mac, self._mac(b"told", theirs, mine, reply)):
            raise DeviceError("peer_not_believed", "The other unit has another secret.")
        return _decoded(reply, Answer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(writer)
        try:
            if writer.get_extra_info("peername")[0] != self._peer or self._answer is None:
                return
            async with asyncio.timeout(3 * LIMIT):
                nonce = secrets.token_bytes(_NONCE)
                writer.write(nonce)
                mac, body = await _read(reader)
                if not hmac.compare_digest(mac, self._mac(b"ask", nonce, body)):
                    self.refused += 1
                    return
                answer = await self._answer(_decoded(body[_NONCE:], Question))
                reply = msgspec.json.encode(answer)
                await _write(writer, self._mac(b"told", nonce, body[:_NONCE], reply), reply)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, DeviceError):
            return
        finally:
            self._serving.discard(writer)
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await writer.wait_closed()

    def _mac(self, *parts: bytes) -> bytes:
        return hmac.new(self._key, b"".join(parts), hashlib.sha256).digest()


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise DeviceError(
            "peer_not_believed", f"The other unit speaks otherwise: {error}."
        ) from error


async def _write(writer: asyncio.StreamWriter, mac: bytes, body: bytes) -> None:
    writer.write(len(body).to_bytes(4, "big") + mac + body)
    await writer.drain()


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    length = int.from_bytes(await reader.readexactly(4), "big")
    if length > _LONGEST:
        raise ValueError("a message too long")
    mac = await reader.readexactly(32)
    return mac, await reader.readexactly(length)
