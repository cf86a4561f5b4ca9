"""The alarm core: conditions in, transitions out; active alarms and a bounded history.

An alarm is one notification OID. The conditions behind it (`alarm_table.py`) are one alarm: the
gravest is told, so that a clear of one never hides the other. An alarm is told when it is
raised, when its gravest condition changes, and when none is left; never again for the same.
Every table is bounded: active alarms by the number of definitions, the history by `HISTORY`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from callpool.licensing.alarm_table import DEFINITIONS, Definition, Severity

#: Events kept in the history (the vendor's default).
HISTORY: Final = 500
#: The largest number of an event: Unsigned32. Then it begins anew at 1.
LAST: Final = 4_294_967_295

#: Shares of a license in use: the alarm is raised at the first, cleared at the second.
RAISE_AT: Final = 0.95
CLEAR_AT: Final = 0.80


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One transition of one alarm."""

    #: Consecutive, from 1, across restarts.
    sequence: int
    #: Wall time, seconds since 1970.
    at: float
    #: The notification's OID: what the alarm is known by.
    oid: str
    severity: Severity
    #: The conditions behind it, the gravest first; of a clear, those that were.
    codes: tuple[str, ...]
    #: The gravest condition's sentence.
    text: str

    @property
    def code(self) -> str:
        """Return the gravest condition."""
        return self.codes[0]


class AlarmLog(msgspec.Struct, frozen=True, kw_only=True):
    """Active alarms and history; as JSON it is what survives a restart."""

    #: Which log this is: one that is begun anew has another name. Empty before it has one.
    log: str = ""
    #: The number of the last event, 0 before the first.
    sequence: int = 0
    #: The last event of each alarm that is active, in order of sequence.
    active: tuple[Event, ...] = ()
    #: Every raise, change and clear, the oldest first.
    history: tuple[Event, ...] = ()

    def observe(
        self,
        found: Iterable[tuple[str, str]],
        at: float,
        table: Mapping[str, Definition] = DEFINITIONS,
    ) -> tuple[AlarmLog, tuple[Event, ...]]:
        """Return the log after seeing all conditions of now, and what is to be told.

        `found` holds (code, sentence) of every condition; `at` is wall time. A code that is not
        in `table` raises KeyError: it is a defect, not an input.
        """
        order = {code: index for index, code in enumerate(table)}
        behind: dict[str, list[tuple[str, str]]] = {}
        for code, text in found:
            behind.setdefault(table[code].oid, []).append((code, text))
        for conditions in behind.values():
            conditions.sort(key=lambda c: (-table[c[0]].severity, order[c[0]]))
        held = {event.oid: event for event in self.active}
        told: list[Event] = []
        for oid, conditions in behind.items():
            code, text = conditions[0]
            before = held.get(oid)
            if before is not None and not _is_new(before, code, text, table):
                continue
            told.append(
                self._event(
                    len(told),
                    at=at,
                    oid=oid,
                    severity=table[code].severity,
                    codes=tuple(c for c, _ in conditions),
                    text=text,
                )
            )
        for event in self.active:
            if event.oid not in behind:
                told.append(
                    self._event(
                        len(told),
                        at=at,
                        oid=event.oid,
                        severity=Severity.CLEARED,
                        codes=event.codes,
                        text=event.text,
                    )
                )
        if not told:
            return self, ()
        held.update((event.oid, event) for event in told)
        active = [e for e in held.values() if e.severity is not Severity.CLEARED]
        return (
            AlarmLog(
                log=self.log,
                sequence=told[-1].sequence,
                active=tuple(sorted(active, key=lambda e: e.sequence)),
                history=(*self.history, *told)[-HISTORY:],
            ),
            tuple(told),
        )

    def _event(
        self, index: int, *, at: float, oid: str, severity: Severity, codes: tuple[str, ...],
        text: str,
    ) -> Event:  # fmt: skip
        sequence = (self.sequence + index) % LAST + 1
        return Event(sequence=sequence, at=at, oid=oid, severity=severity, codes=codes, text=text)

    def holds(self, code: str) -> bool:
        """Tell whether `code` was among an active alarm's conditions as it was last told."""
        return any(code in event.codes for event in self.active)


def _is_new(before: Event, code: str, text: str, table: Mapping[str, Definition]) -> bool:
    return before.code != code or (table[code].retold and before.text != text)


def nearly_used(used: int, cap: int, *, was: bool) -> bool:
    """Tell whether a license counts as nearly used up, with hysteresis.

    It does from RAISE_AT of `cap` on, and until it falls to CLEAR_AT. Nothing licensed and
    nothing in use is no alarm: that is told otherwise.
    """
    if used <= 0:
        return False
    share = used / cap if cap > 0 else 1.0
    return share >= RAISE_AT or (was and share > CLEAR_AT)
