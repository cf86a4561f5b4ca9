"""What a hitless run is made of: values only; the rules are in `hitless.py`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec


class Role(StrEnum):
    """How a unit sees itself in its pair."""

    ACTIVE = "active"
    REDUNDANT = "redundant"
    #: Active, the other one unseen.
    ALONE = "alone"
    FAULT = "fault"
    #: It has reported no pair.
    UNKNOWN = ""


class State(StrEnum):
    """What becomes of a run."""

    RUNNING = "running"
    #: Stopped safely: it can be resumed, rolled back or closed.
    STOPPED = "stopped"
    #: Both units run the licenses that they were to have.
    COMPLETE = "complete"
    #: Both units run the licenses of before.
    ROLLED_BACK = "rolled_back"
    #: An operator left the pair as it is.
    CLOSED = "closed"


#: A run that still holds what its units had before.
OPEN: Final = frozenset({State.RUNNING, State.STOPPED})


class Kind(StrEnum):
    """What a step does to a unit."""

    #: It restarts with save, which applies the licenses that it has received.
    INSTALL = "install"
    #: It becomes the active one.
    SWITCH = "switch"


class Step(msgspec.Struct, frozen=True):
    """One step of the procedure, as people count them."""

    number: int
    kind: Kind
    #: Whether it is about the unit that was active when the run began.
    first: bool
    words: str


#: The seed's four steps.
STEPS: Final = (
    Step(1, Kind.INSTALL, False, "install on the redundant unit and restart it"),
    Step(2, Kind.SWITCH, False, "switchover"),
    Step(3, Kind.INSTALL, True, "install on the former active unit and restart it"),
    Step(4, Kind.SWITCH, True, "switchover back"),
)
#: With one switchover, as a local key is installed (`hitless_key.py`).
ONE_SWITCHOVER: Final = STEPS[:3]


#: Results of a switchover order: begun and written down; gone well; not begun, and why (the rest
#: of the text); any other one tells what went wrong.
UNDER_WAY: Final = "under way"
WENT_WELL: Final = frozenset({"", "done"})
REFUSED: Final = "refused"


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds within which something must have happened, or the run stops."""

    #: Both units have reported, and the pair is synchronised.
    settle: float = 300.0
    #: A restart that was ordered is reported, with the licenses applied.
    restart: float = 300.0
    #: A switchover that was ordered is reported by both units.
    switch: float = 60.0

    def longest(self) -> float:
        """Return the longest of them."""
        return max(self.settle, self.restart, self.switch)


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one unit from its last report."""

    serial: str
    #: The unit that it is paired with.
    peer: str = ""
    role: Role = Role.UNKNOWN
    synchronised: bool = False
    #: Versions of the licenses that it is to have, has received, and runs.
    wanted: int = 0
    received: int = 0
    running: int = 0
    #: The numbers of the last restart and switchover that it carried out.
    restart_done: int = 0
    switch_done: int = 0
    switch_result: str = ""
    #: The numbers for the next ones.
    next_restart: int = 1
    next_switch: int = 1

    @property
    def installed(self) -> bool:
        """Tell whether it runs the licenses that it is to have."""
        return self.running >= self.wanted

    @property
    def serves(self) -> bool:
        """Tell whether it owns the service address."""
        return self.role in (Role.ACTIVE, Role.ALONE)


Units = Mapping[str, Unit]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What one unit has been asked to do; `number` tells it from all before."""

    kind: Kind
    #: The unit that the step is about.
    unit: str
    #: The unit that is asked: for a switchover the one that hands over.
    by: str
    number: int
    #: Of a restart: the version of the licenses that it is to apply.
    wanted: int = 0
    #: It is not to be carried out after this time.
    until: float

    def done(self, units: Units) -> bool:
        """Tell whether the unit that was asked says that it is done with it, well or not."""
        asked = units[self.by]
        if self.kind is Kind.INSTALL:
            return asked.restart_done >= self.number
        return asked.switch_done >= self.number and asked.switch_result != UNDER_WAY


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a run's history."""

    at: float
    #: started, ordered, refused, done, stopped, resumed, rolling_back, complete, rolled_back,
    #: closed.
    what: str
    #: The step's number; 0 for what concerns the run.
    step: int = 0
    unit: str = ""
    #: What was seen, for people.
    seen: str = ""


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """What a run waits for, or why it stopped: a stable code and a sentence."""

    code: str
    sentence: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run; every function returns a new one."""

    state: State = State.RUNNING
    #: Whether the licenses of before are installed again.
    back: bool = False
    #: The unit that was active when it began, and the other one.
    first: str
    other: str
    #: Whether `first` is to be the active one in the end.
    returns: bool = True
    #: What a unit has been asked and has not been seen to have done.
    order: Order | None = None
    #: What was asked before a stop, and may still be carried out.
    late: Order | None = None
    #: Orders given since it was started or resumed last, but for those that were refused.
    orders: int = 0
    #: Since when switchovers are refused, how often, and when the next may be asked for.
    refused_since: float | None = None
    refusals: int = 0
    not_before: float = 0.0
    #: The units that have reported since something last happened.
    fresh: tuple[str, ...] = ()
    #: What it waits for must have come by this time.
    deadline: float
    wait: Wait | None = None
    lines: tuple[Line, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of its procedure."""
        return STEPS if self.returns else ONE_SWITCHOVER
