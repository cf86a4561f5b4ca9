"""Two managers on one PostgreSQL database behind a real HAProxy, and a real device."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from devicekit import Process, Site, call, command, eventually

from callpool.host.ports import free_port
from callpool.lab.postgres import cluster
from callpool.manager.client import Connection, ManagerClient

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "haproxy.cfg"


class Pair:
    """A site whose address is HAProxy's, with managers `a` and `b` behind it."""

    def __init__(self, directory: Path, database: str) -> None:
        self.directory = directory
        url_file = directory / "database.url"
        url_file.write_text(database)
        self.front = free_port()
        self.url = f"https://127.0.0.1:{self.front}"
        self.site = Site(directory, url=self.url, database_file=str(url_file))
        self.site.url = self.url
        self.ports = {"a": self.site.port, "b": free_port()}
        self.homes = {"a": self.site.manager_directory, "b": directory / "manager-b"}
        # The keys are the same; the grant journal is each one's own.
        shutil.copytree(self.homes["a"], self.homes["b"])
        settings = json.loads((self.homes["b"] / "manager.json").read_text())
        settings["listen"] = f"127.0.0.1:{self.ports['b']}"
        (self.homes["b"] / "manager.json").write_text(json.dumps(settings))
        self.managers: dict[str, Process] = {}
        self.clients: dict[str, ManagerClient] = {}
        self.haproxy = self._haproxy()

    def begin(self) -> None:
        for name in self.homes:
            self.start(name)
        eventually(lambda: self._open(self.front))
        self.password = (self.homes["a"] / "admin.password").read_text().strip()
        self.clients = {
            name: ManagerClient(
                Connection(
                    url=f"https://127.0.0.1:{port}", ca_file=str(self.site.ca_file),
                    username="admin", password=self.password,
                )
            )
            for name, port in (*self.ports.items(), ("front", self.front))
        }  # fmt: skip
        self.site._client = self.clients["a"]

    def _haproxy(self) -> subprocess.Popen[bytes]:
        text = EXAMPLE.read_text()
        for shown, real in (
            ("192.0.2.10:443", f"127.0.0.1:{self.front}"),
            ("192.0.2.11:443", f"127.0.0.1:{self.ports['a']}"),
            ("192.0.2.12:443", f"127.0.0.1:{self.ports['b']}"),
        ):
            assert shown in text
            text = text.replace(shown, real)
        file = self.directory / "haproxy.cfg"
        file.write_text(text)
        return subprocess.Popen(["/usr/sbin/haproxy", "-db", "-f", str(file)])

    def _open(self, port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            return False
        return True

    def start(self, name: str) -> None:
        self.managers[name] = Process(
            command("manager", "run", "--dir", self.homes[name]), self.directory / f"{name}.log"
        )
        eventually(lambda: self._open(self.ports[name]))

    def streams(self, name: str) -> int:
        """How many connections of HAProxy a manager has: its streams of hints."""
        shown = httpx.get(
            f"https://127.0.0.1:{self.ports[name]}/metrics",
            auth=("admin", self.password),
            verify=ssl.create_default_context(cafile=str(self.site.ca_file)),
            trust_env=False,
            timeout=60,
        ).text
        found = [x for x in shown.splitlines() if x.startswith("callpool_manager_hint_streams ")]
        assert found, shown[:500]
        line = found[0]
        return int(float(line.split()[-1]))

    def close(self) -> None:
        for client in self.clients.values():
            if client is not self.site._client:
                client.close()
        self.site.close()
        for process in self.managers.values():
            if not process.ended():
                process.end(signal.SIGKILL)
        self.haproxy.terminate()
        self.haproxy.wait(60)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with cluster() as made:
        pair = Pair(tmp_path, made.database())
        try:
            pair.begin()
            yield pair
        finally:
            pair.close()


def test_a_device_hears_of_changes_at_either_manager_and_outlives_one(pair: Pair) -> None:
    pair.site.order(sbc_sessions=100)
    device = pair.site.device("sbc", apply="live", local=0)
    device.start()
    eventually(device.connected)

    def allocate(at: str, count: int) -> float:
        began = time.monotonic()
        body = {"sbc_sessions": count}
        pair.clients[at].call("PUT", "/devices/sbc/allocation", body)
        device.becomes(count, 0, count)
        return time.monotonic() - began

    # It polls every 12 hours: what it has within seconds it was told by a hint, and its one
    # stream is open at one of the two.
    eventually(lambda: pair.streams("a") + pair.streams("b") == 1)
    took = [allocate("a", 10), allocate("b", 20), allocate("a", 30), allocate("b", 40)]
    assert max(took) < 15, took
    mine = "a" if pair.streams("a") else "b"
    other = "b" if mine == "a" else "a"
    pair.managers[mine].end(signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: pair.streams(other) == 1)
    assert time.monotonic() - began < 30
    assert allocate(other, 50) < 15
    # The one that comes back knows all, and its grant journal catches up.
    pair.start(mine)
    assert allocate(mine, 60) < 15
    said = call("manager", "product-key", "--dir", pair.homes[mine])
    assert said.strip() == pair.site.product_key
    journals = [pair.homes[name] / "grants" / "journal" for name in "ab"]
    last = eventually(lambda: _same([_last(file) for file in journals]))
    assert last > 5
    assert pair.clients[other].call("GET", "/pool").get("restored") is None


def _last(journal: Path) -> int:
    return int(json.loads(journal.read_text().splitlines()[-1])["number"])


def _same(numbers: list[int]) -> int:
    return numbers[0] if len(set(numbers)) == 1 else 0
