"""Many devices on one event loop: the real device core, without SIP, to load a manager.

Each is what `callpool device run` composes: the same rules, the same flash on disk, the same
signed contacts over HTTPS connections of its own; only its gate carries no calls and its pages,
shell and SNMP are not there. (`fleet.py` starts a few whole devices, each with a Kamailio.)
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from callpool.device.agent import Agent
from callpool.device.core import Core
from callpool.device.errors import LinkError
from callpool.device.flash import Flash
from callpool.device.manager_link import EXCHANGE_TIMEOUT, ManagerLink
from callpool.device.pool import OVERLOADED
from callpool.device.settings import Layout
from callpool.device.setup import Plan, set_up
from callpool.host import structs
from callpool.host.clock import SystemClock
from callpool.host.console import console
from callpool.licensing.admission import AdmissionPolicy
from callpool.licensing.errors import CallpoolError
from callpool.manager.client import Connection, ManagerClient

#: Seconds between two looks of one simulated device at its clock: real ones look every 10.
LOOK_EVERY: Final = 300.0
#: Devices that enrol at once.
ENROLLING: Final = 64
#: Requests under way at once, at most, when all call at once.
WINDOW: Final = 1_000
#: The most connections from one address to one port: Linux has 28,000 ports to begin with.
PER_ADDRESS: Final = 5_000


@dataclass(slots=True)
class NoCalls:
    """What a gate without SIP counts: nothing."""

    sessions: int = 0
    users: int = 0
    peak_sessions: int = 0
    peak_users: int = 0
    emergency: int = 0
    uncertain: int = 0
    admitted: int = 0
    ended: int = 0
    alive: bool = True
    in_sync: bool = True
    refused: Mapping[str, int] = field(default_factory=dict)
    turned_away: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class NoSip:
    """A gate that confirms every policy at once and carries no call."""

    def __init__(self) -> None:
        """Make it."""
        self._counts = NoCalls()

    async def attach(self, policy: AdmissionPolicy) -> None:
        """Confirm."""

    async def apply(self, policy: AdmissionPolicy) -> None:
        """Confirm."""

    async def restart(self, policy: AdmissionPolicy) -> None:
        """Confirm."""

    async def stop(self) -> None:
        """There is nothing to stop."""

    def usage(self) -> NoCalls:
        """Return nothing in use."""
        return self._counts

    def take_high(self) -> tuple[int, int]:
        """Return nothing in use."""
        return 0, 0


class Silence:
    """A journal that keeps nothing: the fleet's figures say what happened."""

    def note(self, event: str, *, at: float, **details: Any) -> None:
        """Forget it."""


@dataclass(slots=True, kw_only=True)
class Figures:
    """What the whole fleet did."""

    #: Contacts answered, of those asked.
    contacts: int = 0
    asked: int = 0
    #: Requests that are not answered yet.
    under_way: int = 0
    #: Refusals and failures by code; `overloaded` is no error.
    failures: Counter[str] = field(default_factory=Counter)
    #: Times that a device was put off, and of those how often it came sooner than it was told.
    put_off: int = 0
    too_soon: int = 0
    #: Put-off devices that later met an error, though they had obeyed.
    obeyed_and_failed: int = 0
    #: Seconds from a request to its answer.
    durations: list[float] = field(default_factory=list)
    #: The longest Retry-After, seconds.
    longest: float = 0.0
    hints: int = 0

    @property
    def errors(self) -> int:
        """Failures that are none of overload."""
        return sum(n for code, n in self.failures.items() if code != OVERLOADED)

    def percentile(self, share: float) -> float:
        """Return the duration that `share` of the answered contacts stayed within, seconds."""
        ordered = sorted(self.durations)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class CountedLink(ManagerLink):
    """A device's own link, which also checks that Retry-After is obeyed."""

    def __init__(
        self,
        manager: str,
        figures: Figures,
        *,
        ca_file: str,
        context: ssl.SSLContext,
        source: str = "",
    ) -> None:
        """Speak to `manager` from the address `source` (empty for any).

        `context` is what `ca_file` amounts to: reading it for each device would take long.
        """
        self._source = source
        super().__init__(manager, ca_file=ca_file, client=self._made(context, ""))
        self._figures = figures
        #: How often this device was put off.
        self.put_off = 0
        self._not_before = 0.0
        self._was_put_off = False

    def _made(self, context: ssl.SSLContext, proxy: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=context, local_address=self._source or None),
            timeout=EXCHANGE_TIMEOUT,
            trust_env=False,
        )

    async def exchange(self, path: str, envelope: str, *, refusals: bool = False) -> str:
        """Exchange, and count."""
        figures, begun = self._figures, time.monotonic()
        figures.asked += 1
        figures.under_way += 1
        figures.too_soon += begun < self._not_before
        try:
            reply = await super().exchange(path, envelope, refusals=refusals)
        except LinkError as error:
            figures.failures[error.code] += 1
            if error.code == OVERLOADED and error.retry_after:
                figures.put_off += 1
                self.put_off += 1
                figures.longest = max(figures.longest, error.retry_after)
                # By the time at which the answer was read: nobody can obey sooner.
                self._not_before = time.monotonic() + error.retry_after
                self._was_put_off = True
            elif self._was_put_off:
                figures.obeyed_and_failed += 1
            raise
        finally:
            figures.under_way -= 1
        figures.contacts += 1
        figures.durations.append(time.monotonic() - begun)
        self._was_put_off = False
        return reply

    async def hints(self, path: str, envelope: str) -> AsyncIterator[str]:
        """Listen, and count the streams that stand."""
        try:
            async for name in super().hints(path, envelope):
                if name == "open":
                    self._figures.hints += 1
                yield name
        except LinkError as error:
            self._figures.failures[f"hints {error.code}"] += 1
            raise


class Simulated:
    """One device of the fleet."""

    def __init__(self, layout: Layout, link: CountedLink, *, hints: bool) -> None:
        """Compose it from its directory; raises CallpoolError as `callpool device run` does."""
        self.layout, self.link, self._hints = layout, link, hints
        settings = layout.load()
        self.core = Core(
            settings=settings,
            flash=Flash(layout.flash, layout.load_secret()),
            clock=SystemClock(),
            gate=NoSip(),
            journal=Silence(),
        )
        self.agent = Agent(
            core=self.core, layout=layout, identity=layout.load_identity(), link=link
        )
        self.agent.look_every = LOOK_EVERY
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it: it reaches for its manager at once."""
        self.agent.contacts.listens = self._hints
        await self.agent.start()
        self._task = asyncio.create_task(self.agent.run())

    @property
    def enrolled(self) -> bool:
        """Whether it has a certificate."""
        return self.core.opened.ring is not None

    def fresh(self, since: float) -> bool:
        """Tell whether it has had a good contact at `since` (seconds since 1970) or later."""
        last = self.agent.contacts.last_contact
        return last is not None and last >= since

    async def close(self) -> None:
        """End it, as `callpool device stop` does."""
        if self._task is not None:
            self.agent.stop()
            await asyncio.gather(self._task, return_exceptions=True)
            await self.agent.close(end_sip=True)


class SimulatedFleet:
    """N devices in one directory, each with one of its own."""

    def __init__(
        self,
        directory: Path,
        connection: Connection,
        *,
        devices: int,
        hints: bool = False,
        first: int = 0,
    ) -> None:
        """Prepare a fleet; raises CallpoolError `bad_ca_file`.

        Its serial numbers begin with `first`: several processes can be parts of one fleet.
        """
        structs.ready_for_threads()
        self.root, self.count, self._hints = directory, devices, hints
        self._first = first
        self._connection = connection
        self.figures = Figures()
        self.devices: list[Simulated] = []
        #: Whom they trust to be the manager.
        self.context: ssl.SSLContext
        try:
            self.context = ssl.create_default_context(cafile=connection.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise CallpoolError(
                "bad_ca_file", f"{connection.ca_file} is not a readable CA certificate file."
            ) from error
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def serial(self, number: int) -> str:
        """Return a device's serial number."""
        return f"SIM-{self._first + number:06d}"

    def make(self, progress: Callable[[str], None]) -> None:
        """List at the manager what is not listed yet, and make each device's directory.

        Raises CallpoolError with the manager's code.
        """
        with ManagerClient(self._connection) as client:
            session = client.sign_in() if not self._connection.token else None
        token = session["token"] if session else self._connection.token
        signed_in = Connection(
            url=self._connection.url,
            ca_file=self._connection.ca_file,
            username="",
            password="",
            token=token,
        )
        with ManagerClient(signed_in) as client:
            registration, left = "", 0
            for number in range(self.count):
                layout = Layout(self.root / self.serial(number))
                if layout.settings.exists():
                    continue
                if left == 0:
                    left = min(self.count - number, 1000)
                    registration = client.call("POST", "/tokens", {"uses": left})["token"]
                serial = self.serial(number)
                with contextlib.suppress(_Listed):
                    _list(client, serial)
                set_up(
                    layout,
                    Plan(
                        serial=serial,
                        manager=self._connection.url,
                        ca_file=self._connection.ca_file,
                        token=registration,
                    ),
                )
                left -= 1
                if number % 100 == 0:
                    progress(f"{number} of {self.count} devices made")

    def compose(self) -> None:
        """Compose every device from its directory; none is started."""
        loopback = _loopback(self._connection.url)
        for number in range(self.count):
            # Thousands of connections a minute from one address would run out of ports.
            source = f"127.0.{1 + (self._first + number) // PER_ADDRESS}.1" if loopback else ""
            link = CountedLink(
                self._connection.url,
                self.figures,
                ca_file=self._connection.ca_file,
                context=self.context,
                source=source,
            )
            layout = Layout(self.root / self.serial(number))
            self.devices.append(Simulated(layout, link, hints=self._hints))

    async def enrol(self, progress: Callable[[str], None]) -> None:
        """Start every device, some at a time, until each has enrolled and made a contact."""
        begun, some = time.time(), asyncio.Semaphore(ENROLLING)

        async def one(device: Simulated) -> None:
            async with some:
                await device.start()
                while not device.fresh(begun - 3600.0):  # noqa: ASYNC110  it tells nobody
                    await asyncio.sleep(0.05)

        tasks = [asyncio.create_task(one(device)) for device in self.devices]
        while True:
            done, _ = await asyncio.wait(tasks, timeout=1.0)
            progress(f"{len(done)} of {self.count} devices enrolled")
            if len(done) == len(tasks):
                break
        await asyncio.gather(*tasks)

    async def all_at_once(self, window: int = WINDOW) -> float:
        """Have every device contact the manager now; return the time, seconds since 1970.

        One event loop cannot be a hundred thousand machines: more than `window` requests under
        way would measure its own handshakes, so the others begin as these are answered.
        """
        now, figures, asked = time.time(), self.figures, self.figures.asked
        for begun, device in enumerate(self.devices):
            while max(0, begun - (figures.asked - asked)) + figures.under_way >= window:  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0.005)
            device.agent.contacts.want("start")
            device.agent.nudge()
        return now

    def fresh(self, since: float) -> int:
        """Return how many devices have had their lease renewed at `since` or later."""
        return sum(device.fresh(since) for device in self.devices)

    async def close(self) -> None:
        """End every device."""
        await asyncio.gather(*(device.close() for device in self.devices))


class _Listed(Exception):
    """The serial number is listed already."""


def _list(client: ManagerClient, serial: str) -> None:
    try:
        client.call("POST", "/devices", {"name": serial.lower(), "serials": [serial]})
    except CallpoolError as error:
        if error.code in ("device_exists", "duplicate_serial"):
            raise _Listed from error
        raise


def _loopback(url: str) -> bool:
    host = httpx.URL(url).host
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def run_fleet(fleet: SimulatedFleet, *, seconds: float, every: float) -> dict[str, Any]:
    """Make, enrol and run a fleet for `seconds`, showing how it goes; return its figures.

    `every` so many seconds all contact at once; 0 for never. Raises CallpoolError.
    """
    loop, begun = asyncio.get_running_loop(), time.monotonic()
    with console.status("Making the devices") as status:
        await loop.run_in_executor(None, fleet.make, status.update)
        fleet.compose()
        try:
            enrolling = time.monotonic()
            await fleet.enrol(status.update)
            enrolled = time.monotonic()
            before, since = fleet.figures.contacts, time.time()
            next_at = enrolled
            while (now := time.monotonic()) < enrolled + seconds:
                if every and now >= next_at:
                    await fleet.all_at_once()
                    next_at += every
                rate = (fleet.figures.contacts - before) / max(now - enrolled, 0.001)
                status.update(
                    f"{fleet.count} devices, {rate:.0f} contacts/s, {fleet.figures.put_off} put"
                    f" off, {fleet.figures.errors} errors, {fleet.fresh(since)} leases fresh"
                )
                await asyncio.sleep(min(1.0, max(0.05, next_at - now) if every else 1.0))
            ran = time.monotonic() - enrolled
            contacts, fresh = fleet.figures.contacts - before, fleet.fresh(since)
        finally:
            await fleet.close()
    figures = fleet.figures
    return {
        "devices": fleet.count,
        "seconds_to_make": round(enrolling - begun, 1),
        "seconds_to_enrol": round(enrolled - enrolling, 1),
        "seconds": round(ran, 1),
        "contacts": contacts,
        "contacts_per_second": round(contacts / ran, 1),
        "leases_fresh": fresh,
        "median_ms": round(1000 * figures.percentile(0.5), 1),
        "p99_ms": round(1000 * figures.percentile(0.99), 1),
        "put_off": figures.put_off,
        "longest_retry_after": figures.longest,
        "came_too_soon": figures.too_soon,
        "obeyed_and_failed": figures.obeyed_and_failed,
        "errors": figures.errors,
        "failures": dict(figures.failures),
        "hint_streams_opened": figures.hints,
    }
