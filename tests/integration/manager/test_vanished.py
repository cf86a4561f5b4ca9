"""Half-open connections: a peer that vanished sends no FIN, and answers nothing any more.

The kernel is told to throw away what goes to one address of loopback: whoever has a connection
with that address hears nothing of it from then on, and nothing it says arrives.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import managerkit
import pytest
from managerkit import Running, Site, eventually, running

from callpool.lab.postgres import Cluster, cluster
from callpool.licensing.errors import CallpoolError
from callpool.manager.store import postgresql
from callpool.manager.store.database import Database
from callpool.manager.store.tx import Tx
from callpool.wire.envelope import HINTS, sign
from callpool.wire.messages import CONTENT_TYPE, HINTS_PATH, HintsRequest

#: Seconds after which the vanished are given up here, in place of minutes.
SOON = 3
IMPATIENT = f"from callpool.manager import app; app.GONE_AFTER = {SOON}; {managerkit.MAIN}"


class Far:
    """An address of loopback that can vanish, of this process alone."""

    def __init__(self) -> None:
        pid = os.getpid()
        self.address = f"127.{100 + pid // 65536 % 100}.{pid // 256 % 256}.{pid % 256}"
        self._gone = False

    def vanish(self) -> None:
        self._route("add")
        self._gone = True

    def come_back(self) -> None:
        if self._gone:
            self._route("del")
        self._gone = False

    def _route(self, what: str) -> None:
        words = ("ip", "route", what, "blackhole", f"{self.address}/32", "table", "local")
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"run as root, with iproute2: {done.stderr}"


@pytest.fixture
def far() -> Iterator[Far]:
    made = Far()
    yield made
    made.come_back()


def connections(manager: Running, far: Far) -> int:
    """Return how many connections the manager has with the far address, as the kernel says."""
    there = bytes(map(int, far.address.split(".")))[::-1].hex().upper()
    here = f":{manager.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    found = [line.split()[1:4] for line in lines]
    return sum(1 for a, b, state in found if a.endswith(here) and b.startswith(there))


def test_devices_that_vanish_without_a_word_keep_no_connection_and_no_stream_open(
    tmp_path: Path, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managerkit, "MAIN", IMPATIENT)
    site = Site(tmp_path / "manager", lab_clock="")
    open_: list[socket.socket] = []
    with running(site) as manager:
        manager.add("a", "SN-1", apply="live")
        device = manager.device("SN-1")
        device.contact()
        context = ssl.create_default_context(cafile=str(site.layout.ca))

        def connect() -> socket.socket:
            made = socket.create_connection(
                ("127.0.0.1", manager.port), timeout=30, source_address=(far.address, 0)
            )
            open_.append(made)
            return made

        def speak() -> ssl.SSLSocket:
            made = context.wrap_socket(connect(), server_hostname="localhost")
            open_.append(made)
            return made

        asked = HintsRequest(
            url=manager.url + HINTS_PATH, nonce="n" * 16, serial="SN-1", time=time.time()
        )
        body = sign(device.key, HINTS, asked).encode()
        head = (
            f"POST {HINTS_PATH} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        connect()  # no TLS yet
        speak()  # no request yet
        speak().sendall(head + body[:50])  # half of one
        stream = speak()
        stream.sendall(head + body)
        assert b"200" in stream.recv(4096)
        assert connections(manager, far) == 4
        far.vanish()
        # What the stream is told now is never acknowledged.
        manager.import_order(site.order("PO-1", sbc_sessions=10))
        manager.call("PUT", "/devices/a/allocation", {"sbc_sessions": 5}, 200)
        eventually(lambda: connections(manager, far) == 0)
        metrics = manager.http.get("/metrics").text
        assert "callpool_manager_hint_streams 0" in metrics
        # Whoever is there is served as ever.
        assert device.counts(device.contact()) == {"sbc_sessions": 5}
        for made in open_:
            made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "GONE_AFTER", SOON)
    monkeypatch.setattr(postgresql, "HANGS", SOON)


@pytest.fixture
def server(far: Far) -> Iterator[Cluster]:
    with cluster(listen_addresses=f"127.0.0.1,{far.address}") as made:
        yield made
        far.come_back()


class Held:
    """A manager's write that stops in its midst, holding the lock of all writes."""

    def __init__(self, database: Database) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.error: CallpoolError | None = None
        self._database = database
        self._thread = threading.Thread(target=self._write)
        self._thread.start()
        assert self.inside.wait(60)

    def _write(self) -> None:
        def change(tx: Tx) -> None:
            tx.set_meta("held", "yes")
            self.inside.set()
            self.go_on.wait(60)
            tx.set_meta("held", "and on")

        try:
            self._database.write(change)
        except CallpoolError as error:
            self.error = error

    def end(self) -> CallpoolError | None:
        """Let it go on; return what came of it."""
        self.go_on.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "it waits for one that has vanished"
        return self.error


@pytest.mark.parametrize("vanished", [True, False], ids=["vanished", "frozen"])
def test_a_manager_lost_in_the_midst_of_a_write_holds_up_no_other(
    far: Far, server: Cluster, impatient: None, vanished: bool
) -> None:
    url = server.database()
    one = Database(url.replace("127.0.0.1", far.address) if vanished else url)
    other = Database(url)
    with contextlib.closing(one), contextlib.closing(other):
        other.migrate()
        held = Held(one)
        try:
            if vanished:
                far.vanish()
            # It has the lock; PostgreSQL ends it, and the write that waits for the lock is done.
            other.write(lambda tx: tx.set_meta("other", "done"))
        finally:
            error = held.end()
        # The lost one learns that its change is not there, in a sentence, within seconds.
        assert error is not None
        assert error.code == "database_unusable"
        assert other.read(lambda tx: tx.meta("held")) == ""
        far.come_back()
        one.write(lambda tx: tx.set_meta("held", "again"))
        assert other.read(lambda tx: tx.meta("held")) == "again"
