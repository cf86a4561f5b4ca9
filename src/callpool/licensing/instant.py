"""`Instant` and the high-water mark: durations run on boottime, dates on wall time.

A clock that is set back buys no time, one that glitches forward loses none: while a boot
lasts, trusted time moves only by elapsed boottime, and signed manager time corrects it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

#: Skew in seconds that is still called equal, above which it is reported.
SKEW_REPORTED: Final = 60.0
#: Skew in seconds above which a device and its manager do not do business.
SKEW_REFUSED: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """One reading of a machine's clocks."""

    #: Wall time, seconds since 1970 (may jump).
    wall: float
    #: Seconds since the machine started, suspension included (never jumps).
    boottime: float
    #: Names the boot that `boottime` counts from.
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HighWaterMark:
    """The latest time that is certain to have been reached, and how it was read.

    `mark` rises by elapsed boottime and by signed time only. Across a boot the wall clock
    is believed where it is ahead of the mark (`lead`), without raising the mark; where it is
    behind by more than SKEW_REPORTED, `behind` is set until signed time arrives.
    """

    #: The mark, in seconds since 1970.
    mark: float
    #: The reading at which `mark` was last brought forward.
    base: Instant
    #: Seconds by which the wall clock led the mark when this boot began.
    lead: float = 0.0
    #: Whether this boot's clock was behind the mark: only the local key counts then.
    behind: bool = False

    @classmethod
    def first(cls, now: Instant) -> HighWaterMark:
        """Return the mark of a device that has never seen signed time."""
        return cls(mark=0.0, base=now, lead=now.wall)

    def advance(self, now: Instant) -> HighWaterMark:
        """Bring the mark forward to `now` by elapsed boottime, or begin a new boot."""
        if now.boot_id == self.base.boot_id:
            elapsed = max(0.0, now.boottime - self.base.boottime)
            return replace(self, mark=self.mark + elapsed, base=now) if elapsed else self
        ahead = now.wall - self.mark
        return replace(self, base=now, lead=max(0.0, ahead), behind=ahead < -SKEW_REPORTED)

    def signed(self, time: float, now: Instant) -> HighWaterMark:
        """Take signed manager time (seconds since 1970): it may raise or lower the mark."""
        return HighWaterMark(mark=time, base=now)

    def time(self, now: Instant) -> float:
        """Return trusted time at `now`, in seconds since 1970."""
        moved = self.advance(now)
        return moved.mark + moved.lead

    def wall_of(self, trusted: float, now: Instant) -> float:
        """Return when, by the wall clock of `now`, trusted time will reach `trusted`."""
        return now.wall + (trusted - self.time(now))
