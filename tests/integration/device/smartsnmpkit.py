"""A smart device of a real lab with an SNMP agent, and the road between it and its authority."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from devicekit import eventually
from snmpkit import USER, Notification, Snmp, TrapReceiver

from callpool.device.settings import Layout
from callpool.host.clock import LabClock
from callpool.lab.fleet import Plan, down, up
from callpool.lab.handle import LabHandle
from callpool.lab.hostile import Answered, Hostile, HostileServer
from callpool.licensing.errors import CallpoolError

DAY = 86_400.0
PROXY = "proxy-1"
SLA = ".1.3.6.1.4.1.9.9.831"
USP = ".1.3.6.1.4.1.9.9.827"
MODE_COLUMN = f"{SLA}.0.5.1.1.5.1"


class Road(Hostile):
    """The network between device and authority; it can be cut, whole or for some requests."""

    def __init__(self, directory: Path, upstream: str) -> None:
        super().__init__(directory, upstream, share=0.0)
        self.cut = False
        self.closed: set[str] = set()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answered | None:
        if self.cut or path in self.closed:
            return None
        return super().answer(path, headers, body)


class SmartLab:
    """One lab with one smart device, read and heard by net-snmp."""

    def __init__(self, lab: LabHandle) -> None:
        self.lab = lab
        self.name = PROXY
        self.directory = lab.directory
        #: As `snmpkit.Snmp` wants a device.
        self.site = self
        self.clock = LabClock(Path(lab.lab.clock))
        self.layout = Layout(Path(lab.device(PROXY).directory))
        self.serial = lab.device(PROXY).serial
        manager = lab.lab.manager
        self.road = Road(Path(manager.directory), manager.url)
        self.server = HostileServer(self.road, "127.0.0.1", urlsplit(manager.hostile).port or 0)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        home = lab.directory / "receivers"
        home.mkdir()
        self.receiver = TrapReceiver(home / "one", self.serial)
        self.down = TrapReceiver(home / "two", self.serial)
        self.stop_device()
        self.snmp = Snmp(
            self,  # type: ignore[arg-type]
            targets=[
                {"address": self.receiver.address, "kind": "inform", "user": USER},
                {"address": self.down.address, "kind": "inform", "user": USER},
            ],
        )
        self.start_device()

    def stop_device(self) -> None:
        self.lab.ask(PROXY, "stop")
        eventually(lambda: not self.lab.alive(PROXY))

    def start_device(self) -> None:
        self.lab.start(PROXY)
        self.lab.await_device(PROXY)
        eventually(self.snmp.answers)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.receiver.stop()
        self.down.stop()

    # -- the device

    def smart(self, action: str = "status", **fields: Any) -> dict[str, Any]:
        return self.lab.smart(PROXY, action, **fields)

    def becomes(self, state: str) -> None:
        try:
            self.lab.await_smart(PROXY, state)
        except CallpoolError as error:
            raise AssertionError(f"{error}: {self.smart()}") from error

    def token(self) -> str:
        return str(self.lab.call("POST", "/smart/tokens", {})["token"])

    def move(self, count: int, source: str, target: str) -> None:
        body = {"tag": "cps", "count": count, "source": source, "target": target}
        self.lab.call("POST", "/smart/transfers", body)

    # -- what was heard

    def heard(self, receiver: TrapReceiver | None = None) -> list[str]:
        """The notifications of both modules, in short: `6`, `1:3` with its mode, `usp6:8`."""
        return [s for n in (receiver or self.receiver).got() if (s := short(n))]

    def hears(self, *wanted: str) -> None:
        """Wait until the last that was heard is this, and forget nothing of it."""
        try:
            eventually(lambda: self.heard()[-len(wanted) :] == list(wanted))
        except AssertionError as error:
            raise AssertionError(f"{wanted} is not the end of {self.heard()}") from error

    def sla(self, suffix: str) -> str:
        return self.snmp.get(f"{SLA}.0.{suffix}")

    def usp(self, suffix: str) -> str:
        return self.snmp.get(f"{USP}.1.1.{suffix}")


def short(notification: Notification) -> str:
    """A notification of smart licensing in short; empty for another."""
    oid = notification.oid
    if oid.startswith(f"{SLA}.1."):
        mode = notification.get(MODE_COLUMN)
        return oid.rpartition(".")[2] + (f":{mode}" if mode else "")
    if oid == f"{USP}.0.6":
        return f"usp6:{notification[f'{USP}.1.1.5.0']}"
    return "usp5" if oid == f"{USP}.0.5" else ""


@contextmanager
def smart_lab() -> Iterator[SmartLab]:
    """A running lab; whatever was done to it, it is down afterwards."""
    # A short path: Unix sockets' names have 108 bytes.
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    made: SmartLab | None = None
    try:
        up(directory, Plan(names=(), proxies=(PROXY,), through_hostile=True), lambda _: None)
        lab = LabHandle(directory)
        lab.call("POST", "/smart/accounts", {"name": "acme"})
        lab.call("POST", "/smart/virtual-accounts", {"name": "spare"})
        now = int(LabClock(Path(lab.lab.clock)).now().wall)
        lab.buy({"cps": 100}, starts=now, ends=now + int(2000 * DAY), virtual_account="default")
        made = SmartLab(lab)
        yield made
    finally:
        if made is not None:
            made.close()
        if (directory / "lab.json").exists():
            down(directory)
        shutil.rmtree(directory, ignore_errors=True)
