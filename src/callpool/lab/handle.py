"""`LabHandle`: what demo, tests and benchmarks do with a running lab."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from callpool.device.control import ask
from callpool.device.settings import Layout
from callpool.host.process import is_alive
from callpool.lab.answerer import trace_of
from callpool.lab.processes import identity, spawn, stop, wait_for
from callpool.lab.spec import DeviceEntry, Lab, ProcessEntry, read_lab, write_lab
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError
from callpool.licensing.order import POOL_ORDER, SMART_ORDER
from callpool.manager.client import Connection, ManagerClient
from callpool.vendor.office import Office

_CALLPOOL = (sys.executable, "-m", "callpool")


class LabHandle:
    """A running lab, held by its directory."""

    def __init__(self, directory: Path) -> None:
        """Take hold of the lab in `directory`; raises CallpoolError `no_lab`."""
        self.directory = directory.absolute()
        self.lab: Lab = read_lab(self.directory)

    @property
    def devices(self) -> tuple[DeviceEntry, ...]:
        """Return the lab's devices."""
        return self.lab.devices

    # -- the manager

    def client(self) -> ManagerClient:
        """Return a client of the manager's API; close it."""
        manager = self.lab.manager
        return ManagerClient(
            Connection(
                url=manager.url,
                ca_file=manager.ca_file,
                username=manager.username,
                password=manager.password,
            )
        )

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Call the manager's API once; raises CallpoolError with the manager's code."""
        with self.client() as client:
            return client.call(method, path, body)

    def pool(self) -> dict[str, Any]:
        """Return the manager's view of the pool."""
        return self.call("GET", "/pool")

    def buy(
        self, counts: dict[str, int], *, starts: int, ends: int, virtual_account: str = ""
    ) -> str:
        """Let the vendor sign an order in date from `starts` to `ends`, import it, name it.

        For the pool, or, where a virtual account is named, for smart licensing.
        """
        smart = bool(virtual_account)
        order, envelope = Office(Path(self.lab.vendor.directory)).order(
            product_key=self.lab.manager.product_key,
            counts=Capacity.of(counts),
            starts=starts,
            ends=ends,
            now=starts,
            role=SMART_ORDER if smart else POOL_ORDER,
        )
        path = f"/smart/orders?virtual_account={virtual_account}" if smart else "/orders"
        with self.client() as client:
            client.import_order(envelope.encode(), path)
        return order.order_id

    def allocate(self, name: str, **counts: int) -> dict[str, Any]:
        """Set what a device is to have; raises CallpoolError with the manager's code."""
        return self.call("PUT", f"/devices/{name}/allocation", counts)

    # -- devices

    def device(self, name: str) -> DeviceEntry:
        """Return a device's entry."""
        return self.lab.device(name)

    def ask(self, name: str, command: str, **arguments: Any) -> Any:
        """Ask a device's core; raises DeviceError with its code."""
        socket = Layout(Path(self.device(name).directory)).control
        return ask(socket, command, timeout=60.0, **arguments)

    def status(self, name: str) -> dict[str, Any]:
        """Return what a device says of itself."""
        return dict(self.ask(name, "status"))

    def row(self, name: str, license_type: str) -> dict[str, Any]:
        """Return one line of a device's SBC Capacity group."""
        return next(dict(r) for r in self.status(name)["capacity"] if r["type"] == license_type)

    def counts(self, column: str, license_type: str) -> dict[str, int]:
        """Return one column for all devices, such as what is 'actual' of far-end users."""
        return {d.name: int(self.row(d.name, license_type)[column]) for d in self.devices}

    def smart(self, name: str, action: str = "status", **fields: Any) -> dict[str, Any]:
        """Tell a smart device to do something; returns its smart status after it.

        Raises DeviceError with its code.
        """
        socket = Layout(Path(self.device(name).directory)).control
        return dict(ask(socket, "smart", timeout=90.0, action=action, **fields)["smart"])

    def register(self, name: str, **token: Any) -> dict[str, Any]:
        """Register a smart device by a new token; returns its smart status."""
        secret = str(self.call("POST", "/smart/tokens", token)["token"])
        return self.smart(name, "register", token=secret)

    def await_smart(self, name: str, state: str, *, seconds: float = 60.0) -> None:
        """Wait until a smart device is in `state`; raises CallpoolError `timed_out`."""
        wait_for(
            f"{name} to be {state}",
            lambda: bool(self.smart(name)["state"] == state),
            seconds=seconds,
        )

    def gate(self, name: str) -> dict[str, Any]:
        """Return what a device's gate counts."""
        return dict(self.ask(name, "calls"))

    def kamailio_pid(self, name: str) -> int:
        """Return the process id of a device's Kamailio now, 0 while there is none."""
        return int(self.ask(name, "running")["kamailio_pid"])

    def sip(self, name: str) -> tuple[str, int]:
        """Return the address of a device's Kamailio."""
        host, _, port = self.device(name).sip.rpartition(":")
        return host, int(port)

    def trace(self, name: str) -> Path:
        """Return the message trace of a device's answerer."""
        return trace_of(self.directory / f"{name}-answerer")

    def await_actual(
        self, name: str, license_type: str, count: int, *, seconds: float = 60.0
    ) -> None:
        """Wait until a device's Actual is `count`; raises CallpoolError `timed_out`."""

        def reached() -> bool:
            try:
                return int(self.row(name, license_type)["actual"]) == count
            except CallpoolError:
                return False

        wait_for(f"{name} to have {count} {license_type}", reached, seconds=seconds)

    # -- accidents

    def process(self, name: str) -> ProcessEntry:
        """Return a process by its name: `manager`, a device's, or `<device>-answerer`."""
        return next(p for p in self.lab.processes if p.name == name)

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one of the lab's processes; raises ProcessLookupError."""
        if not self.alive(name):  # the number may be another's by now
            raise ProcessLookupError(name)
        os.kill(self.process(name).pid, number)

    def kill(self, name: str) -> None:
        """Kill one of the lab's processes (-9) and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.send(name, signal.SIGKILL)
        stop(self.process(name), grace=10.0)

    def kill_kamailio(self, name: str) -> None:
        """Kill the main process of a device's Kamailio (-9); CallpoolError `no_kamailio`."""
        pid = self.kamailio_pid(name)
        if not pid:  # to signal 0 is to signal everybody in the caller's own group
            raise CallpoolError("no_kamailio", f"{name} has no Kamailio at the moment.")
        os.kill(pid, signal.SIGKILL)

    def start(self, name: str) -> None:
        """Start the manager or a device again, and note it in `lab.json`."""
        if name == "manager":
            words = ("manager", "run", "--dir", self.lab.manager.directory)
        else:
            words = ("device", "run", "--dir", self.device(name).directory)
        entry = spawn(name, (*_CALLPOOL, *words), self.directory / "log" / f"{name}.log")
        others = tuple(p for p in self.lab.processes if p.name != name)
        self.lab = msgspec.structs.replace(self.lab, processes=(*others, entry))
        write_lab(self.directory, self.lab)

    def await_manager(self, *, seconds: float = 60.0) -> None:
        """Wait until the manager answers."""

        def answers() -> bool:
            try:
                return bool(self.pool())
            except CallpoolError:
                return False

        wait_for("the manager to answer", answers, seconds=seconds)

    def await_device(self, name: str, *, seconds: float = 60.0) -> None:
        """Wait until a device's core answers and its Kamailio lives."""

        def answers() -> bool:
            try:
                return bool(self.gate(name)["alive"])
            except CallpoolError:
                return False

        wait_for(f"{name} to answer", answers, seconds=seconds)

    def alive(self, name: str) -> bool:
        """Tell whether one of the lab's processes runs."""
        return is_alive(identity(self.process(name)))
