"""200 connections at once, half of them silent, slow or garbage; and a restart that waits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
from shellkit import DEADLINE, POOL, Shell, eventually

from callpool.host.sipp import caller
from callpool.lab.handle import LabHandle
from callpool.licensing.capacity import Capacity
from callpool.vendor.office import Office

#: Where the flood comes from: turns are by address, and other tests want theirs.
FLOOD = "127.0.0.8"
SESSIONS = 60


def licensed(lab: LabHandle) -> None:
    lab.allocate(POOL, sbc_sessions=SESSIONS)
    eventually(lambda: lab.row(POOL, "sbc_sessions")["remote"] == SESSIONS)
    lab.ask(POOL, "restart", save=True)


class Watch:
    """How long the core takes to answer, and when the local key's end is put in force."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.took: list[float] = []
        #: (trusted time, local sessions) at each look.
        self.local: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            began = time.monotonic()
            status = self.shell.ask("status")
            self.took.append(time.monotonic() - began)
            row = next(r for r in status["capacity"] if r["type"] == "sbc_sessions")
            self.local.append((status["time"], row["actual"]))

    @contextmanager
    def looking(self) -> Iterator[Watch]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()


def silent(shell: Shell, n: int) -> socket.socket:
    """A connection that says nothing, or what no SSH client says."""
    made = socket.create_connection((shell.host, shell.port), DEADLINE, source_address=(FLOOD, 0))
    made.setblocking(False)
    said = (b"", os.urandom(4096), b"SSH-2.0-", b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n")[n % 5]
    with contextlib.suppress(OSError):  # it may be closed to us already
        made.send(said)
    return made


async def honest(shell: Shell, key: asyncssh.SSHKey, name: str) -> bool:
    """A client that wants to know something."""
    async with asyncssh.connect(
        shell.host, shell.port, username=name, client_keys=[key], known_hosts=None,
        local_addr=(FLOOD, 0), config=None, agent_path=None, login_timeout=DEADLINE,
    ) as client:  # fmt: skip
        done = await client.run("show version", check=True)
        return shell.serial in str(done.stdout)


def test_timers_and_calls_go_on_under_200_connections_half_of_them_slow_or_garbage(
    shells: LabHandle, pool: Shell
) -> None:
    licensed(shells)
    before = pool.ask("running")
    now = int(pool.ask("status")["time"])
    # A step of the policy that falls due in the middle of it: the local key's end.
    ends = now + 15
    _, envelope = Office(Path(shells.lab.vendor.directory)).key(
        serials=[pool.serial], counts=Capacity.of(sbc_sessions=9), now=now - 10, ends=ends,
        maximum=Capacity.of(sbc_sessions=250), features=frozenset(),
    )  # fmt: skip
    pool.ask("key_install", envelope=envelope)
    key = asyncssh.read_private_key(str(pool.key))
    watch = Watch(pool)

    async def story() -> None:
        sipp = await caller(shells.sip(POOL), calls=0, rate=20, hold_ms=500)
        held = await asyncio.to_thread(lambda: [silent(pool, n) for n in range(100)])
        try:
            answers = await asyncio.gather(*(honest(pool, key, "root") for _ in range(100)))
            assert answers == [True] * 100
            await asyncio.to_thread(
                eventually, lambda: watch.local and watch.local[-1][0] > ends + 2.0
            )
        finally:
            for connection in held:
                connection.close()
        result = await sipp.finish(60)
        assert result.completed > 100
        assert (result.failed, result.refused) == (0, 0), result

    with watch.looking():
        asyncio.run(story())
    after = pool.ask("running")
    assert after == before, "no process has died of it"
    # The core answers as ever, and the step came when it was due.
    took = sorted(watch.took)
    assert took[len(took) // 2] < 0.1, took[len(took) // 2]
    assert took[-1] < 1.0, took[-1]
    stepped = next(at for at, sessions in watch.local if sessions == SESSIONS)
    assert watch.local[0][1] == SESSIONS + 9
    assert abs(stepped - ends) < 1.0, stepped - ends
    # And the door is open to others all the while: nothing of it is left.
    assert pool.does("show version")
    eventually(lambda: len(os.listdir(f"/proc/{after['shell_pid']}/fd")) < 40)


def options(shells: LabHandle) -> int:
    """The answer to a SIP OPTIONS request, 0 for none."""
    host, port = shells.sip(POOL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.bind(("127.0.0.1", 0))
        mine = f"127.0.0.1:{client.getsockname()[1]}"
        branch = os.urandom(8).hex()
        client.sendto(
            f"OPTIONS sip:{host}:{port} SIP/2.0\r\nVia: SIP/2.0/UDP {mine};branch=z9hG4bK{branch}"
            f"\r\nFrom: <sip:a@{mine}>;tag={branch}\r\nTo: <sip:{host}:{port}>\r\n"
            f"Call-ID: {branch}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 10\r\nContent-Length: 0\r\n\r\n"
            .encode(),
            (host, port),
        )  # fmt: skip
        try:
            return int(client.recv(4096).split()[1])
        except TimeoutError:  # while the SIP service restarts
            return 0


def test_a_graceful_restart_admits_nobody_until_those_who_are_up_have_hung_up(
    shells: LabHandle, pool: Shell
) -> None:
    licensed(shells)
    before = shells.kamailio_pid(POOL)

    async def story() -> None:
        sipp = await caller(shells.sip(POOL), calls=4, rate=50, hold_ms=6_000)
        await asyncio.to_thread(eventually, lambda: shells.gate(POOL)["sessions"] == 4)
        said = await asyncio.to_thread(pool.does, "restart graceful 60")
        assert "calls in progress (4)" in said
        assert await asyncio.to_thread(options, shells) == 503
        late = await caller(shells.sip(POOL), calls=2, rate=50, hold_ms=100)
        assert (await late.wait(60)).answers == {503: 2}
        shown = await asyncio.to_thread(pool.does, "show license pool")
        assert "In Service: No: the SIP service is about to restart" in shown
        assert shells.kamailio_pid(POOL) == before
        result = await sipp.wait(60)
        assert (result.completed, result.failed) == (4, 0), "none was cut"

    asyncio.run(story())
    eventually(lambda: shells.kamailio_pid(POOL) not in (0, before))
    eventually(lambda: shells.gate(POOL)["alive"] and options(shells) == 200)
    drained = [e for e in pool.journal() if e["event"] == "drained"][-1]
    assert (drained["calls"], drained["who"]) == (0, "root (ssh from 127.0.0.1)")
    # Given up in time, nothing restarts.
    again = shells.kamailio_pid(POOL)

    async def given_up() -> None:
        sipp = await caller(shells.sip(POOL), calls=1, rate=50, hold_ms=4_000)
        await asyncio.to_thread(eventually, lambda: shells.gate(POOL)["sessions"] == 1)
        await asyncio.to_thread(pool.does, "restart graceful 60")
        await asyncio.to_thread(pool.does, "restart cancel")
        assert await asyncio.to_thread(options, shells) == 200
        assert (await sipp.wait(60)).completed == 1

    asyncio.run(given_up())
    assert shells.kamailio_pid(POOL) == again
