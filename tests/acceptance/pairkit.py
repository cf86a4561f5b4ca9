"""An HA pair on network namespaces: two units, a caller, a callee, a bridge between them.

Five namespaces with names of this process: the network (a bridge), units `a` and `b`, caller and
callee. The units have a link of their own besides. Nothing outside them is touched, and they go
with everything in them at the end. Real keepalived, Kamailio and SIPp; root is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from callpool.device.control import ask
from callpool.device.gate.calls import CallBook
from callpool.device.gate.journal import Journal
from callpool.device.pair_address import HOLDS, PRIORITY
from callpool.device.settings import Layout
from callpool.host import sipp
from callpool.lab.processes import pause
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError
from callpool.vendor.office import Office

SERVICE = "10.77.0.10"
MANAGER = "10.77.0.1"
CALLER, CALLEE = "10.77.0.21", "10.77.0.22"
#: Seconds that anything awaited may take: generous, for it costs only where a test fails.
DEADLINE = 60.0

_SOURCE = "import sys; from callpool.cli import main; sys.exit(main())"
_NUMBERS = itertools.count()
_NEEDED = {
    "ip": "iproute2", "bridge": "iproute2", "keepalived": "keepalived", "kamailio": "kamailio",
    "sipp": "sip-tester",
}  # fmt: skip

#: Asks OPTIONS of the service address until its standard input ends; a line for each answer.
_PROBE = """
import socket, sys, time, threading
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 5099)); sock.settimeout(0.05)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
n = 0
while not ended.is_set():
    n += 1
    sock.sendto((f"OPTIONS sip:{sys.argv[2]} SIP/2.0\\r\\nVia: SIP/2.0/UDP {sys.argv[1]}:5099;"
        f"branch=z9hG4bKp{n}\\r\\nFrom: <sip:p@p>;tag={n}\\r\\nTo: <sip:{sys.argv[2]}>\\r\\n"
        f"Call-ID: probe{n}\\r\\nCSeq: 1 OPTIONS\\r\\nMax-Forwards: 9\\r\\n"
        "Content-Length: 0\\r\\n\\r\\n").encode(), (sys.argv[2], 5060))
    try:
        sock.recv(65536)
    except (TimeoutError, OSError):
        continue
    print(time.time(), flush=True)
    time.sleep(0.05)
"""


def check_machine() -> None:
    """Fail, naming the command that mends it, where something is missing."""
    assert os.geteuid() == 0, "the pair's tests make network namespaces: run them as root"
    for program, package in _NEEDED.items():
        found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        assert found, f"{program} is missing: run apt-get install {package}"


def run(*words: object) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


async def eventually(
    condition: Callable[[], Any],
    within: float = DEADLINE,
    what: str | Callable[[], str] = "",
    every: float = 0.0,
) -> Any:
    """Await a condition; `what` says what was awaited, or is called to say what is instead.

    `every` so many seconds at most, where a look is dear.
    """
    began = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - began
        if waited >= within:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {within:.0f} s: {said or condition}")
        await asyncio.sleep(max(every, pause(waited)))


class Network:
    """The namespaces and what joins them."""

    def __init__(self) -> None:
        check_machine()
        self.tag = f"cp{os.getpid()}n{next(_NUMBERS)}"
        self._made: list[str] = []

    def name(self, part: str) -> str:
        return f"{self.tag}{part}"

    def inside(self, part: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name(part))

    def ip(self, part: str, *words: object) -> str:
        return run("ip", "-n", self.name(part), *words)

    def build(self) -> None:
        for part in ("net", "a", "b", "x", "y"):
            run("ip", "netns", "add", self.name(part))
            self._made.append(part)
            self.ip(part, "link", "set", "lo", "up")
        self.ip("net", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        self.ip("net", "addr", "add", f"{MANAGER}/24", "dev", "br0")
        self.ip("net", "link", "set", "br0", "up")
        hosts = {"a": "10.77.0.11", "b": "10.77.0.12", "x": CALLER, "y": CALLEE}
        for part, address in hosts.items():
            self.ip(
                part, "link", "add", "eth0", "type", "veth",
                "peer", "name", f"to-{part}", "netns", self.name("net"),
            )  # fmt: skip
            self.ip("net", "link", "set", f"to-{part}", "master", "br0", "up")
            self.ip(part, "addr", "add", f"{address}/24", "dev", "eth0")
            self.ip(part, "link", "set", "eth0", "up")
        self.ip("a", "link", "add", "ha0", "type", "veth", "peer", "name", "ha0",
                "netns", self.name("b"))  # fmt: skip
        for part, address in (("a", "10.78.0.1"), ("b", "10.78.0.2")):
            self.ip(part, "addr", "add", f"{address}/30", "dev", "ha0")
            self.ip(part, "link", "set", "ha0", "up")

    def isolate(self, on: bool) -> None:
        """Keep the units from hearing each other on the service's network; callers reach both."""
        for part in ("a", "b"):
            run(*self.inside("net"), "bridge", "link", "set", "dev", f"to-{part}", "isolated",
                "on" if on else "off")  # fmt: skip

    def astray(self, part: str, on: bool) -> None:
        """Have what a unit sends to the other one go to no machine; nothing waits for it."""
        words = ("to", "10.78.0.2" if part == "a" else "10.78.0.1", "dev", "ha0")
        if on:
            self.ip(part, "neigh", "replace", *words, "lladdr", "02:00:00:00:00:0f",
                    "nud", "permanent")  # fmt: skip
        else:
            self.ip(part, "neigh", "del", *words)

    def link(self, part: str, name: str, up: bool) -> None:
        self.ip(part, "link", "set", name, "up" if up else "down")

    def listening(self, part: str, address: str) -> set[tuple[str, int]]:
        """(protocol, port) of every socket of `part` that takes what comes to `address`."""
        wanted = bytes(map(int, address.split(".")))[::-1].hex().upper()
        found = set()
        for file, protocol, state in (("udp", "UDP", "07"), ("tcp", "TCP", "0A")):
            for line in run(*self.inside(part), "cat", f"/proc/net/{file}").splitlines()[1:]:
                _, local, _, at_state, *_ = line.split()
                host, _, port = local.partition(":")
                if (host, at_state) == (wanted, state):
                    found.add((protocol, int(port, 16)))
        return found

    def pids(self, part: str) -> list[int]:
        return [int(p) for p in run("ip", "netns", "pids", self.name(part)).split()]

    def command_of(self, pid: int) -> str:
        """The program of a process, empty for one that is gone."""
        try:
            return Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            return ""

    def kill(self, part: str) -> None:
        """End every process of one namespace at once."""
        while found := self.pids(part):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def close(self) -> None:
        for part in self._made:
            with contextlib.suppress(AssertionError):
                self.kill(part)
            with contextlib.suppress(AssertionError):
                run("ip", "netns", "del", self.name(part))


class Unit:
    """One unit: a device with a Kamailio and a keepalived."""

    def __init__(self, pair: PairRig, part: str) -> None:
        self.pair, self.part = pair, part
        self.serial = f"SN-{part}"
        self.root = pair.directory / part
        self.layout = Layout(self.root / "d")
        self.core: subprocess.Popen[bytes] | None = None
        self.keepalived: subprocess.Popen[bytes] | None = None

    def make(self, key: Path, *options: object) -> None:
        """Make the device, on a disk of its own that can fill."""
        self.root.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.root)
        other = "b" if self.part == "a" else "a"
        links = {"a": "10.78.0.1", "b": "10.78.0.2"}
        self.command(
            "init", "--serial", self.serial, "--key", key,
            "--vendor-key", self.pair.vendor.public_key_file, "--listen", f"udp:{SERVICE}:5060",
            "--trust", "10.77.0.0/24", "--destination", f"{CALLEE}:5060",
            "--gate-settings", self.pair.gate_file, *options,
        )  # fmt: skip
        self.command(
            "pair", "set", "--peer-serial", f"SN-{other}", "--address", links[self.part],
            "--peer", links[other], "--service", f"{SERVICE}/24", "--interface", "eth0",
            "--secret-file", self.pair.secret_file,
            "--patience", self.pair.patience,
            "--runtime", self.pair.directory / f"run-{self.part}",
        )  # fmt: skip

    def command(self, *words: object, ok: bool = True) -> str:
        """Run `callpool device ...` in this unit's namespace."""
        line = [*self.pair.net.inside(self.part), sys.executable, "-c", _SOURCE, "device",
                *map(str, words), "--dir", str(self.layout.root)]  # fmt: skip
        done = subprocess.run(line, capture_output=True, text=True, timeout=120)
        assert (done.returncode == 0) is ok, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def _spawn(self, name: str, *words: object) -> subprocess.Popen[bytes]:
        with (self.pair.directory / f"{name}-{self.part}.log").open("ab") as log:
            return subprocess.Popen(
                [*self.pair.net.inside(self.part), *map(str, words)], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def start(self) -> None:
        self.start_core()
        self.start_keepalived()

    def start_core(self) -> None:
        self.core = self._spawn(
            "core", sys.executable, "-c", _SOURCE, "device", "run", "--dir", self.layout.root
        )

    def start_keepalived(self) -> None:
        told = json.loads(
            self.command(
                "pair",
                "keepalived",
                "--out",
                self.pair.directory / f"keepalived-{self.part}.conf",
                "--json",
            )
        )
        pid = self.pair.directory / f"keepalived-{self.part}"
        # A killed one leaves its number; where nobody reaps it, the next would take it for alive.
        for file in self.pair.directory.glob(f"keepalived-{self.part}.*pid"):
            file.unlink()
        self.keepalived = self._spawn(
            "keepalived", "keepalived", "-n", "-l", "-P", "-f", told["config"],
            "-p", f"{pid}.pid", "-r", f"{pid}.vrrp.pid",
        )  # fmt: skip

    def ask(self, do: str, **fields: Any) -> Any:
        return ask(self.layout.control, do, timeout=DEADLINE, **fields)

    def status(self) -> dict[str, Any]:
        """What it says of itself; empty while it does not answer."""
        try:
            told: dict[str, Any] = ask(self.layout.control, "status", timeout=5.0)
        except CallpoolError:
            return {}
        return told

    def view(self) -> dict[str, Any]:
        view: dict[str, Any] = self.status().get("pair") or {}
        return view

    def role(self) -> str:
        return str(self.view().get("role", ""))

    def ready(self) -> bool:
        view = self.view()
        return bool(view.get("synchronised")) and view["role"] in ("active", "redundant")

    def settled(self) -> bool:
        """Whether it is ready, and keepalived will not give the address away again by itself.

        Until the first words of its script a unit has a lower priority, and may be the master for
        just a moment.
        """
        said = (self.pair.directory / f"keepalived-{self.part}.log").read_text()
        last = re.findall(r"Changing effective priority from \d+ to (\d+)", said)[-1:]
        wanted = PRIORITY + (HOLDS if self.role() == "active" else 0)
        return self.ready() and int(last[0] if last else PRIORITY) == wanted

    def sessions(self) -> int:
        """The sessions that this unit counts, -1 while it does not answer."""
        rows = self.status().get("capacity")
        return int(rows[0]["in_use"]) if rows else -1

    def keys(self) -> set[str]:
        """The call keys that its core has written down, as its journal has them now."""
        book = CallBook()
        Journal(self.layout.gate / "calls.journal").load(book)
        return set(book.calls)

    def alarms(self) -> set[str]:
        return {a["code"] for a in self.status().get("alarms", ())}

    def has_address(self) -> bool:
        return f" {SERVICE}/" in self.pair.net.ip(self.part, "addr", "show", "dev", "eth0")

    # what befalls it

    def power_off(self) -> None:
        """Every process killed at once, and nothing on the wire: the machine is gone."""
        self.pair.net.kill(self.part)
        for process in (self.core, self.keepalived):
            if process is not None:
                process.wait(10)
        for file in (self.pair.directory / f"run-{self.part}").iterdir():
            file.unlink()  # /run does not survive a machine
        for link in ("eth0", "ha0"):
            self.pair.net.link(self.part, link, up=False)
        self.pair.net.ip(self.part, "addr", "flush", "dev", "eth0", "to", f"{SERVICE}/32")

    def power_on(self) -> None:
        for link in ("eth0", "ha0"):
            self.pair.net.link(self.part, link, up=True)
        self.start()

    def cut_off(self, up: bool = False) -> None:
        for link in ("eth0", "ha0"):
            self.pair.net.link(self.part, link, up=up)

    def fill_disk(self) -> Path:
        """Write until the disk is full; remove the file that is returned to mend it."""
        filler = self.root / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        return filler

    def logs(self) -> str:
        texts = []
        for name in ("core", "keepalived"):
            file = self.pair.directory / f"{name}-{self.part}.log"
            if file.exists():
                texts.append(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}")
        if self.layout.journal.exists():
            texts.append(self.layout.journal.read_text(errors="replace")[-3000:])
        return "\n".join(texts)


class Probe:
    """Asks OPTIONS of the service address twenty times a second, from the caller's place."""

    def __init__(self, net: Network) -> None:
        self._process = subprocess.Popen(
            [*net.inside("x"), sys.executable, "-c", _PROBE, CALLER, SERVICE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ended(self) -> list[float]:
        """End it; return when it was answered, in wall seconds."""
        out, _ = self._process.communicate("", timeout=30)
        return [float(line) for line in out.split()]


def longest_gap(times: list[float]) -> float:
    """The longest time without an answer, in seconds."""
    assert len(times) > 1, "the service address never answered"
    return max(b - a for a, b in itertools.pairwise(times))


class PairRig:
    """The whole: network, vendor, two units, an answerer."""

    def __init__(
        self, *, sessions: int, gate: dict[str, Any] | None = None, patience: float = 30.0
    ) -> None:
        # Not tmp_path: a Unix socket's path has 108 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="cppair"))
        self.net = Network()
        self.vendor = Office.create(self.directory / "vendor")
        self.secret_file = self.directory / "pair.secret"
        self.secret_file.write_text(os.urandom(32).hex())
        self.secret_file.chmod(0o600)
        self.gate_file = self.directory / "gate.json"
        self.gate_file.write_text(
            json.dumps({"workers": 2, "shared_memory_mb": 64, **(gate or {})})
        )
        self._sessions = sessions
        self.patience = patience
        self._ports = itertools.count(20_000, 10)
        self.a, self.b = Unit(self, "a"), Unit(self, "b")
        self.uas: sipp.Sipp | None = None
        #: Called at the end, before the network goes.
        self.last: list[Callable[[], None]] = []

    @property
    def units(self) -> tuple[Unit, Unit]:
        return self.a, self.b

    def other(self, unit: Unit) -> Unit:
        return self.b if unit is self.a else self.a

    async def build(
        self,
        prepare: Callable[[PairRig], None] | None = None,
        options: Callable[[PairRig, Unit], tuple[object, ...]] = lambda pair, unit: (),
    ) -> None:
        """Make and start it; `prepare` is called before the units run.

        `options` are more of `device init`, asked for once the network is there.
        """
        self.net.build()
        counts = Capacity.of(sbc_sessions=self._sessions, far_end_users=100)
        _, envelope = self.vendor.key(
            serials=[u.serial for u in self.units], counts=counts,
            maximum=Capacity.of(sbc_sessions=5000, far_end_users=5000), features=frozenset(),
            now=int(time.time()),
        )  # fmt: skip
        key = self.directory / "pair.key"
        key.write_text(envelope)
        for unit in self.units:
            unit.make(key, "--pages", "", *options(self, unit))
        if prepare is not None:
            prepare(self)
        for unit in self.units:
            unit.start()
        self.uas = await sipp.run(
            str(self._answerer()), host=CALLEE, port=5060, wrapper=self.net.inside("y"),
            timeout=3600,
        )  # fmt: skip
        await eventually(lambda: all(u.settled() for u in self.units), what="the pair is whole")

    def _answerer(self) -> Path:
        """The answerer of ours, which knows a BYE again for as long as a real one does.

        Its 200 leaves the 180 more time: on a busy machine one may overtake the other by way of
        two units, and SIPp ends a call over that.
        """
        source = Path(sipp.__file__).parent / "scenarios" / "uas.xml"
        text = source.read_text().replace(
            'timewait milliseconds="500"', 'timewait milliseconds="32000"'
        )
        text = text.replace('pause milliseconds="40"', 'pause milliseconds="150"')
        file = self.directory / "uas.xml"
        file.write_text(text)
        return file

    def active(self) -> Unit:
        """The unit that is active; fails where not exactly one is."""
        found = [u for u in self.units if u.role() in ("active", "alone")]
        assert len(found) == 1, [u.role() for u in self.units]
        return found[0]

    async def calls(self, number: int, *, rate: float, hold_ms: int) -> sipp.Sipp:
        """Calls from the caller's namespace through the service address."""
        return await sipp.caller(
            (SERVICE, 5060), calls=number, rate=rate, hold_ms=hold_ms, host=CALLER,
            port=next(self._ports), wrapper=self.net.inside("x"),
        )  # fmt: skip

    async def counted(self, sessions: int, *units: Unit) -> None:
        """Await that the units (both by default) count so many sessions."""
        for unit in units or self.units:
            await eventually(
                lambda u=unit: u.sessions() == sessions,  # type: ignore[misc]
                what=lambda u=unit: (  # type: ignore[misc]
                    f"{sessions} sessions on {u.part}, but {self.counts()}"
                ),
            )

    def counts(self) -> str:
        """What each unit counts now, and the keys that only one of them has."""
        books = [u.keys() for u in self.units]
        alone = [sorted(mine - other) for mine, other in (books, books[::-1])]
        return "; ".join(
            f"{u.part}: {u.sessions()} sessions, {len(book)} keys, alone {only[:10]}"
            for u, book, only in zip(self.units, books, alone, strict=True)
        )

    async def close(self) -> None:
        for unit in self.units:
            for process in (unit.core, unit.keepalived):
                if process is not None and process.poll() is None:
                    process.terminate()
        await asyncio.to_thread(self._ended)
        for end in self.last:
            end()
        self.net.close()
        if self.uas is not None:
            await self.uas.stop(grace=1.0)
        for unit in self.units:
            if unit.root.is_mount():
                await asyncio.to_thread(run, "umount", "-l", unit.root)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _ended(self) -> None:
        deadline = time.monotonic() + 10.0
        for unit in self.units:
            for process in (unit.core, unit.keepalived):
                if process is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.1, deadline - time.monotonic()))


@contextlib.asynccontextmanager
async def pair(
    *,
    sessions: int,
    patience: float = 30.0,
    prepare: Callable[[PairRig], None] | None = None,
    options: Callable[[PairRig, Unit], tuple[object, ...]] = lambda pair, unit: (),
    **gate: Any,
) -> AsyncIterator[PairRig]:
    """A pair that is whole; everything is ended and removed afterwards."""
    made = PairRig(sessions=sessions, gate=gate, patience=patience)
    try:
        await made.build(prepare, options)
        yield made
    except BaseException:
        for unit in made.units:
            print(unit.logs())
        raise
    finally:
        await made.close()
