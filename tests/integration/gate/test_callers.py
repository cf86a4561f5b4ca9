"""What our callers make of answers that come late or wrong: a far end by hand, without Kamailio."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from callpool.host import sipp

HOST = "127.0.0.1"


def answer(request: bytes, status: str, more: bytes = b"") -> bytes:
    kept = [
        line + (b";tag=far" if line.startswith(b"To:") and b";tag=" not in line else b"")
        for line in request.split(b"\r\n")
        if line.startswith((b"Via:", b"From:", b"To:", b"Call-ID:", b"CSeq:"))
    ]
    lines = [b"SIP/2.0 " + status.encode(), *kept, more, b"Content-Length: 0"]
    return b"".join(line + b"\r\n" for line in lines if line) + b"\r\n"


@contextmanager
def far_end(bye: str) -> Iterator[tuple[str, int]]:
    """Answer 200, then 180 once that is acknowledged, and the BYE by `bye`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((HOST, 0))
        here: tuple[str, int] = udp.getsockname()
        contact = f"Contact: <sip:{HOST}:{here[1]}>".encode()

        def serve() -> None:
            invite = b""
            while True:
                request, peer = udp.recvfrom(65_536)
                match request.split(b" ", 1)[0]:
                    case b"INVITE":
                        invite = request
                        udp.sendto(answer(invite, "200 OK", contact), peer)
                    case b"ACK":
                        udp.sendto(answer(invite, "180 Ringing"), peer)
                    case b"BYE":
                        udp.sendto(answer(request, bye), peer)
                    case _:
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield here
        finally:
            udp.sendto(b"end ", here)
            thread.join()


async def test_a_180_that_comes_after_the_200_costs_no_call() -> None:
    with far_end("200 OK") as there:
        running = await sipp.caller(there, calls=1, hold_ms=300)
        result = await running.wait(60)
    assert (result.completed, result.failed) == (1, 0), running.errors()


@pytest.mark.full  # half a minute: it is told again as often as RFC 3261 says
async def test_a_call_whose_bye_is_refused_has_failed() -> None:
    with far_end("481 Call/Transaction Does Not Exist") as there:
        running = await sipp.caller(there, calls=1, hold_ms=50)
        result = await running.wait(90)
    assert (result.completed, result.failed) == (0, 1)
