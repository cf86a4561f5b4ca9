"""`sml.log`: one line an event of smart licensing; turned over by size; never a secret.

2027-01-15T08:00:00Z WARNING EvalExpiryWarning cause=evaluation_warning next="..." text="..."
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from callpool.licensing.notice_log import Notice
from callpool.licensing.smart_agent import SmartAgent
from callpool.licensing.smart_events import Moment
from callpool.licensing.smart_notices import reminder
from callpool.licensing.smart_timers import EXPIRED_REMINDER

#: The log is turned over at this many bytes; so many older parts are kept.
MAX_BYTES: Final = 1024 * 1024
KEEP: Final = 4


def when(seconds: float) -> str:
    """Return a time (seconds since 1970) as RFC 3339, UTC, whole seconds."""
    return datetime.fromtimestamp(round(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def next_step(agent: SmartAgent, now: float) -> str:
    """Return what comes next by itself, with absolute times; `now` is trusted time."""
    steps: list[tuple[float, str]] = []
    if agent.next_contact is not None:
        steps.append((agent.next_contact, "contact the authority"))
    if agent.evaluating and agent.as_of is not None:
        steps.append((agent.as_of.time + agent.eval_left, "the evaluation ends"))
    if agent.authorization_end is not None:
        steps.append((agent.authorization_end, "the authorization ends"))
    if agent.certificate_end is not None:
        steps.append((agent.certificate_end, "the ID certificate ends"))
    if not steps:
        return (
            "nothing; register the device" if agent.enabled else "nothing; smart licensing is off"
        )
    at, what = min(steps)
    return f"{what} at {when(max(at, now))}"


class SmartLog:
    """The log in a file; a full disk costs a line, never the device."""

    def __init__(self, file: Path) -> None:
        """Write to `file`."""
        self._file = file
        #: When it was last told that the evaluation has ended (boottime), None while it has not.
        self._reminded: float | None = None

    def tell(self, told: Iterable[Notice], agent: SmartAgent, now: Moment) -> None:
        """Write what has happened."""
        for notice in told:
            if notice.name == "EvalExpired":
                self._reminded = now.boottime
            self.write(notice, agent, now.time)

    def due(self, agent: SmartAgent, now: Moment) -> Notice | None:
        """Return what lasts and is told again now, once an hour; None for nothing."""
        notice = reminder(agent)
        if notice is None:
            self._reminded = None
            return None
        return notice if self._reminded is None or self.next_due(now) <= 0.0 else None

    def next_due(self, now: Moment) -> float:
        """Return the seconds until something is told again, infinity for never."""
        if self._reminded is None:
            return math.inf
        return max(0.0, self._reminded + EXPIRED_REMINDER - now.boottime)

    def write(self, notice: Notice, agent: SmartAgent, now: float) -> None:
        """Write one notice at trusted time `now`; never raises."""
        text = f' text="{_plain(notice.sentence)}"' if notice.sentence else ""
        line = (
            f"{when(now)} {notice.severity.upper()} {notice.name} cause={_word(notice.cause)} "
            f'next="{next_step(agent, now)}"{text}\n'
        )
        try:
            if self._file.exists() and self._file.stat().st_size > MAX_BYTES:
                self._turn_over()
            with self._file.open("a", encoding="utf-8") as out:
                out.write(line)
            self._file.chmod(0o600)
        except OSError:
            return

    def _turn_over(self) -> None:
        for number in range(KEEP - 1, 0, -1):
            older = self._file.with_name(f"{self._file.name}.{number}")
            if older.exists():
                older.replace(self._file.with_name(f"{self._file.name}.{number + 1}"))
        self._file.replace(self._file.with_name(f"{self._file.name}.1"))


def _plain(text: str) -> str:
    """Return text that stays on its line and inside its quotes."""
    return "".join(c if c.isprintable() and c != '"' else "'" for c in text)[:300]


def _word(cause: str) -> str:
    return cause.replace(" ", "").replace("(", ":").replace(")", "")
