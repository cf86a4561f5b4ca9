"""A pool simulation for people: a row a change, sessions and users side by side."""

from __future__ import annotations

from typing import Final

from callpool.licensing.capacity import POOL_TYPES
from callpool.simulate.pool import AnyLine, Line, Refusal, Total, Violation

#: The columns of counts, and the width of each in characters.
_COUNTS: Final = ("remote", "applied", "local", "actual")
_WIDTH: Final = 12


def heading() -> str:
    """Return what stands above the rows."""
    columns = " ".join(f"{name:>{_WIDTH}}" for name in _COUNTS)
    return f"Counts are {' / '.join(POOL_TYPES)}.\n{'day':>10}  {'device':12} {columns}  state"


def words(line: AnyLine) -> str:
    """Return one line for people."""
    match line:
        case Line():
            columns = " ".join(f"{_each(getattr(line, name)):>{_WIDTH}}" for name in _COUNTS)
            state = "in service" if line.in_service else "OUT OF SERVICE"
            waits = ", restart pending" if line.pending_restart else ""
            after = f"{columns}  {state}{waits}: {line.cause}"
        case Refusal():
            after = f"{line.cause} refused: {line.sentence} [{line.refused}]"
        case Violation():
            return f"{_day(line.at_seconds)}  LAW 1 VIOLATED: {line.violation}"
        case Total():
            return f"Law 1 was checked {line.checked} times: {line.violations} violations."
    return f"{_day(line.at_seconds)}  {line.device or '-':12} {after}"


def _each(counts: dict[str, int]) -> str:
    return " / ".join(str(counts[name]) for name in POOL_TYPES)


def _day(seconds: float) -> str:
    return f"{seconds / 86_400:10.4f}"
