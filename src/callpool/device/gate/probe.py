"""Ask a SIP server whether it answers: one OPTIONS by UDP."""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import Final

#: Seconds that an answer may take.
LIMIT: Final = 1.0


async def answers_options(
    target: tuple[str, int],
    *,
    source: str,
    limit: float = LIMIT,
) -> bool:
    """Tell whether `target` gives OPTIONS any final answer; asked twice within `limit` seconds."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.bind((source, 0))
            for _ in range(2):
                await loop.sock_sendto(sock, _options(target, sock.getsockname()), target)
                try:
                    async with asyncio.timeout(limit / 2):
                        answer = await loop.sock_recv(sock, 65536)
                except TimeoutError:
                    continue
                return answer.startswith(b"SIP/2.0 ") and answer[8:9] >= b"2"
        except OSError:
            return False
    return False


def _options(target: tuple[str, int], here: tuple[str, int]) -> bytes:
    def at(address: tuple[str, int]) -> str:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"

    token = secrets.token_hex(6)
    return (
        f"OPTIONS sip:{at(target)} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {at(here)};branch=z9hG4bK{token};rport\r\n"
        f"From: <sip:callpool@{at(here)}>;tag={token}\r\nTo: <sip:{at(target)}>\r\n"
        f"Call-ID: {token}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 5\r\nContent-Length: 0\r\n\r\n"
    ).encode()
