"""`callpool lab up` and `down`: vendor, manager, devices, answerers, on free loopback ports.

Everything is made by the commands that an administrator types: the lab knows no back door.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from callpool.device.config import CreateUser, SetGroup, SetPassword
from callpool.device.control import ask
from callpool.device.gate.journal import GateState
from callpool.device.settings import Layout
from callpool.device.setup import configure_offline
from callpool.device.users import Group, hash_password
from callpool.host import structs
from callpool.host.files import write_durably
from callpool.host.ports import free_port
from callpool.host.process import ProcessId, end_group
from callpool.lab.answerer import answerer_command
from callpool.lab.processes import run, spawn, stop, wait_for
from callpool.lab.spec import (
    DeviceEntry,
    Lab,
    ManagerEntry,
    ProcessEntry,
    VendorEntry,
    read_lab,
    write_lab,
)
from callpool.licensing.errors import CallpoolError

#: The realm and the far-end users that every lab device knows: user001 ... user060.
REALM: Final = "lab.callpool.example"
USERS: Final = 60

#: What each lab device could carry at most, by its local key; the key itself counts nothing.
MAXIMUM: Final = ("--maximum", "sbc_sessions=250", "--maximum", "far_end_users=100")

#: What each smart device could carry at most: calls a second above all.
SMART_MAXIMUM: Final = (*MAXIMUM, "--maximum", "cps=1000")

#: The first administrator of each lab device.
DEVICE_USER: Final = "admin"

#: The modes of lab devices.
FIXED: Final = "fixed"
SMART: Final = "smart"

_CALLPOOL: Final = (sys.executable, "-m", "callpool")
_START_SECONDS: Final = 60.0

Progress = Callable[[str], None]


def user_name(number: int) -> str:
    """Return the name of far-end user `number`, from 1 on."""
    return f"user{number:03d}"


def user_password(number: int) -> str:
    """Return the lab password of a far-end user: no secret, the lab is on loopback only."""
    return f"lab-{number:03d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a lab is to be."""

    #: Names of the devices; the serial number is made of the name.
    names: tuple[str, ...] = ("sbc-a", "sbc-b", "sbc-c")
    #: Names of the smart devices, which `callpool device smart` takes on from Unconfigured.
    proxies: tuple[str, ...] = ()
    #: Whether the smart devices speak to the authority through `callpool lab hostile`.
    through_hostile: bool = False
    #: `restart` (the seed) or `live`.
    apply: str = "restart"
    #: Further options of `callpool manager init`, such as a short lease.
    manager_options: tuple[str, ...] = ()
    #: Further gate settings, over the lab's own.
    gate: tuple[tuple[str, Any], ...] = ()
    #: What the answerers do: a scenario of `callpool.host.sipp`.
    scenario: str = "uas"
    #: Options of the local keys: counts and features.
    key_options: tuple[str, ...] = (*MAXIMUM, "--feature", "test_call")
    #: Whether each device has a shell; it costs a process and half a second more.
    ssh: bool = False


class Builder:
    """Starts a lab's parts one by one, and stops them all if one fails."""

    def __init__(self, directory: Path, plan: Plan, progress: Progress) -> None:
        """Prepare to build in `directory`; raises CallpoolError `lab_exists`."""
        self.root = directory.absolute()
        self.plan = plan
        self.progress = progress
        self.processes: list[ProcessEntry] = []
        self._ports: set[int] = set()
        self._lock = threading.Lock()
        if (self.root / "lab.json").exists():
            raise CallpoolError(
                "lab_exists", f"{directory} holds a lab: `callpool lab down --dir {directory}`."
            )
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        (self.root / "log").mkdir(exist_ok=True)
        self.clock = self.root / "clock.json"

    def port(self) -> int:
        """Return a free port that this lab has not given to anything else yet."""
        with self._lock:
            port = free_port()
            while port in self._ports:
                port = free_port()
            self._ports.add(port)
            return port

    def start(self, name: str, command: Sequence[str]) -> ProcessEntry:
        """Start one of the lab's processes and remember it."""
        entry = spawn(name, command, self.root / "log" / f"{name}.log")
        self.processes.append(entry)
        return entry

    def callpool(self, *words: str, environment: dict[str, str] | None = None) -> str:
        """Run a callpool command; raises CallpoolError `command_failed`."""
        return run((*_CALLPOOL, *words), environment=environment)

    def url_of(self, name: str, mode: str, manager: ManagerEntry) -> str:
        """Return where a device finds the manager."""
        return manager.hostile if mode == SMART and self.plan.through_hostile else manager.url

    def clock_of(self, name: str) -> Path:
        """Return the file of a device's clock: all share the lab's."""
        return self.clock

    def vendor(self) -> VendorEntry:
        """Make the vendor."""
        self.progress("vendor: a signing key")
        directory = self.root / "vendor"
        self.callpool("vendor", "init", "--dir", str(directory))
        return VendorEntry(directory=str(directory), public_key_file=str(directory / "vendor.pub"))

    def manager(self, vendor: VendorEntry) -> ManagerEntry:
        """Make the manager, start it, and wait until it answers."""
        self.progress("manager: database, keys, HTTPS")
        directory = self.root / "manager"
        port = self.port()
        hostile = f"https://localhost:{self.port()}"
        made = self.callpool(
            "manager", "init", "--dir", str(directory), "--listen", f"127.0.0.1:{port}",
            "--vendor-key", vendor.public_key_file, "--lab-clock", str(self.clock),
            "--url", hostile, *self.plan.manager_options,
        )  # fmt: skip
        product_key = made.partition("Product key: ")[2].split()[0]
        self.start("manager", (*_CALLPOOL, "manager", "run", "--dir", str(directory)))
        entry = ManagerEntry(
            url=f"https://localhost:{port}",
            ca_file=str(directory / "identity" / "ca.pem"),
            username="admin",
            password=(directory / "admin.password").read_text().strip(),
            database=str(directory / "manager.db"),
            directory=str(directory),
            product_key=product_key,
            hostile=hostile,
        )
        wait_for("the manager to answer", lambda: answers(entry), seconds=_START_SECONDS)
        return entry

    def device(
        self, name: str, mode: str, vendor: VendorEntry, manager: ManagerEntry
    ) -> DeviceEntry:
        """Make a device, start its answerer and its agent.

        One of the pool is listed there and enrols by itself; a smart one waits for what
        `callpool device smart` is told.
        """
        self.progress(f"{name}: local key, Kamailio, SIPp answerer")
        directory = self.root / name
        serial = f"{name.upper()}-{manager.product_key[-4:].upper()}"
        answerer_port, sip_port, pages_port = self.port(), self.port(), self.port()
        ssh = f"127.0.0.1:{self.port()}" if self.plan.ssh else ""
        key = self.root / f"{name}.key"
        smart = mode == SMART
        self.callpool(
            "vendor", "key", "--dir", vendor.directory, "--serial", serial, "--out", str(key),
            "--lab-clock", str(self.clock),
            *(SMART_MAXIMUM if smart else self.plan.key_options),
        )  # fmt: skip
        environment = environment_of(manager)
        token = ""
        if not smart:
            self.callpool(
                "pool", "add", name, serial, "--apply", self.plan.apply, environment=environment
            )
            token = self.callpool("pool", "token", environment=environment).strip()
        answerer = self.root / f"{name}-answerer"
        self.start(
            f"{name}-answerer", answerer_command(answerer, answerer_port, self.plan.scenario)
        )
        self._gate_file(directory.name, sip_port, answerer_port)
        self.callpool(
            "device", "init", "--dir", str(directory), "--serial", serial,
            "--manager", self.url_of(name, mode, manager), "--ca-file", manager.ca_file,
            "--key", str(key),
            "--vendor-key", vendor.public_key_file, "--pages", f"127.0.0.1:{pages_port}",
            "--gate-settings", str(self.root / f"{name}.gate.json"),
            "--lab-clock", str(self.clock_of(name)), *(("--smart",) if smart else ()),
            *(("--ssh", ssh) if ssh else ()),
            environment={"CALLPOOL_TOKEN": token},
        )  # fmt: skip
        password = secrets.token_urlsafe(12)
        for change in (
            CreateUser(name=DEVICE_USER),
            SetGroup(name=DEVICE_USER, group=Group.ADMINISTRATOR),
            SetPassword(name=DEVICE_USER, hash=hash_password(password)),
        ):
            configure_offline(Layout(directory), change)
        core = self.start(f"{name}", (*_CALLPOOL, "device", "run", "--dir", str(directory)))
        return DeviceEntry(
            name=name,
            serial=serial,
            sip=f"127.0.0.1:{sip_port}",
            answerer=f"127.0.0.1:{answerer_port}",
            pages=f"https://127.0.0.1:{pages_port}",
            pid=core.pid,
            kamailio_pid=0,
            flash=str(directory / "flash"),
            directory=str(directory),
            mode=mode,
            ssh=ssh,
            user=DEVICE_USER,
            password=password,
        )

    def devices(self, vendor: VendorEntry, manager: ManagerEntry) -> tuple[DeviceEntry, ...]:
        """Make all devices, several at a time, and wait until each is at work."""
        wanted = [(name, FIXED) for name in self.plan.names]
        wanted += [(name, SMART) for name in self.plan.proxies]
        with ThreadPoolExecutor(max_workers=4) as several:
            started = several.map(lambda one: self.device(one[0], one[1], vendor, manager), wanted)
            return tuple(self.settled(device) for device in started)

    def _gate_file(self, name: str, sip_port: int, answerer_port: int) -> None:
        users = {
            user_name(n): hashlib.md5(  # noqa: S324  SIP digest is MD5 by its standard
                f"{user_name(n)}:{REALM}:{user_password(n)}".encode()
            ).hexdigest()
            for n in range(1, USERS + 1)
        }
        settings: dict[str, Any] = {
            "listen": [f"udp:127.0.0.1:{sip_port}", f"tcp:127.0.0.1:{sip_port}"],
            "trusted_peers": ["127.0.0.1"],
            "destinations": [{"host": "127.0.0.1", "port": answerer_port}],
            "users": users,
            "realm": REALM,
            "workers": 2,
            "shared_memory_mb": 128,
            **dict(self.plan.gate),
        }
        write_durably(self.root / f"{name}.gate.json", msgspec.json.encode(settings))

    def settled(self, device: DeviceEntry) -> DeviceEntry:
        """Wait until a device is enrolled and its Kamailio answers; fill in what that told.

        A smart device is not enrolled: nothing has told it to register yet.
        """
        self.progress(f"{device.name}: gate in place")
        told: dict[str, Any] = {}

        def ready() -> bool:
            with contextlib.suppress(CallpoolError):
                socket = Layout(Path(device.directory)).control
                told.update(ask(socket, "running", timeout=5.0))
                status = ask(socket, "status", timeout=5.0)
                waits = device.mode == FIXED and not status["connected"]
                return bool(not waits and ask(socket, "calls", timeout=5.0)["alive"])
            return False

        wait_for(f"{device.name} to enrol", ready, seconds=_START_SECONDS)
        return msgspec.structs.replace(device, kamailio_pid=told["kamailio_pid"])


def answers(manager: ManagerEntry) -> bool:
    """Tell whether the manager answers."""
    context = ssl.create_default_context(cafile=manager.ca_file)
    try:
        with urllib.request.urlopen(manager.url + "/api/v1/pool", context=context, timeout=2):  # noqa: S310  the URL is ours, https
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def environment_of(manager: ManagerEntry) -> dict[str, str]:
    """Return the environment in which `callpool pool` speaks to this manager."""
    return {
        "CALLPOOL_MANAGER": manager.url,
        "CALLPOOL_CA_FILE": manager.ca_file,
        "CALLPOOL_USERNAME": manager.username,
        "CALLPOOL_PASSWORD": manager.password,
    }


def up(
    directory: Path, plan: Plan, progress: Progress, make: Callable[..., Builder] = Builder
) -> Lab:
    """Bring a lab up in `directory` and write its `lab.json`; `make` builds another kind of lab.

    What was started is stopped again when something fails. Raises CallpoolError.
    """
    structs.ready_for_threads()
    builder = make(directory, plan, progress)
    try:
        vendor = builder.vendor()
        manager = builder.manager(vendor)
        devices = builder.devices(vendor, manager)
    except BaseException:
        names = (*plan.names, *plan.proxies)
        _stop_all(builder.processes, [builder.root / name for name in names])
        raise
    lab = Lab(
        manager=manager,
        vendor=vendor,
        devices=devices,
        processes=tuple(builder.processes),
        clock=str(builder.clock),
    )
    write_lab(builder.root, lab)
    return lab


def down(directory: Path) -> None:
    """Stop exactly what `up` started, Kamailio included; raises CallpoolError `no_lab`."""
    lab = read_lab(directory)
    _stop_all(lab.processes, [Path(device.directory) for device in lab.devices])
    (directory / "lab.json").unlink()


def _stop_all(processes: Sequence[ProcessEntry], devices: Sequence[Path]) -> None:
    for entry in reversed(processes):
        stop(entry, grace=15.0)
    for device in devices:
        # A core that was killed before has left its Kamailio at work.
        state = GateState.load(device / "gate")
        if state.pid:
            left = ProcessId(pid=state.pid, started=state.started)
            end_group(left, str(device / "gate" / "kamailio.cfg"), grace=0.0)
