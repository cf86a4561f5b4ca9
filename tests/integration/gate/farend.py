"""An answerer in this process: it sees what is up at once, and can be told how to answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

HOST = "127.0.0.1"


@dataclass
class Message:
    """One SIP message that came."""

    text: str
    source: tuple[str, int]

    @property
    def method(self) -> str:
        return self.text.split(" ", 1)[0]

    def all(self, name: str) -> list[str]:
        return re.findall(rf"^{name}:\s*(.*?)\r?$", self.text, re.M | re.I)

    def header(self, name: str) -> str:
        return (self.all(name) or [""])[0]

    @property
    def call(self) -> str:
        return f"{self.header('Call-ID')};{self.header('From').partition(';tag=')[2]}"


@dataclass
class FarEnd(asyncio.DatagramProtocol):
    """Answers INVITE by `answer(message)`: a code, or 0 for silence. Never tells again."""

    answer: Callable[[Message], int] = lambda _: 200
    challenge_bye: bool = False
    #: Calls that were answered and are up, and the most at once.
    up: set[str] = field(default_factory=set)
    most: int = 0
    invites: list[Message] = field(default_factory=list)
    byes: list[Message] = field(default_factory=list)
    cancels: list[Message] = field(default_factory=list)
    transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def open(cls, host: str = HOST, **more: object) -> Self:
        made = cls(**more)  # type: ignore[arg-type]
        await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: made, local_addr=(host, 0)
        )
        return made

    @property
    def port(self) -> int:
        assert self.transport is not None
        return int(self.transport.get_extra_info("sockname")[1])

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        message = Message(data.decode(errors="replace"), addr)
        match message.method:
            case "INVITE":
                self.invites.append(message)
                code = self.answer(message)
                if code:
                    self.reply(message, code)
            case "CANCEL":
                self.cancels.append(message)
                self.reply(message, 200)
            case "BYE":
                self.byes.append(message)
                if self.challenge_bye and not message.header("Authorization"):
                    self.reply(message, 401)
                    return
                known = message.call in self.up or self._other(message) in self.up
                self.up -= {message.call, self._other(message)}
                self.reply(message, 200 if known else 481)

    @staticmethod
    def _other(message: Message) -> str:
        return f"{message.header('Call-ID')};{message.header('To').partition(';tag=')[2]}"

    def reply(self, request: Message, code: int) -> None:
        if request.method == "INVITE" and code == 200:
            self.up.add(request.call)
            self.most = max(self.most, len(self.up))
        to = request.header("To")
        if ";tag=" not in to and code > 100:
            to += ";tag=far"
        lines = [f"SIP/2.0 {code} Answer"]
        lines += [f"Via: {v}" for v in request.all("Via")]
        lines += [f"Record-Route: {v}" for v in request.all("Record-Route")]
        lines += [f"{n}: {request.header(n)}" for n in ("From", "Call-ID", "CSeq")]
        lines += [f"To: {to}", f"Contact: <sip:far@{HOST}:{self.port}>"]
        if code == 401:
            lines.append('WWW-Authenticate: Digest realm="far", nonce="1"')
        assert self.transport is not None
        self.transport.sendto(
            "\r\n".join([*lines, "Content-Length: 0", "", ""]).encode(), request.source
        )
