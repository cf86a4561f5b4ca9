"""Real processes: a vendor, a manager, devices with their Kamailio; nothing is faked."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from callpool.device.control import ask
from callpool.device.settings import Layout
from callpool.host.clock import LabClock, SystemClock
from callpool.host.ports import free_port
from callpool.lab.processes import pause
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError
from callpool.manager.client import Connection, ManagerClient
from callpool.vendor.office import Office

COMMAND = (
    "import sys; from callpool.host.console import run; "
    "from callpool.{part}.commands import {part}_app; sys.exit(run({part}_app))"
)


def command(part: str, *words: object) -> list[str]:
    """The command line of one part, without the other parts' imports."""
    return [sys.executable, "-c", COMMAND.format(part=part), *(str(w) for w in words)]


def call(part: str, *words: object, ok: bool = True, **environment: str) -> str:
    """Run a command to its end; return what it said (on stderr where it must fail)."""
    done = subprocess.run(
        command(part, *words),
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, **environment},
    )
    assert (done.returncode == 0) is ok, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout if ok else done.stderr


#: Seconds that anything awaited may take: generous, for it costs only where a test fails.
DEADLINE = 60.0


def eventually(condition: Callable[[], Any], *, within: float = DEADLINE) -> Any:
    """Return the first true value of `condition`; fail after `within` seconds."""
    began = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - began
        assert waited < within, "the condition did not come true in time"
        time.sleep(pause(waited))


class Process:
    """One process of ours, ended by its id."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                words, stdout=out, stderr=out, env={**os.environ, "PYTHONFAULTHANDLER": "1"}
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> bool:
        return self._process.poll() is not None

    def end(self, sign: int = signal.SIGTERM, within: float = DEADLINE) -> int:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(sign)
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            state = Path(f"/proc/{self.pid}/status").read_text().splitlines()[2]
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGABRT)  # it says where each thread is, and ends
            self._process.wait(within)
            raise AssertionError(f"{self.pid} did not end; {state}; {self.said()}") from None

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Site:
    """A vendor and a manager with an order imported."""

    def __init__(self, directory: Path, **manager_options: object) -> None:
        self.directory = directory
        self.manager_options = manager_options
        self.clock_file = directory / "clock"
        self.clock = LabClock(self.clock_file)
        self.vendor = Office.create(directory / "vendor")
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.manager_directory = directory / "manager"
        options = [w for k, v in manager_options.items() for w in (f"--{k.replace('_', '-')}", v)]
        call(
            "manager", "init", "--dir", self.manager_directory, "--listen",
            f"127.0.0.1:{self.port}", "--vendor-key", self.vendor.public_key_file,
            "--lab-clock", self.clock_file, *options,
        )  # fmt: skip
        self.product_key = call(
            "manager", "product-key", "--dir", self.manager_directory
        ).split()[-1]  # fmt: skip
        self.ca_file = self.manager_directory / "identity" / "ca.pem"
        self.manager: Process | None = None
        self.devices: list[Device] = []
        self._client: ManagerClient | None = None

    def start(self) -> None:
        self.manager = Process(
            command("manager", "run", "--dir", self.manager_directory),
            self.directory / "manager.log",
        )
        eventually(self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    @property
    def client(self) -> ManagerClient:
        if self._client is None:
            password = (self.manager_directory / "admin.password").read_text().strip()
            self._client = ManagerClient(
                Connection(
                    url=self.url, ca_file=str(self.ca_file), username="admin", password=password
                )
            )
        return self._client

    def order(self, **counts: int) -> None:
        now = int(SystemClock().now().wall)
        _, envelope = self.vendor.order(
            product_key=self.product_key,
            counts=Capacity.of(counts),
            starts=now - 10,
            ends=now + 400 * 86400,
            now=now,
        )
        self.client.import_order(envelope.encode())

    def device(self, name: str, *, apply: str = "restart", local: int = 5) -> Device:
        """List a device at the manager and make it; it is not started."""
        serial = f"SN-{name}"
        self.client.call("POST", "/devices", {"name": name, "serials": [serial], "apply": apply})
        token = self.client.call("POST", "/tokens", {"uses": 1})["token"]
        made = Device(self, name, serial, token=token, local=local)
        self.devices.append(made)
        return made

    def allocate(self, name: str, **counts: int) -> None:
        self.client.call("PUT", f"/devices/{name}/allocation", counts)

    def shown(self, name: str) -> dict[str, Any]:
        devices: list[dict[str, Any]] = self.client.call("GET", "/devices")["devices"]
        return next(d for d in devices if d["name"] == name)

    def close(self) -> None:
        for device in self.devices:
            device.close()
        if self._client is not None:
            self._client.close()
        if self.manager is not None and not self.manager.ended():
            self.manager.end()


class Device:
    """One real device."""

    def __init__(
        self, site: Site, name: str, serial: str, *, token: str, local: int, directory: str = ""
    ) -> None:
        self.site, self.name, self.serial = site, name, serial
        self.layout = Layout(site.directory / (directory or name))
        self.sip = free_port()
        self.answerer = free_port()
        self.pages = free_port()
        key = site.directory / f"{name}.key"
        options: list[object] = []
        if local:
            counts = Capacity.of(sbc_sessions=local, far_end_users=local)
            _, envelope = site.vendor.key(
                serials=[serial],
                counts=counts,
                maximum=Capacity.of(sbc_sessions=1000, far_end_users=1000),
                features=frozenset({"test_call"}),
                now=int(time.time()),
            )
            key.write_text(envelope)
            options = ["--key", key]
        call(
            "device", "init", "--dir", self.layout.root, "--serial", serial,
            "--manager", site.url, "--ca-file", site.ca_file,
            "--vendor-key", site.vendor.public_key_file, *options,
            "--listen", f"udp:127.0.0.1:{self.sip}", "--trust", "127.0.0.1",
            "--destination", f"127.0.0.1:{self.answerer}",
            "--pages", f"127.0.0.1:{self.pages}", "--lab-clock", site.clock_file,
            CALLPOOL_TOKEN=token,
        )  # fmt: skip
        self.process: Process | None = None

    #: What the device's command runs under.
    wrapper: tuple[str, ...] = ()

    def configure(self, **changes: Any) -> None:
        """Change settings of `device.json`, those of the gate one by one."""
        settings = load(self.layout.settings)
        gate = {**settings["gate"], **changes.pop("gate", {})}
        self.layout.settings.write_text(json.dumps({**settings, **changes, "gate": gate}))

    def start(self) -> None:
        self.process = Process(
            [*self.wrapper, *command("device", "run", "--dir", self.layout.root)],
            self.site.directory / f"{self.layout.root.name}.log",
        )
        eventually(self.answers)

    def answers(self) -> bool:
        process = self.process
        assert process is not None
        assert not process.ended(), process.said()
        try:
            return bool(self.ask("status"))
        except CallpoolError:
            return False

    def ask(self, do: str, **fields: Any) -> Any:
        return ask(self.layout.control, do, timeout=DEADLINE, **fields)

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = self.ask("status")
        return told

    def row(self) -> tuple[int, int, int]:
        """Remote, Local, Actual of SBC sessions."""
        row = self.status()["capacity"][0]
        return row["remote"], row["local"], row["actual"]

    def becomes(self, remote: int, local: int, actual: int) -> None:
        eventually(lambda: self.row() == (remote, local, actual))

    def alarms(self) -> set[str]:
        return {a["code"] for a in self.status()["alarms"]}

    def connected(self) -> bool:
        return bool(self.status()["connected"])

    def running(self) -> dict[str, Any]:
        told: dict[str, Any] = self.ask("running")
        return told

    def kill(self) -> None:
        assert self.process is not None
        self.process.end(signal.SIGKILL)

    def close(self) -> None:
        if self.process is None:
            return
        if self.process.ended():
            # A core that a test killed has left its Kamailio: the next run takes and ends it.
            with contextlib.suppress(AssertionError):
                self.start()
        if not self.process.ended():
            self.process.end(signal.SIGTERM)


PASSWORD = "correct horse battery"


def with_user(device: Device, name: str = "anna", group: str = "administrator") -> None:
    """Add a user of pages and shell, on the device's own machine."""
    file = device.site.directory / f"{device.name}.{name}.password"
    file.write_text(f"{PASSWORD}\n")
    call(
        "device", "user", "add", name, "--dir", device.layout.root,
        "--group", group, "--password-file", file,
    )  # fmt: skip


def read_page(url: str, certificate: Path, user: str, password: str, path: str) -> httpx.Response:
    """A page as a user sees it who signs in; raises httpx.TransportError."""
    context = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(
        base_url=url, verify=context, trust_env=False, follow_redirects=True, timeout=30
    ) as client:
        client.post("/sign-in", data={"name": user, "password": password})
        return client.get(path)


@contextlib.contextmanager
def site(directory: Path, **options: object) -> Iterator[Site]:
    """A running site, ended by id at the end."""
    made = Site(directory / secrets.token_hex(2), **options)
    try:
        made.start()
        made.order(sbc_sessions=10_000, far_end_users=10_000)
        yield made
    finally:
        made.close()


def kamailio_at(pid: int) -> bool:
    """Whether a process lives."""
    return Path(f"/proc/{pid}").exists()


def load(file: Path) -> Any:
    """Read a JSON file."""
    return json.loads(file.read_text())
