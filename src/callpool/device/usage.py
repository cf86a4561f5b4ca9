"""What this device used, minute by minute, kept until the manager has taken it.

Sampled by the core's loop at every event and at least every 10 seconds, from the gate's own
counts; the highest use between two samples comes from the gate, so no short peak is missed.
What happened between two samples counts to the minute of the later one.

Minutes of the last 24 hours are kept one by one, older ones folded into the first of their hour,
at most MOST of all. They are in memory and, every five minutes and at a stop, in `usage.json`:
a core that is killed loses what came since.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from callpool.device.ports import Usage
from callpool.host.files import write_durably
from callpool.licensing.capacity import FAR_END_USERS, SBC_SESSIONS, Capacity
from callpool.licensing.usage import DAY, HOUR, MINUTE, aligned
from callpool.wire.messages import UsageCount, UsageMinute

#: Minutes that one contact carries at most (about 25 kB).
PER_CONTACT: Final = 240
#: Minutes and folded hours that are kept at most: a day, and the month before it.
MOST: Final = DAY // MINUTE + 30 * DAY // HOUR
#: Seconds between two writes of what is not taken yet.
SAVE_EVERY: Final = 300.0


class Count(msgspec.Struct, kw_only=True):
    """One license type in one minute, as it is gathered."""

    peak: int = 0
    total: float = 0.0
    samples: int = 0
    cap: int | None = None
    refused: int = 0
    repeated: int = 0
    admitted: int = 0

    def add(self, other: Count) -> None:
        """Take in another minute, or another sample."""
        self.peak = max(self.peak, other.peak)
        self.total += other.total
        self.samples += other.samples
        if other.cap is not None:
            self.cap = other.cap if self.cap is None else min(self.cap, other.cap)
        self.refused += other.refused
        self.repeated += other.repeated
        self.admitted += other.admitted

    def told(self) -> UsageCount:
        """Return it as it is reported."""
        mean = self.total / self.samples if self.samples else 0.0
        return UsageCount(
            self.peak, round(mean, 2), self.cap or 0, self.refused, self.repeated, self.admitted
        )


Minutes = dict[int, dict[str, Count]]


class UsageLog:
    """The minutes that the manager has not taken yet."""

    def __init__(self, file: Path) -> None:
        """Go on from what `file` holds; one that cannot be read is no history."""
        self._file = file
        self._minutes: Minutes = {}
        try:
            self._minutes = msgspec.json.decode(file.read_bytes(), type=Minutes)
        except (OSError, msgspec.DecodeError):
            self._minutes = {}
        self._saved_at = -math.inf
        self._away: Mapping[str, tuple[int, int]] = {}
        self._admitted: int | None = None

    def sample(
        self, usage: Usage, high: tuple[int, int], caps: Capacity, *, time: float, boottime: float
    ) -> None:
        """Count what is in use at trusted `time`, and what was refused since the last sample.

        `high` is the most sessions and users at once since then. Raises OSError where the file
        cannot be written; what was counted stays.
        """
        minute = self._minutes.setdefault(aligned(time, MINUTE), {})
        admitted = usage.admitted - (usage.admitted if self._admitted is None else self._admitted)
        self._admitted = usage.admitted
        now = {SBC_SESSIONS: (usage.sessions, high[0]), FAR_END_USERS: (usage.users, high[1])}
        for name in {*now, *usage.turned_away}:
            used, peak = now.get(name, (0, 0))
            true, repeats = usage.turned_away.get(name, (0, 0))
            before = self._away.get(name, (0, 0))
            minute.setdefault(name, Count()).add(
                Count(
                    peak=max(used, peak), total=used, samples=1, cap=caps.get(name),
                    # A gate that started anew counts from 0.
                    refused=true - before[0] if true >= before[0] else true,
                    repeated=repeats - before[1] if repeats >= before[1] else repeats,
                    admitted=max(0, admitted) if name == SBC_SESSIONS else 0,
                )
            )  # fmt: skip
        self._away = dict(usage.turned_away)
        if boottime - self._saved_at >= SAVE_EVERY:
            self._fold(time)
            self._saved_at = boottime
            self.save()

    def due(self, time: float) -> tuple[UsageMinute, ...]:
        """Return the oldest minutes that are over at `time`, PER_CONTACT of them at most."""
        over = sorted(at for at in self._minutes if at + MINUTE <= time)
        return tuple(
            UsageMinute(
                at=at,
                types={
                    name: count.told()
                    for name, count in self._minutes[at].items()
                    if count.peak or count.cap or count.refused or count.repeated
                },
            )
            for at in over[:PER_CONTACT]
        )

    def taken(self, until: int) -> None:
        """Drop every minute up to the one that starts at `until`: the manager has them."""
        self._minutes = {at: v for at, v in self._minutes.items() if at > until}

    def save(self) -> None:
        """Write what is not taken yet; raises OSError."""
        write_durably(self._file, msgspec.json.encode(self._minutes))

    def close(self) -> None:
        """Write what is not taken yet, if that can be done: it is only statistics."""
        with contextlib.suppress(OSError):
            self.save()

    def _fold(self, time: float) -> None:
        """Fold what is older than a day into the first minute of its hour, and keep to MOST.

        Into the first: minutes are sent oldest first, so where the manager has taken it already
        (and only its word was lost) it will not count the others a second time.
        """
        kept: Minutes = {}
        first: dict[int, int] = {}
        for at in sorted(self._minutes):
            into = first.setdefault(aligned(at, HOUR), at) if at < time - DAY else at
            if into == at:
                kept[at] = self._minutes[at]
            else:
                for name, count in self._minutes[at].items():
                    kept[into].setdefault(name, Count()).add(count)
        self._minutes = dict(list(kept.items())[-MOST:])
