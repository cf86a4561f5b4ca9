"""The hitless installation on an HA pair: four steps, as a plan that can be resumed anywhere.

Seed `004`: 1 download the licenses to the redundant unit and restart it, 2 switchover, 3 download
the same to the former active unit and restart it, 4 switchover back. What to do when a step fails
is undocumented (`facts/license-pool.md` 6); decided here: the run stops, the pair serves on as it
is, and an operator resumes it or rolls it back (the same steps with the licenses of before).

The plan holds no list of what is left. It looks at both units and does the one thing that brings
the pair nearer to its goal (`next_step`), so a unit that failed over by itself, a lost report or
a restarted manager leave nothing to be put right. Before anything is asked of a unit, *both* must
have reported since the last thing happened, and every row of PRECONDITIONS must hold: so only a
redundant unit is ever asked to restart, while the other one is active, and one thing at a time.

No I/O, no clock: times are the manager's, seconds since 1970; `heard` says whose report is new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from callpool.licensing.hitless_forms import (
    ONE_SWITCHOVER,
    OPEN,
    REFUSED,
    STEPS,
    UNDER_WAY,
    WENT_WELL,
    Deadlines,
    Kind,
    Line,
    Order,
    Role,
    Run,
    State,
    Step,
    Unit,
    Units,
    Wait,
)

#: Restarts and switchovers that one start, or resume, may ask for: the plan needs four.
MOST_ORDERS: Final = 12
#: Seconds after an order's end in which it may still be on its way through a unit.
LATE: Final = 10.0
#: Seconds before a switchover that was refused is asked for again: at first, and at most.
ASK_AGAIN: Final = (2.0, 30.0)
#: Lines of its own history that a run keeps.
_MOST_LINES: Final = 100


def start(first: str, other: str, now: float, times: Deadlines, *, returns: bool = True) -> Run:
    """Begin a run on a pair whose unit `first` is the active one."""
    run = Run(first=first, other=other, returns=returns, deadline=now + times.settle)
    return _note(run, now, "started", unit=first, seen=f"{first} is active")


def advance(run: Run, units: Units, now: float, times: Deadlines, *, heard: str = "") -> Run:
    """Go on as far as the last reports allow; `heard` names the unit that has just reported.

    A run whose `order` is another than before has asked a unit for something: that is to be
    written down, then sent. Repeated reports, and calls without news, change nothing.
    """
    if run.state is not State.RUNNING:
        return run
    # A clock that was set back must not make it wait for longer.
    run = replace(run, deadline=min(run.deadline, now + times.longest()))
    if heard and heard not in run.fresh:
        run = replace(run, fresh=(*run.fresh, heard))
    if run.late is not None:
        run = _late(run, units, now, times)
    if run.order is not None:
        run = _confirm(run, units, now, times)
    if run.state is not State.RUNNING or run.order is not None:
        return run
    return _decide(run, units, now, times)


def _late(run: Run, units: Units, now: float, times: Deadlines) -> Run:
    order = run.late
    assert order is not None  # as the caller has seen
    if order.by in run.fresh and order.done(units):
        return _again(replace(run, late=None), now + times.settle)
    if not now <= order.until + LATE <= now + times.longest() + LATE:
        return _again(replace(run, late=None), now + times.settle)
    return run


def _again(run: Run, deadline: float) -> Run:
    """Something has happened: nothing that was reported before counts any more."""
    return replace(run, fresh=(), deadline=deadline, wait=None)


def _confirm(run: Run, units: Units, now: float, times: Deadlines) -> Run:
    """See whether what was ordered has happened, was refused, or comes too late."""
    order = run.order
    assert order is not None  # as the caller has seen
    unit, step = units[order.unit], _step(run, order.kind, order.unit)
    fresh = order.unit in run.fresh
    if order.kind is Kind.INSTALL:
        if fresh and order.done(units) and unit.running >= order.wanted:
            return _done(run, step, unit, now, times, "it has restarted with its licenses")
        if fresh and order.done(units):
            wait = Wait(
                code="not_applied",
                sentence=f"{unit.serial} has restarted and does not run the licenses it received",
            )
        else:
            wait = Wait(
                code="restart_awaited",
                sentence=f"{unit.serial} has not yet reported its restart",
            )
    else:
        old = units[order.by]
        heard_both = fresh and old.serial in run.fresh
        if fresh and (
            unit.role is Role.ALONE or (unit.role is Role.ACTIVE and heard_both and not old.serves)
        ):
            return _done(run, step, unit, now, times, f"it is {unit.role}")
        if old.serial in run.fresh and order.done(units) and old.switch_result not in WENT_WELL:
            said = f"{old.serial} has not handed over to {unit.serial}: {old.switch_result[:200]}"
            return _refused(run, step, old, said, now, times)
        wait = Wait(
            code="switch_awaited",
            sentence=f"{unit.serial} and {old.serial} have not both reported the switchover",
        )
    if now >= order.until:
        return _stop(run, now, wait.code, f"{wait.sentence}, in time")
    return replace(run, wait=wait)


def _refused(run: Run, step: Step, old: Unit, said: str, now: float, times: Deadlines) -> Run:
    """Ask again in a while: a unit sees at every moment what a report tells of the last one.

    What a unit has begun and could not do is not asked for again by itself.
    """
    since = run.refused_since
    since = now if since is None or since > now else since
    if not old.switch_result.startswith(REFUSED) or now >= since + times.settle:
        return _stop(run, now, "switch_refused", said)
    first, most = ASK_AGAIN
    run = replace(
        _again(run, since + times.settle),
        order=None,
        orders=run.orders - 1,
        refused_since=since,
        refusals=run.refusals + 1,
        not_before=now + min(most, first * 2**run.refusals),
        wait=Wait(code="switch_refused", sentence=said),
    )
    return _note(run, now, "refused", step=step.number, unit=old.serial, seen=old.switch_result)


def _done(run: Run, step: Step, unit: Unit, now: float, times: Deadlines, seen: str) -> Run:
    run = replace(run, order=None, refused_since=None, refusals=0, not_before=0.0)
    run = _again(run, now + times.settle)
    return _note(run, now, "done", step=step.number, unit=unit.serial, seen=seen)


#: What must hold of each unit (`other`: the other one) before anything is asked: the code of what
#: is missing, the rule, the sentence.
PRECONDITIONS: Final[tuple[tuple[str, Callable[[Unit, Unit], bool], str], ...]] = (
    ("no_pair", lambda unit, _: unit.role is not Role.UNKNOWN, "{unit} reports no HA pair"),
    (
        "other_peer",
        lambda unit, other: unit.peer == other.serial,
        "{unit} is paired with {peer}, not with {other}",
    ),
    ("fault", lambda unit, _: unit.role is not Role.FAULT, "{unit} reports a fault of its pair"),
    ("alone", lambda unit, _: unit.role is not Role.ALONE, "{unit} does not hear {other}"),
    (
        "both_active",
        lambda unit, other: not (unit.serves and other.serves),
        "{unit} and {other} are both active",
    ),
    (
        "none_active",
        lambda unit, other: unit.serves or other.serves,
        "neither {unit} nor {other} is active",
    ),
    (
        "not_synchronised",
        lambda unit, _: unit.synchronised,
        "{unit} is not synchronised with {other}",
    ),
)


def unsettled(run: Run, units: Units) -> Wait | None:
    """Return what keeps the pair from being asked anything, None where nothing does."""
    pair = (units[run.first], units[run.other])
    for unit in pair:
        if unit.serial not in run.fresh:
            return Wait(code="not_seen", sentence=f"{unit.serial} has not called since")
    for code, holds, words in PRECONDITIONS:
        for unit, other in (pair, pair[::-1]):
            if not holds(unit, other):
                sentence = words.format(
                    unit=unit.serial, other=other.serial, peer=unit.peer or "nobody"
                )
                return Wait(code=code, sentence=sentence)
    if run.late is not None:
        return Wait(
            code="late_order",
            sentence=f"{run.late.by} may still carry out what it was asked before the stop",
        )
    return None


def next_step(run: Run, active: Unit, redundant: Unit) -> Step | None:
    """Return the one step that brings a settled pair nearer to its goal, None at the goal.

    The redundant unit first; the active one only after it has handed over.
    """
    if not redundant.installed:
        return _step(run, Kind.INSTALL, redundant.serial)
    if not active.installed:
        return _step(run, Kind.SWITCH, redundant.serial)
    if run.returns and active.serial != run.first:
        return _step(run, Kind.SWITCH, run.first)
    return None


def _step(run: Run, kind: Kind, serial: str) -> Step:
    about_first = serial == run.first
    return next(s for s in STEPS if (s.kind, s.first) == (kind, about_first))


def _decide(run: Run, units: Units, now: float, times: Deadlines) -> Run:
    wait = unsettled(run, units)
    if wait is None:
        a, b = units[run.first], units[run.other]
        active, redundant = (a, b) if a.serves else (b, a)
        step = next_step(run, active, redundant)
        if step is None:
            state = State.ROLLED_BACK if run.back else State.COMPLETE
            run = replace(run, state=state, wait=None)
            return _note(run, now, state.value, seen=f"{active.serial} is active")
        wait = _not_yet(run, step, redundant, now)
        if wait is None:
            return _order(run, step, active, redundant, now, times)
    if now >= run.deadline:
        return _stop(run, now, wait.code, wait.sentence)
    return replace(run, wait=wait)


def _not_yet(run: Run, step: Step, redundant: Unit, now: float) -> Wait | None:
    """Return what the step itself still waits for."""
    # A clock that was set back does not count.
    if step.kind is Kind.SWITCH and now < run.not_before <= now + ASK_AGAIN[1]:
        return Wait(
            code="switch_refused",
            sentence=f"the switchover is asked for again, it was {run.lines[-1].seen[:200]}",
        )
    if step.kind is Kind.INSTALL and redundant.received < redundant.wanted:
        return Wait(
            code="not_received",
            sentence=f"{redundant.serial} has not received the licenses yet",
        )
    return None


def _order(
    run: Run, step: Step, active: Unit, redundant: Unit, now: float, times: Deadlines
) -> Run:
    if run.orders >= MOST_ORDERS:
        return _stop(run, now, "too_many_orders", "the pair's units change roles again and again")
    install = step.kind is Kind.INSTALL
    order = Order(
        kind=step.kind,
        unit=redundant.serial,
        by=redundant.serial if install else active.serial,
        number=redundant.next_restart if install else active.next_switch,
        wanted=redundant.wanted,
        until=now + (times.restart if install else times.switch),
    )
    run = _again(replace(run, order=order, orders=run.orders + 1), order.until)
    return _note(
        run,
        now,
        "ordered",
        step=step.number,
        unit=redundant.serial,
        seen=f"{active.serial} is active, {redundant.serial} redundant and synchronised",
    )


def next_timer(run: Run) -> float | None:
    """Return when `advance` is due without any report, None for never."""
    if run.state is not State.RUNNING:
        return None
    late = [run.late.until + LATE] if run.late else []
    return min([run.order.until if run.order else run.deadline, *late])


# -- what an operator does


def stop(run: Run, now: float, who: str) -> Run:
    """Stop a run safely where it is; raises nothing, a run that is over stays so."""
    if run.state is not State.RUNNING:
        return run
    return _stop(run, now, "stopped_by_operator", f"{who} has stopped it")


def _stop(run: Run, now: float, code: str, sentence: str) -> Run:
    run = replace(
        run,
        state=State.STOPPED,
        wait=Wait(code=code, sentence=sentence),
        late=run.order or run.late,
        order=None,
    )
    return _note(run, now, "stopped", seen=sentence)


def resume(run: Run, now: float, times: Deadlines, *, back: bool | None = None) -> Run:
    """Let a stopped run go on; with `back` let any open run turn to the licenses of before."""
    what = "resumed"
    if back is not None and back != run.back:
        what = "rolling_back" if back else "resumed"
        run = replace(run, back=back)
    run = replace(
        run,
        state=State.RUNNING,
        late=run.order or run.late,
        order=None,
        orders=0,
        refused_since=None,
        refusals=0,
        not_before=0.0,
    )
    return _note(_again(run, now + times.settle), now, what)


def close(run: Run, now: float, who: str) -> Run:
    """Leave the pair as it is."""
    run = replace(run, state=State.CLOSED, wait=None)
    return _note(run, now, "closed", seen=f"{who} has closed it")


def _note(run: Run, now: float, what: str, *, step: int = 0, unit: str = "", seen: str = "") -> Run:
    line = Line(at=now, what=what, step=step, unit=unit, seen=seen)
    return replace(run, lines=(*run.lines, line)[-_MOST_LINES:])


__all__ = [
    "ASK_AGAIN",
    "LATE",
    "MOST_ORDERS",
    "ONE_SWITCHOVER",
    "OPEN",
    "PRECONDITIONS",
    "REFUSED",
    "STEPS",
    "UNDER_WAY",
    "WENT_WELL",
    "Deadlines",
    "Kind",
    "Line",
    "Order",
    "Role",
    "Run",
    "State",
    "Step",
    "Unit",
    "Units",
    "Wait",
    "advance",
    "close",
    "next_step",
    "next_timer",
    "resume",
    "start",
    "stop",
    "unsettled",
]
