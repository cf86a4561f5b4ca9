"""Notices in the order in which they happened, numbered: what is told of them is never told twice.

The log is a value that the device keeps in the same record as the state that a notice tells of,
so that neither is on disk without the other. It is bounded: what it drops is still in `sml.log`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from callpool.licensing.smart import Enforcement

#: Notices that are kept for those who read by number. Every write of the flash carries them.
KEPT: Final = 100


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it is told: a line of `sml.log`, a notification."""

    name: str
    severity: str
    #: The agent's event that caused it, with the code of a failure.
    cause: str
    sentence: str = ""
    #: The enforcement mode before and after.
    was: Enforcement = Enforcement.INIT
    mode: Enforcement = Enforcement.INIT
    #: The configured count, calls a second.
    count: int = 0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One notice with its place in the order."""

    #: From 1, across restarts; only rises, though not always by one.
    sequence: int
    #: When it happened: trusted time, seconds since 1970.
    at: float
    notice: Notice


class NoticeLog(msgspec.Struct, frozen=True, kw_only=True):
    """The last notices, the oldest first."""

    #: The number of the last one, 0 before the first.
    sequence: int = 0
    told: tuple[Told, ...] = ()

    def added(self, notices: Iterable[Notice], at: float) -> NoticeLog:
        """Return the log with `notices`, which happened at trusted time `at`."""
        new = tuple(
            Told(sequence=number, at=at, notice=notice)
            for number, notice in enumerate(notices, self.sequence + 1)
        )
        if not new:
            return self
        return NoticeLog(sequence=new[-1].sequence, told=(*self.told, *new)[-KEPT:])

    def skipped(self) -> NoticeLog:
        """Return the log with so many numbers left out that none of a lost record is used again.

        For a device that fell back to an older record: it cannot know what the lost one told.
        """
        return NoticeLog(sequence=self.sequence + KEPT, told=self.told)

    def after(self, sequence: int) -> tuple[Told, ...]:
        """Return what came after number `sequence`."""
        return tuple(told for told in self.told if told.sequence > sequence)
