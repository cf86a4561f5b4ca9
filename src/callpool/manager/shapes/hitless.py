"""HA pairs and their hitless runs."""

from __future__ import annotations

from typing import Literal

from callpool.manager.shapes.base import Counts, Shape

State = Literal["running", "stopped", "complete", "rolled_back", "closed"]


class Wait(Shape, frozen=True, kw_only=True):
    """What a run waits for, why it stopped, or what is wrong with a pair."""

    code: str
    sentence: str


class Step(Shape, frozen=True, kw_only=True):
    """One step of a run; times are seconds since 1970."""

    number: int
    kind: Literal["install", "switch"]
    words: str
    #: The unit that restarts, or is to be the active one.
    unit: str
    status: Literal["to_do", "waiting", "ordered", "done", "not_needed"]
    ordered_at: float | None
    done_at: float | None
    #: What was seen when it was ordered, or done.
    seen: str


class Line(Shape, frozen=True, kw_only=True):
    """One line of a run's history."""

    at: float
    what: str
    #: The step's number; 0 for what concerns the run.
    step: int
    unit: str
    seen: str


class Run(Shape, frozen=True, kw_only=True):
    """A hitless installation."""

    id: int
    state: State
    #: Whether the licenses of before are installed again.
    back: bool
    who: str
    began_at: float
    ended_at: float | None
    #: The unit that was active when it began, and is again in the end; and the other one.
    first: str
    other: str
    #: What each unit ran before, and what it is to run.
    before: Counts
    wanted: Counts
    waits_for: Wait | None
    #: It stops at this time unless what it waits for comes.
    deadline: float | None
    #: What can be done with it now.
    may: list[Literal["resume", "stop", "roll_back", "close"]]
    steps: list[Step]
    history: list[Line]


class DeviceRun(Shape, frozen=True, kw_only=True):
    """A device's last run, null where there was none."""

    name: str
    run: Run | None


class PairUnit(Shape, frozen=True, kw_only=True):
    """How one unit last saw its pair."""

    serial: str
    #: Empty where it has reported no pair; alone is active, the other one unseen.
    role: Literal["active", "redundant", "alone", "fault", ""]
    peer: str
    synchronised: bool
    #: Seconds since it heard the other one; -1 for never.
    peer_age: float
    seen_at: float | None
    #: What it enforces; null where it has not reported it.
    runs: Counts | None
    #: How its last switchover order ended.
    switch_result: str


class Pair(Shape, frozen=True, kw_only=True):
    """An HA pair as its units last told it."""

    #: The one unit that serves; null where none or both say so.
    active: str | None
    synchronised: bool
    #: What keeps it from a hitless installation.
    trouble: Wait | None
    #: Whether both units enforce the same; null where that is not known.
    equal: bool | None
    units: list[PairUnit]
    #: The run that is not over.
    run: Run | None


class PairChanged(Shape, frozen=True, kw_only=True):
    """A pair that was formed, or that a unit has left."""

    name: str
    serial: str
