"""The clocks: the system's own, and the lab's shared steppable one.

The lab's clock moves wall and elapsed time of every callpool process together; its wall time
alone can be set wrong as well, as somebody does who sets a machine's clock. It exists
only in a system that was initialised as a lab: the file is named by that system's
configuration. TLS certificates and Kamailio stay on real time.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Final, Protocol

import msgspec

from callpool.host.files import write_durably
from callpool.licensing.errors import LicenseError
from callpool.licensing.instant import Instant

#: The fastest rate of the lab's clock: lab seconds in a real one.
MAX_RATE: Final = 60.0


class Clock(Protocol):
    """Where the programs take the time from."""

    def now(self) -> Instant:
        """Return one reading of wall and elapsed time."""
        ...

    def real_seconds(self, seconds: float) -> float:
        """Return how many real seconds pass while this clock moves by `seconds`."""
        ...


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class SystemClock:
    """The machine's own clocks."""

    def __init__(self) -> None:
        self._boot_id = _boot_id()

    def now(self) -> Instant:
        """Return wall time, CLOCK_BOOTTIME and the boot's name."""
        return Instant(
            wall=time.time(),
            boottime=time.clock_gettime(time.CLOCK_BOOTTIME),
            boot_id=self._boot_id,
        )

    def real_seconds(self, seconds: float) -> float:
        """Return `seconds`: this clock is the real one."""
        return seconds


class LabTime(msgspec.Struct, frozen=True, kw_only=True):
    """The lab clock's file: lab time = real time + offset + (real - since) * (rate - 1)."""

    #: Seconds that the lab is ahead of real time, at `since`.
    offset: float = 0.0
    #: Lab seconds in a real second, 1 to MAX_RATE.
    rate: float = 1.0
    #: The CLOCK_BOOTTIME reading at which this rate began.
    since: float = 0.0
    #: Seconds by which the wall clock alone is off besides: of a machine whose clock was set.
    wall: float = 0.0

    def ahead(self, boottime: float) -> float:
        """Return by how many seconds the lab is ahead at real `boottime`."""
        return self.offset + (boottime - self.since) * (self.rate - 1.0)


class LabClock:
    """The shared steppable clock of one lab, kept in one file."""

    def __init__(self, file: Path) -> None:
        """Read the clock from `file`; a missing file is a clock that was never moved."""
        self._file = file
        self._real = SystemClock()
        self._stamp: tuple[int, int] | None = None
        self._time = LabTime()

    def _read(self) -> LabTime:
        try:
            found = os.stat(self._file)
        except FileNotFoundError:
            return self._time
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp != self._stamp:
            self._time = msgspec.json.decode(self._file.read_bytes(), type=LabTime)
            self._stamp = stamp
        return self._time

    def now(self) -> Instant:
        """Return lab time: wall and elapsed time moved together."""
        real = self._real.now()
        time = self._read()
        ahead = time.ahead(real.boottime)
        return Instant(
            wall=real.wall + ahead + time.wall,
            boottime=real.boottime + ahead,
            boot_id=real.boot_id,
        )

    def real_seconds(self, seconds: float) -> float:
        """Return the real seconds in which the lab's clock moves by `seconds`."""
        return seconds / self._read().rate

    def advance(self, seconds: float) -> None:
        """Step the lab forward by `seconds`; raises LicenseError `bad_clock_step`."""
        if not seconds > 0:
            raise LicenseError("bad_clock_step", "The lab's clock only moves forward.")
        boottime = self._real.now().boottime
        self._write(offset=self._read().ahead(boottime) + seconds, since=boottime)

    def set_wall(self, seconds: float) -> None:
        """Let the wall clock alone be `seconds` (of either sign) off; elapsed time goes on.

        Raises LicenseError `bad_clock_step`.
        """
        if not math.isfinite(seconds):
            raise LicenseError("bad_clock_step", "The wall clock is off by a number of seconds.")
        self._write(wall=seconds)

    def set_rate(self, rate: float) -> None:
        """Run the lab at `rate` lab seconds a second; raises LicenseError `bad_clock_rate`."""
        if not 1.0 <= rate <= MAX_RATE:
            raise LicenseError("bad_clock_rate", f"The rate is 1 to {MAX_RATE:g}.")
        boottime = self._real.now().boottime
        self._write(offset=self._read().ahead(boottime), rate=rate, since=boottime)

    def _write(self, **changes: float) -> None:
        changed = msgspec.structs.replace(self._read(), **changes)
        write_durably(self._file, msgspec.json.encode(changed))


def clock_for(lab_clock: str) -> Clock:
    """Return the lab's clock kept in file `lab_clock`, or the system's if it is empty."""
    return LabClock(Path(lab_clock)) if lab_clock else SystemClock()
