"""The clocks that a gate is given."""

from __future__ import annotations

from typing import Protocol


class Reading(Protocol):
    """One reading of the clocks (`callpool.licensing.instant.Instant`)."""

    @property
    def wall(self) -> float:
        """Seconds since 1970."""
        ...

    @property
    def boottime(self) -> float:
        """Seconds since the machine started."""
        ...

    @property
    def boot_id(self) -> str:
        """Names the boot."""
        ...


class Clock(Protocol):
    """The clock that policies are written in (`callpool.host.clock.Clock`)."""

    def now(self) -> Reading:
        """Return one reading."""
        ...

    def real_seconds(self, seconds: float) -> float:
        """Return the real seconds in which this clock moves by `seconds`."""
        ...
