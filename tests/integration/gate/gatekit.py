"""What the gate's tests share: a gate with an answerer, and a hand-made SIP client."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import re
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farend import FarEnd

from callpool.device.gate.driver import Alarm, KamailioGate
from callpool.device.gate.settings import Destination, GateError, GateSettings
from callpool.host import sipp
from callpool.host.clock import Clock, SystemClock
from callpool.host.ports import free_port
from callpool.host.process import end_group, groups_of
from callpool.licensing.admission import AdmissionPolicy, Step

HOST = "127.0.0.1"
#: Seconds that anything awaited may take: generous, for it costs only where a test fails.
DEADLINE = 60.0
SECRET = "5e" * 16
REALM = "callpool"


def ha1(name: str, password: str = "pw") -> str:  # noqa: S107
    return hashlib.md5(f"{name}:{REALM}:{password}".encode(), usedforsecurity=False).hexdigest()


def users(count: int) -> dict[str, str]:
    return {f"u{i}": ha1(f"u{i}") for i in range(count)}


def caps(**counts: int) -> AdmissionPolicy:
    """A policy of one step: sessions=, users=, cps=."""
    names = {"sessions": "sbc_sessions", "users": "far_end_users", "cps": "cps"}
    return AdmissionPolicy(steps=(Step(caps={names[k]: v for k, v in counts.items()}),))


async def eventually(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]],
    seconds: float = DEADLINE,
    what: str = "",
) -> Any:
    """Await a condition with a deadline; return what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        await asyncio.sleep(0.02)


async def becomes(look: Callable[[], Any] | Callable[[], Awaitable[Any]], expected: Any) -> None:
    """Await that `look` returns `expected`: what Kamailio did, the book learns a little later."""
    seen: list[Any] = [None]

    async def equal() -> bool:
        value = look()
        seen[0] = await value if asyncio.iscoroutine(value) else value
        return bool(seen[0] == expected)

    try:
        await eventually(equal)
    except AssertionError:
        raise AssertionError(f"{seen[0]!r} did not become {expected!r}") from None


@dataclass
class Rig:
    gate: KamailioGate
    uas: sipp.Sipp
    alarms: list[Alarm] = field(default_factory=list)
    refusals: list[Any] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.gate.settings.listen[0].rpartition(":")[2])

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    async def count(self, key: str = "s") -> int:
        """Kamailio's own counter; one that is being started is waited for."""

        async def read() -> list[int]:
            try:
                return [int(await self.gate._rpc.get("cp_cnt", key) or 0)]
            except GateError as error:
                if error.code != "kamailio_unreachable":
                    raise
                return []

        value: int = (await eventually(read, what="Kamailio answers"))[0]
        return value

    async def calls(self, number: int, *, rate: float = 50, hold_ms: int = 0, **more: Any) -> Any:
        running = await sipp.caller(self.address, calls=number, rate=rate, hold_ms=hold_ms, **more)
        return await running.wait(2 * DEADLINE)

    async def settled(self, sessions: int = 0) -> None:
        async def both() -> tuple[int, int]:
            return await self.count(), self.gate.usage().sessions

        await becomes(both, (sessions, sessions))

    async def journalled(self, call_id: str) -> None:
        """Await that a driver, this one or another process's, has noted a call on the disk."""
        journal = self.gate.settings.path / "calls.journal"
        await eventually(lambda: call_id.encode() in journal.read_bytes(), what=call_id)


def settings(directory: Path, port: int, uas_port: int, **more: Any) -> GateSettings:
    values: dict[str, Any] = {
        "directory": str(directory),
        "listen": (f"udp:{HOST}:{port}",),
        "trusted_peers": (HOST,),
        "destinations": (Destination(host=HOST, port=uas_port),),
        "mac_secret": SECRET,
        "shared_memory_mb": 64,
        "workers": 4,
    }
    return GateSettings(**{**values, **more})


@contextlib.asynccontextmanager
async def rig(
    policy: AdmissionPolicy | None,
    *,
    answer: str = "uas",
    start: bool = True,
    far: FarEnd | None = None,
    clock: Clock | None = None,
    **more: Any,
) -> AsyncIterator[Rig]:
    """A started gate in front of an answerer; everything is ended afterwards."""
    # Not tmp_path: a Unix socket's path has 108 bytes.
    directory = Path(tempfile.mkdtemp(prefix="cpgate"))
    uas = far or await sipp.answerer(answer)
    alarms: list[Alarm] = []
    refusals: list[Any] = []
    gate = KamailioGate(
        settings(directory / "g", free_port(), uas.port, **more),
        clock or SystemClock(),
        on_alarm=alarms.append,
        on_refusal=refusals.append,
    )
    made = Rig(gate, uas, alarms, refusals)  # type: ignore[arg-type]  # a FarEnd is used by itself
    try:
        if start:
            await gate.start(policy or caps())
        yield made
    finally:
        await made.gate.stop()
        # One that another process's driver started, if a test failed half way.
        config = str(directory / "g" / "kamailio.cfg")
        for leader in groups_of(["-f", config]):
            end_group(leader, config)
        if isinstance(uas, sipp.Sipp):
            await uas.stop(grace=0.5)
        else:
            uas.close()
        log = directory / "g" / "kamailio.log"
        bad = [x for x in log.read_text().splitlines() if "BUG" in x] if log.exists() else []
        shutil.rmtree(directory, ignore_errors=True)
        assert not bad, bad


def call_ids(r: Rig) -> set[str]:
    """The Call-IDs in the core's book."""
    return {key.rpartition(";")[0] for key in r.gate.book.calls}


@dataclass
class Answer:
    code: int
    text: str

    def header(self, name: str) -> str:
        found = re.search(rf"^{name}:\s*(.*?)\r?$", self.text, re.M | re.I)
        return found[1] if found else ""

    def headers(self, name: str) -> list[str]:
        return [x.strip() for x in re.findall(rf"^{name}:\s*(.*?)\r?$", self.text, re.M | re.I)]


def branch_of(text: str) -> str:
    """The branch of the topmost Via: it ties an answer to its request (RFC 3261 17.1.3)."""
    found = re.search(r"^Via:[^\r]*?;branch=([^;\s]*)", text, re.M)
    assert found is not None
    return found[1]


class Phone:
    """A SIP client by hand: one UDP socket, messages as text."""

    def __init__(self, target: tuple[str, int], host: str = HOST) -> None:
        self.target = target
        self.host = host
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self._branches = itertools.count()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Phone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def branch(self) -> str:
        return f"z9hG4bK{os.getpid()}.{self.port}.{next(self._branches)}"

    def message(
        self, method: str, uri: str, *, call_id: str, cseq: int = 1, from_tag: str = "f",
        to: str = "", to_tag: str = "", branch: str = "", headers: Mapping[str, str] | None = None,
        from_uri: str = "", contact: str | None = "",
    ) -> str:  # fmt: skip
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {self.host}:{self.port};branch={branch or self.branch()}",
            f"From: <{from_uri or f'sip:phone@{HOST}'}>;tag={from_tag}",
            f"To: <{to or uri}>" + (f";tag={to_tag}" if to_tag else ""),
            f"Call-ID: {call_id}",
            f"CSeq: {cseq} {method}",
            "Max-Forwards: 70",
        ]
        if contact is not None:
            lines.append(f"Contact: {contact or f'<sip:phone@{self.host}:{self.port}>'}")
        for name, value in (headers or {}).items():
            lines += [f"{name}: {v}" for v in value.split("\n")]
        return "\r\n".join([*lines, "Content-Length: 0", "", ""])

    def send(self, text: str) -> None:
        self.socket.sendto(text.encode(), self.target)

    async def receive(self, seconds: float = DEADLINE) -> Answer:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            data = await loop.sock_recv(self.socket, 65536)
        text = data.decode(errors="surrogateescape")
        code = text.split(" ", 2)[1]
        return Answer(int(code) if code.isdigit() else 0, text)

    async def final(
        self, cseq: str = "", seconds: float = DEADLINE, call_id: str = "", branch: str = ""
    ) -> Answer:
        """The next final answer (of a CSeq, a call, a branch): others come again until ACKed."""
        while True:
            answer = await self.receive(seconds)
            if answer.code < 200 or (cseq and answer.header("CSeq") != cseq):
                continue
            if call_id and answer.header("Call-ID") != call_id:
                continue
            if not branch or branch_of(answer.text) == branch:
                return answer

    async def ask(self, text: str, seconds: float = DEADLINE) -> Answer:
        self.send(text)
        cseq = re.search(r"^CSeq: (.*?)\r", text, re.M)
        assert cseq is not None
        return await self.final(cseq[1], seconds, branch=branch_of(text))

    async def silence(self, seconds: float = 0.4) -> bool:
        """True when nothing at all arrives for so long."""
        try:
            await self.receive(seconds)
        except TimeoutError:
            return True
        return False

    def acknowledge(self, request: str, answer: Answer) -> None:
        """ACK a refusal, hop by hop."""
        lines = request.split("\r\n")
        uri = lines[0].split(" ")[1]
        keep = [x for x in lines if x.startswith(("Via", "From", "Call-ID", "Max-Forwards"))]
        cseq = answer.header("CSeq").split(" ")[0]
        self.send(
            "\r\n".join(
                [f"ACK {uri} SIP/2.0", *keep, f"To: {answer.header('To')}", f"CSeq: {cseq} ACK",
                 "Content-Length: 0", "", ""]
            )
        )  # fmt: skip

    async def register(
        self,
        name: str,
        *,
        expires: int | None = 600,
        contact: str | None = "",
        password: str = "pw",  # noqa: S107
        cseq: int = 1,
        call_id: str = "",
        headers: Mapping[str, str] | None = None,
        aor: str = "",
    ) -> Answer:
        """REGISTER with digest; return the last answer."""
        call_id = call_id or f"reg{random.randrange(10**9)}"
        uri = f"sip:{REALM}"
        more = dict(headers or {})
        if expires is not None:
            more["Expires"] = str(expires)
        address = aor or f"sip:{name}@{REALM}"
        place = f"<sip:{name}@{HOST}:{self.port}>" if contact == "" else contact

        def text(number: int, extra: Mapping[str, str]) -> str:
            return self.message(
                "REGISTER", uri, call_id=call_id, cseq=number, to=address, from_uri=address,
                contact=place, headers={**more, **extra},
            )  # fmt: skip

        first = await self.ask(text(cseq, {}))
        if first.code != 401:
            return first
        nonce = re.search(r'nonce="([^"]*)"', first.text)
        assert nonce is not None

        def md5(text: str) -> str:
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

        ha2 = md5(f"REGISTER:{uri}")
        response = md5(f"{ha1(name, password)}:{nonce[1]}:00000001:c:auth:{ha2}")
        credentials = (
            f'Digest username="{name}",realm="{REALM}",nonce="{nonce[1]}",uri="{uri}",'
            f'response="{response}",qop=auth,nc=00000001,cnonce="c"'
        )
        return await self.ask(text(cseq + 1, {"Authorization": credentials}))


@dataclass
class Call:
    """A call that a Phone has set up."""

    phone: Phone
    call_id: str
    answer: Answer
    request: str

    @property
    def routes(self) -> str:
        return "\n".join(reversed(self.answer.headers("Record-Route")))

    @property
    def remote(self) -> str:
        found = re.search(r"<(.*?)>", self.answer.header("Contact"))
        assert found is not None
        return found[1]

    @property
    def to_tag(self) -> str:
        return self.answer.header("To").partition(";tag=")[2]

    def text(self, method: str, cseq: int, **more: Any) -> str:
        values: dict[str, Any] = {
            "call_id": self.call_id, "cseq": cseq, "from_tag": "f", "to_tag": self.to_tag,
            "to": f"sip:1000@{HOST}:{self.phone.target[1]}", "headers": {"Route": self.routes},
        }  # fmt: skip
        return self.phone.message(method, self.remote, **{**values, **more})

    async def bye(self, cseq: int = 9) -> Answer:
        return await self.phone.ask(self.text("BYE", cseq))


def invite(phone: Phone, call_id: str, *, number: str = "1000", **more: Any) -> str:
    uri = number if number.startswith("urn:") else f"sip:{number}@{HOST}:{phone.target[1]}"
    return phone.message("INVITE", uri, call_id=call_id, **more)


async def call_up(phone: Phone, call_id: str, *, number: str = "1000", **more: Any) -> Call:
    """Set a call up; it must be answered."""
    request = invite(phone, call_id, number=number, **more)
    answer = await phone.ask(request)
    assert answer.code == 200, answer.text
    call = Call(phone, call_id, answer, request)
    phone.send(call.text("ACK", 1))
    return call
