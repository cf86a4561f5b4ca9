"""What the agent needs of gate, link and journal: the shapes it is written against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from callpool.licensing.admission import AdmissionPolicy
from callpool.wire.messages import PairReport, SwitchOrder

if TYPE_CHECKING:
    from callpool.device.status import PairStatus  # which speaks of the ports itself

#: Queues work for the agent's loop.
Post = Callable[[Callable[[], Awaitable[Any]]], object]


class Usage(Protocol):
    """What the gate counts now; counts are calls, users, refusals."""

    @property
    def sessions(self) -> int:
        """Calls in progress, emergency calls not among them."""
        ...

    @property
    def users(self) -> int:
        """Registered far-end users."""
        ...

    @property
    def peak_sessions(self) -> int:
        """Most sessions at once since the driver started."""
        ...

    @property
    def peak_users(self) -> int:
        """Most users at once since the driver started."""
        ...

    @property
    def emergency(self) -> int:
        """Emergency calls in progress."""
        ...

    @property
    def uncertain(self) -> int:
        """Of those in progress, how many are only believed to be: they count as used."""
        ...

    @property
    def admitted(self) -> int:
        """Calls admitted in all; only rises while the gate's directory stands."""
        ...

    @property
    def ended(self) -> int:
        """Calls ended in all, of those admitted; only rises as they do."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the SIP service runs and was heard of a moment ago."""
        ...

    @property
    def in_sync(self) -> bool:
        """Whether what is counted here agrees with the SIP service."""
        ...

    @property
    def refused(self) -> Mapping[str, int]:
        """Refusals since the gate started, per reason code."""
        ...

    @property
    def turned_away(self) -> Mapping[str, tuple[int, int]]:
        """(true refusals, repeats) per license type, since the driver started."""
        ...


class Journal(Protocol):
    """Where changes are noted."""

    def note(self, event: str, *, at: float, **details: Any) -> None:
        """Note one change at wall time `at` (seconds since 1970); never raises."""
        ...


class Gate(Protocol):
    """The SIP server's call handling, as the agent drives it."""

    async def attach(self, policy: AdmissionPolicy) -> None:
        """Take over a SIP server that runs already, or start it; `policy` is in force then."""
        ...

    async def apply(self, policy: AdmissionPolicy) -> None:
        """Put `policy` in force; returns once the SIP server has confirmed it."""
        ...

    async def restart(self, policy: AdmissionPolicy) -> None:
        """Restart the SIP service under `policy`; established calls survive."""
        ...

    async def stop(self) -> None:
        """Write the call book and end the SIP service."""
        ...

    def usage(self) -> Usage:
        """Return what is counted now."""
        ...

    def take_high(self) -> tuple[int, int]:
        """Return the most sessions and users at once since this was last asked."""
        ...


class PairView(Protocol):
    """The HA pair, as status, report, alarms and contacts need it."""

    def report(self) -> PairReport:
        """Return what the manager is told."""
        ...

    def status(self) -> PairStatus:
        """Return what the device says of its pair."""
        ...

    def alarms(self) -> list[tuple[str, str]]:
        """Return alarm codes, each with its detail."""
        ...

    async def told(self, order: SwitchOrder | None, expected_until: float) -> None:
        """Take in what the manager's reply says of the pair."""
        ...


class Link(Protocol):
    """The way to the manager."""

    def url(self, path: str) -> str:
        """Return the full address of one of the manager's paths."""
        ...

    def trust(self, authorities: tuple[str, ...]) -> None:
        """Trust these authorities for TLS from now on; raises TrustError."""
        ...

    async def exchange(self, path: str, envelope: str) -> str:
        """Send one signed request and return the signed reply; raises LinkError."""
        ...

    async def answer(self, path: str, envelope: str) -> str:
        """Send one signed request and return the signed answer, a refusal included."""
        ...

    def hints(self, path: str, envelope: str) -> AsyncIterator[str]:
        """Yield `open` once the stream stands, then a word per hint; raises LinkError."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...
