"""What of the alarm log the manager is told, and when: paced, so that no alarm can flood it.

The manager says how far it has taken the log; until it has said so once, it is told what is
active but no events. A manager that takes no alarms never says so, and is sent none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from callpool.licensing.alarms import AlarmLog, Event
from callpool.wire.messages import AlarmMessage, AlarmsMessage

#: Events that one contact carries at most (about 30 kB).
PER_CONTACT: Final = 100
#: Seconds of boottime between two contacts that only alarms asked for.
PACE: Final = 10.0


class AlarmFeed:
    """The alarm log on its way to the manager."""

    def __init__(self) -> None:
        """Know of no log yet: `read` is set by whoever keeps one."""
        #: Returns the log as it stands.
        self.read: Callable[[], AlarmLog] = AlarmLog
        self.forget()

    def forget(self) -> None:
        """Know nothing of what any manager has taken."""
        self._taken: int | None = None
        self._told_at = -math.inf
        self._told = AlarmsMessage(log="", sequence=0)

    def message(self, boottime: float) -> AlarmsMessage | None:
        """Return what a contact at `boottime` tells, None where no log is kept."""
        log = self.read()
        if not log.log:
            return None
        self._told_at = boottime
        new = [e for e in log.history if self._taken is not None and e.sequence > self._taken]
        self._told = AlarmsMessage(
            log=log.log,
            sequence=log.sequence,
            active=tuple(_message(e) for e in log.active),
            events=tuple(_message(e) for e in new[:PER_CONTACT]),
        )
        return self._told

    def taken(self, sequence: int | None) -> bool:
        """Hear how far the manager has taken the log; return whether more is to be sent at once.

        The manager's word is believed even where it is behind: it may have been restored.
        """
        before, self._taken = self._taken, sequence
        if sequence is None:
            return False
        more = any(e.sequence > sequence for e in self.read().history)
        return more and (before is None or sequence > before)

    def due(self, boottime: float) -> float:
        """Return the seconds until news of an alarm asks for a contact, infinity for none."""
        if self._taken is None or self.read().sequence == self._told.sequence:
            return math.inf
        return max(0.0, self._told_at + PACE - boottime)


def _message(event: Event) -> AlarmMessage:
    return AlarmMessage(
        sequence=event.sequence,
        at=event.at,
        oid=event.oid,
        severity=int(event.severity),
        codes=event.codes,
        text=event.text,
    )
