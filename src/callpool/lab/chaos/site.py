"""A system to do faults to: two managers behind HAProxy on one database, devices, calls.

Each device has a link of its own to the managers, a disk of its own (a small tmpfs) and a clock
of its own; what a fault does, it undoes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import psycopg

from callpool.device.gate.journal import GateState
from callpool.host.clock import LabClock
from callpool.host.files import write_durably
from callpool.host.process import group_members, identify
from callpool.lab.chaos.schedule import MANAGERS, Fault
from callpool.lab.fleet import Builder, Plan, Progress, answers, down, up
from callpool.lab.handle import LabHandle
from callpool.lab.postgres import Cluster
from callpool.lab.processes import run, spawn, stop, wait_for
from callpool.lab.spec import ManagerEntry, VendorEntry, write_lab
from callpool.licensing.errors import CallpoolError

#: MiB of a device's disk.
DISK_MB: Final = 48
#: Seconds of a lease: short, so that a clock that jumps ends one.
LEASE_SECONDS: Final = 600.0

_CALLPOOL: Final = (sys.executable, "-m", "callpool")
_HAPROXY: Final = """\
global
  stats socket {stats} mode 600 level admin
  maxconn 4000
defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  timeout check 1s
"""
_LINK: Final = """\
frontend {name}
  bind 127.0.0.1:{port}
  default_backend b-{name}
backend b-{name}
  option httpchk GET /sign-in
  http-check expect status 200
  balance roundrobin
"""
_SERVER: Final = (
    "  server {name} 127.0.0.1:{port} check check-ssl verify none inter 500ms fall 2 rise 1"
    " on-marked-down shutdown-sessions\n"
)


#: Whether a fault really happened, and what undoes it.
Done = tuple[bool, Callable[[], None]]


class ChaosBuilder(Builder):
    """Builds the system: a lab whose devices reach two managers through HAProxy."""

    #: Names of the managers.
    managers: Final = ("manager", "manager-2")

    def __init__(self, directory: Path, plan: Plan, progress: Progress) -> None:
        """Prepare to build in `directory`."""
        super().__init__(directory, plan, progress)
        self.links = {name: self.port() for name in ("operators", *plan.names)}
        self.ports = {name: self.port() for name in self.managers}
        #: The PostgreSQL that both managers use, None for SQLite.
        self.cluster: Cluster | None = None

    def url_of(self, name: str, mode: str, manager: ManagerEntry) -> str:
        """Return the device's own link."""
        return f"https://localhost:{self.links[name]}"

    def clock_of(self, name: str) -> Path:
        """Return the clock of a device, or of both managers (MANAGERS)."""
        return self.root / f"{name}.clock.json"

    def manager(self, vendor: VendorEntry) -> ManagerEntry:
        """Make one manager, run it twice, with HAProxy before both."""
        self.progress("managers: database, keys, HTTPS, HAProxy")
        for name in self.plan.names:
            mount_disk(self.root / name)
        directory = self.root / "manager"
        database: tuple[str, ...] = ()
        if self.cluster is not None:
            file = self.root / "database.url"
            write_durably(file, self.cluster.database().encode())
            database = ("--database-file", str(file))
        urls = [f"https://localhost:{port}" for port in self.links.values()]
        made = self.callpool(
            "manager", "init", "--dir", str(directory), "--vendor-key", vendor.public_key_file,
            "--listen", f"127.0.0.1:{self.ports[self.managers[0]]}",
            "--lab-clock", str(self.clock_of(MANAGERS)),
            *(word for url in urls for word in ("--url", url)),
            *database, *self.plan.manager_options,
        )  # fmt: skip
        for name in self.managers:
            self.start(name, manager_command(directory, self.ports[name]))
        self.start("balancer", self._balancer())
        entry = ManagerEntry(
            url=urls[0],
            ca_file=str(directory / "identity" / "ca.pem"),
            username="admin",
            password=(directory / "admin.password").read_text().strip(),
            database=str(directory / "manager.db"),
            directory=str(directory),
            product_key=made.partition("Product key: ")[2].split()[0],
        )
        await_answer(entry)
        return entry

    def _balancer(self) -> Sequence[str]:
        program = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is None:
            raise CallpoolError(
                "haproxy_missing", "HAProxy is not installed: run apt-get install haproxy."
            )
        text = _HAPROXY.format(stats=self.root / "haproxy.sock")
        for name, port in self.links.items():
            text += _LINK.format(name=name, port=port)
            for manager, at in self.ports.items():
                text += _SERVER.format(name=manager, port=at)
        file = self.root / "haproxy.cfg"
        file.write_text(text)
        return (program, "-f", str(file), "-db")


def manager_command(directory: Path, port: int) -> list[str]:
    """Return the command of a manager on `directory` that listens on 127.0.0.1:`port`."""
    words = ("manager", "run", "--dir", str(directory), "--listen", f"127.0.0.1:{port}")
    return [*_CALLPOOL, *words]


def await_answer(entry: ManagerEntry) -> None:
    """Wait until a manager answers through HAProxy; raises CallpoolError `timed_out`."""
    wait_for("the managers to answer", lambda: answers(entry), seconds=60.0)


def mount_disk(directory: Path) -> None:
    """Give a directory a small disk of its own; raises CallpoolError `command_failed`."""
    directory.mkdir(parents=True, exist_ok=True)
    run(
        ("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=700", "callpool-chaos",
         str(directory))
    )  # fmt: skip


class Site:
    """The running system."""

    def __init__(
        self, directory: Path, progress: Callable[[str], None], *, postgresql: bool = True
    ) -> None:
        """Bring it up in `directory`, on PostgreSQL or on SQLite; raises CallpoolError."""
        self.directory = directory
        self.cluster = Cluster() if postgresql else None
        plan = Plan(
            apply="live",
            gate=(("workers", 2),),
            manager_options=("--lease-seconds", f"{LEASE_SECONDS:g}", "--poll-seconds", "30",
                             "--retry-seconds", "2"),
        )  # fmt: skip
        made: list[ChaosBuilder] = []

        def make(*words: object) -> ChaosBuilder:
            made.append(ChaosBuilder(*words))  # type: ignore[arg-type]
            made[0].cluster = self.cluster
            return made[0]

        try:
            up(directory, plan, progress, make)
        except BaseException:
            self._unmount(plan.names)
            if self.cluster is not None:
                self.cluster.close()
            raise
        self.builder = made[0]
        self.lab = LabHandle(directory)
        self._haproxy = directory / "haproxy.sock"
        #: Who has been killed and is not to be started before his time.
        self._down: set[str] = set()
        #: How often each kind of fault was seen to have happened.
        self.happened: Counter[str] = Counter()

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the devices' names."""
        return self.builder.plan.names

    def close(self) -> None:
        """Stop all of it."""
        down(self.directory)
        self._unmount(self.devices)
        if self.cluster is not None:
            self.cluster.close()

    def keep(self) -> None:
        """Copy what is on the devices' disks, which go with them."""
        for name in self.devices:
            shutil.copytree(
                self.directory / name,
                self.directory / f"{name}.kept",
                ignore=lambda folder, names: [n for n in names if (Path(folder) / n).is_socket()],
            )

    def _unmount(self, names: Sequence[str]) -> None:
        for name in names:
            for _ in range(50):
                if not os.path.ismount(self.directory / name):
                    break
                with contextlib.suppress(CallpoolError):
                    run(("umount", str(self.directory / name)))
                time.sleep(0.1)

    # -- faults

    def begin(self, fault: Fault) -> Callable[[], None]:
        """Do a fault; returns what undoes it.

        One that finds nothing to hurt does nothing, and is not counted as having happened.
        """
        done, undo = self._begin(fault)
        self.happened[fault.kind] += done
        return undo

    def _begin(self, fault: Fault) -> Done:
        what, _, part = fault.kind.partition("_")
        if part in ("manager", "core"):
            return self._process(what, fault.target)
        if part == "kamailio":
            return self._kamailio(what, fault.target)
        if fault.kind == "cut_link":
            return self._cut(fault.target)
        if fault.kind == "hang_links":
            return self._process("stop", "balancer")
        if fault.kind == "fill_disk":
            return self._fill(fault.target)
        if part == "database":
            return self._database(what)
        if part == "clock":
            return self._clock(what, fault.target, fault.seconds)
        raise AssertionError(fault.kind)

    def _process(self, what: str, name: str) -> Done:
        if what == "stop":
            stopped = self.lab.alive(name)
            self._signal(name, signal.SIGSTOP)
            return stopped, lambda: self._signal(name, signal.SIGCONT)
        self._down.add(name)
        lived = self.lab.alive(name)
        self._signal(name, signal.SIGCONT)
        with contextlib.suppress(ProcessLookupError):
            self.lab.kill(name)
        return lived, lambda: self.start(name)

    def _clock(self, what: str, name: str, seconds: float) -> Done:
        clock = LabClock(self.builder.clock_of(name))
        before = clock.now()
        if what == "jump":
            clock.advance(seconds)
        else:
            clock.set_wall(seconds)
        return clock.now().wall != before.wall, lambda: None

    def _database(self, what: str) -> Done:
        cluster = self.cluster
        assert cluster is not None  # the schedule spares what is not there
        if what == "kill":
            cluster.stop(signal.SIGKILL)
            return True, cluster.start
        cluster.freeze()
        return True, cluster.thaw

    def held(self) -> int:
        """Return what the database adds up as held by devices."""
        statement = "SELECT coalesce(sum(held), 0) FROM holding"
        if self.cluster is not None:
            url = (self.directory / "database.url").read_text().strip()
            with psycopg.connect(url.replace("+psycopg", "")) as found:
                row = found.execute(statement).fetchone()
                assert row is not None  # a sum has one row
                return int(row[0])
        with contextlib.closing(sqlite3.connect(self.lab.lab.manager.database, timeout=60)) as file:
            return int(file.execute(statement).fetchone()[0])

    def _signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.lab.send(name, number)

    def start(self, name: str) -> None:
        """Start a manager or a core again, as its service manager would."""
        self._down.discard(name)
        if name not in self.builder.managers:
            self.lab.start(name)
            return
        directory = Path(self.lab.lab.manager.directory)
        entry = spawn(
            name,
            manager_command(directory, self.builder.ports[name]),
            self.directory / "log" / f"{name}.log",
        )
        others = tuple(p for p in self.lab.lab.processes if p.name != name)
        self.lab.lab = msgspec.structs.replace(self.lab.lab, processes=(*others, entry))
        write_lab(self.lab.directory, self.lab.lab)

    def restart_dead(self) -> None:
        """Start what has ended by itself, as its service manager would."""
        for name in (*self.builder.managers, *self.devices):
            if name not in self._down and not self.lab.alive(name):
                stop(self.lab.process(name), grace=0.0)
                self.start(name)

    def _kamailio(self, what: str, name: str) -> Done:
        gate = Path(self.lab.device(name).directory) / "gate"
        state = GateState.load(gate)
        leader = identify(state.pid) if state.pid else None
        if leader is None or leader.started != state.started:
            return False, lambda: None
        if what == "kill":
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader.pid, signal.SIGKILL)
            return True, lambda: None
        pids = [leader.pid, *group_members(leader, str(gate / "kamailio.cfg"))]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            for pid in pids:
                # The core may have put another in its place: those pids are then gone.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        return True, go_on

    def _cut(self, name: str) -> Done:
        cut = self.balancer(f"disable frontend {name}")
        for manager in self.builder.managers if cut else ():
            self.balancer(f"shutdown sessions server b-{name}/{manager}")

        def mend() -> None:
            self.balancer(f"enable frontend {name}")

        return cut, mend

    def balancer(self, command: str) -> bool:
        """Tell HAProxy something; False where it hangs: then it does so once it goes on.

        Nothing else happens meanwhile, and what is frozen stays so: it is not waited for long.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(1.0)
            with contextlib.suppress(OSError):
                sock.connect(str(self._haproxy))
                sock.sendall(command.encode() + b"\n")
                return bool(sock.recv(65_536))
        return False

    def _fill(self, name: str) -> Done:
        file = Path(self.lab.device(name).directory) / "filler"
        full = False
        try:
            with file.open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(1 << 16))
        except OSError as error:
            full = error.errno == errno.ENOSPC
        return full, lambda: file.unlink(missing_ok=True)
