"""The link against a small HTTPS server that speaks the protocol, and one that misbehaves."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from callpool.device import manager_link
from callpool.device.errors import DeviceError, LinkError
from callpool.device.faces.certificate import make_certificate
from callpool.device.manager_link import STREAM_OPEN, ManagerLink
from callpool.device.settings import Layout
from callpool.wire.envelope import MAX_ENVELOPE
from callpool.wire.messages import CONTACT_PATH, CONTENT_TYPE, HINTS_PATH

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """One canned answer per request, over real TLS."""

    def __init__(self) -> None:
        self.answer: Answer = say(200, b"reply")
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if head.startswith("CONNECT"):
                    raise AssertionError("the proxy is another server")
                length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0] or 0)
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(length))
                await self.answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def say(status: int, body: bytes, *headers: str) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()

    return answer


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    make_certificate(made, "127.0.0.1")
    return made


@pytest.fixture
async def server(layout: Layout) -> AsyncIterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(layout.pages_certificate, layout.pages_key)
    made = Server()
    running = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    made.url = f"https://127.0.0.1:{running.sockets[0].getsockname()[1]}"
    yield made
    running.close()


@pytest.fixture
async def link(server: Server, layout: Layout) -> AsyncIterator[ManagerLink]:
    made = ManagerLink(server.url + "/", ca_file=str(layout.pages_certificate))
    yield made
    await made.close()


async def code_of(work: Awaitable[object]) -> LinkError:
    with pytest.raises(LinkError) as caught:
        await work
    return caught.value


async def test_an_envelope_goes_out_as_it_is_and_its_answer_comes_back(
    server: Server, link: ManagerLink
) -> None:
    assert await link.exchange(CONTACT_PATH, "a.b.c") == "reply"
    assert server.bodies == [b"a.b.c"]
    assert f"POST {CONTACT_PATH} " in server.heads[0]
    assert f"content-type: {CONTENT_TYPE}" in server.heads[0].lower()
    assert link.url(CONTACT_PATH) == server.url + CONTACT_PATH


async def test_a_server_that_the_authority_file_does_not_vouch_for_is_not_spoken_to(
    server: Server,
) -> None:
    stranger = ManagerLink(server.url)
    error = await code_of(stranger.exchange(CONTACT_PATH, "secret"))
    assert (error.code, error.final) == ("manager_unreachable", False)
    assert server.bodies == []
    await stranger.close()


async def test_nobody_there_is_said_in_a_sentence(layout: Layout) -> None:
    nobody = ManagerLink("https://127.0.0.1:1", ca_file=str(layout.pages_certificate))
    error = await code_of(nobody.exchange(CONTACT_PATH, "x"))
    assert error.code == "manager_unreachable"
    assert error.sentence.startswith("The manager cannot be reached: ")
    await nobody.close()


@pytest.mark.parametrize(
    ("status", "body", "code", "final"),
    [
        (409, b'{"code":"stale_contact","detail":"why"}', "stale_contact", True),
        (403, b"<html>no</html>", "http_403", True),
        (429, b'{"code":"too_many_failures"}', "too_many_failures", False),
        (503, b"", "http_503", False),
        (500, b'{"code":"../../etc"}', "http_500", False),
        (400, b'{"code":5,"detail":["x"]}', "http_400", True),
        (302, b"", "http_302", False),
    ],
)
async def test_a_refusal_keeps_its_code_and_tells_whether_it_is_final(
    server: Server, link: ManagerLink, status: int, body: bytes, code: str, final: bool
) -> None:
    server.answer = say(status, body)
    error = await code_of(link.exchange(CONTACT_PATH, "x"))
    assert (error.code, error.final) == (code, final)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("120", 120, 120),
        ("99999999999", 86400, 86400),
        (300, 290, 300),
        (-300, 0, 0),
    ],
)
async def test_retry_after_is_read_in_both_forms_and_bounded(
    server: Server, link: ManagerLink, header: str | int, least: float, most: float
) -> None:
    if isinstance(header, int):
        header = formatdate(time.time() + header, usegmt=True)
    server.answer = say(503, b"", f"retry-after: {header}")
    error = await code_of(link.exchange(CONTACT_PATH, "x"))
    assert error.retry_after is not None
    assert least <= error.retry_after <= most


async def test_a_retry_after_that_says_nothing_is_ignored(
    server: Server, link: ManagerLink
) -> None:
    server.answer = say(503, b"", "retry-after: soon")
    assert (await code_of(link.exchange(CONTACT_PATH, "x"))).retry_after is None


async def test_an_endless_answer_is_cut_short(server: Server, link: ManagerLink) -> None:
    server.answer = say(200, b"A" * (MAX_ENVELOPE + 1))
    assert (await code_of(link.exchange(CONTACT_PATH, "x"))).code == "manager_answer"


async def test_a_connection_that_breaks_off_is_unreachable(
    server: Server, link: ManagerLink
) -> None:
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.transport.abort()

    server.answer = cut
    assert (await code_of(link.exchange(CONTACT_PATH, "x"))).code == "manager_unreachable"


@pytest.mark.parametrize("opened", [False, True], ids=["exchange", "stream"])
async def test_a_manager_that_vanished_without_a_word_is_noticed(
    server: Server, layout: Layout, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    monkeypatch.setattr(manager_link, "EXCHANGE_TIMEOUT", httpx.Timeout(0.2))
    monkeypatch.setattr(manager_link, "HINTS_TIMEOUT", httpx.Timeout(0.2))
    over = asyncio.Event()
    link = ManagerLink(server.url, ca_file=str(layout.pages_certificate))

    async def fall_silent(writer: asyncio.StreamWriter) -> None:
        if opened:
            writer.write(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\n")
            writer.write(b": hello\n\n")
            await writer.drain()
        await over.wait()  # no answer, and no FIN

    async def listen() -> None:
        async for _ in link.hints(HINTS_PATH, "x"):
            pass

    server.answer = fall_silent
    work = listen() if opened else link.exchange(CONTACT_PATH, "x")
    assert (await asyncio.wait_for(code_of(work), 30)).code == "manager_unreachable"
    # It is there again: so is the device, by a connection of its own.
    server.answer = say(200, b"reply")
    assert await link.exchange(CONTACT_PATH, "x") == "reply"
    over.set()
    await link.close()


async def test_hints_are_heard_one_by_one_and_comments_are_not(
    server: Server, link: ManagerLink
) -> None:
    async def stream(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(
            b": hello\nretry: 2500\n\n"
            b'data: {"hint":"pull"}\n\n: still here\n\nevent: pull\ndata: x\n\n'
        )
        await writer.drain()
        writer.close()

    server.answer = stream
    assert [h async for h in link.hints(HINTS_PATH, "x")] == [
        STREAM_OPEN,
        "spread 2.500",
        "message",
        "pull",
    ]


async def test_a_hint_stream_that_is_refused_says_why(server: Server, link: ManagerLink) -> None:
    server.answer = say(409, b'{"code":"unit_locked","detail":"d"}')
    with pytest.raises(LinkError) as caught:
        async for _ in link.hints(HINTS_PATH, "x"):
            pass
    assert caught.value.code == "unit_locked"


async def test_a_proxy_is_used_and_the_environments_is_not(
    server: Server, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0])
        writer.write(b"HTTP/1.1 502 no\r\n\r\n")
        writer.close()

    running = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"
    monkeypatch.setenv("HTTPS_PROXY", address)
    plain = ManagerLink(server.url, ca_file=str(layout.pages_certificate))
    assert await plain.exchange(CONTACT_PATH, "x") == "reply"
    assert asked == []
    proxied = ManagerLink(server.url, ca_file=str(layout.pages_certificate), proxy=address)
    assert (await code_of(proxied.exchange(CONTACT_PATH, "x"))).code == "manager_unreachable"
    assert asked == [f"CONNECT {server.url.removeprefix('https://')} HTTP/1.1"]
    await plain.close()
    await proxied.close()
    running.close()


def test_settings_that_cannot_be_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        ManagerLink("https://m", ca_file=str(tmp_path / "none"))
    assert caught.value.code == "bad_ca_file"
    (tmp_path / "rubbish").write_text("rubbish")
    with pytest.raises(DeviceError):
        ManagerLink("https://m", ca_file=str(tmp_path / "rubbish"))
    with pytest.raises(DeviceError) as caught:
        ManagerLink("https://m", proxy="gopher://x")
    assert caught.value.code == "bad_proxy"
