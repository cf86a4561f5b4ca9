"""The records held against the laws: each finding is one sentence; none means that they held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from callpool.lab.chaos.witness import Book, Call, Seen, never_above, possible

#: Findings of one kind that are told.
_TOLD: Final = 5
#: So often a fault that was to happen has happened once at least.
_OFTEN: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What was written down by witnesses."""

    #: Sessions that were bought.
    bought: int
    caps: Mapping[str, Sequence[Seen]]
    #: Calls by device.
    calls: Mapping[str, Sequence[Call]]
    book: Book
    #: The allocation of each device at the end, as the manager has it, and its Actual.
    allocations: Mapping[str, int]
    actual: Mapping[str, int]
    #: Calls that each gate counts at the end, when no call is up.
    counted: Mapping[str, int]
    tenants_missing: Sequence[str]
    #: What the database adds up at the end: held, and the highest that it ever held is bounded.
    held: int
    journals: Mapping[str, Path]
    #: Seconds from the last fault until all was as the manager has it; None: it never was.
    converged: float | None
    #: How often each kind of fault was to happen, and how often it is certain to have.
    planned: Mapping[str, int]
    happened: Mapping[str, int]


def findings(found: Records) -> list[str]:
    """Return what broke a law, a sentence each."""
    return [
        *_conservation(found),
        *_calls(found),
        *_nothing_lost(found),
        *_converged(found),
        *_tried(found),
    ]


def _conservation(found: Records) -> Iterator[str]:
    highest, when = never_above(list(found.caps.values()), found.bought)
    if highest > found.bought:
        yield (
            f"Law 1: the gates had caps of {highest} in force at {when:.3f}, {found.bought} are"
            " bought (read from Kamailio)."
        )
    if found.held > found.bought:
        yield f"Law 1: {found.held} are held in the database, {found.bought} are bought."
    for name, seen in found.caps.items():
        if len(seen) < 2:
            yield f"The witness saw too little of {name} to say anything."


def _tried(found: Records) -> Iterator[str]:
    """Tell of a run that proves nothing, because nothing went on or nothing went wrong."""
    if not found.planned:
        yield "Nothing was to go wrong: the run was too short."
    for kind, planned in found.planned.items():
        # One or two may have met something that was dead already.
        if planned >= _OFTEN and not found.happened.get(kind):
            yield f"{kind} was to happen {planned} times and never did."
    planned, happened = sum(found.planned.values()), sum(found.happened.values())
    if 2 * happened < planned:
        yield f"Only {happened} of {planned} faults really happened."
    for name, calls in found.calls.items():
        if not any(call.established for call in calls):
            yield f"No call of {name} was ever established."
        acknowledged = [1 for *_, done, _refused in found.book.allocations.get(name, ()) if done]
        if not acknowledged:
            yield f"No allocation to {name} was ever acknowledged."


def _calls(found: Records) -> Iterator[str]:
    for name, calls in found.calls.items():
        cut = [c for c in calls if c.established and (c.cut or c.bye_answer != 200)]
        for call in cut[:_TOLD]:
            yield (
                f"Law 2: call {call.call_id} of {name}, established at {call.established:.3f}, "
                + (
                    "was ended by the far side."
                    if call.cut
                    else f"had its BYE (at {call.bye:.3f}) answered by {call.bye_answer or 'none'}."
                )
            )
        if len(cut) > _TOLD:
            yield f"Law 2: {len(cut) - _TOLD} more calls of {name}."
        # A call that got no final answer may have been admitted: it counts as used (law 3).
        unknown = sum(1 for c in calls if not c.answer)
        if found.counted[name] > unknown and not _uncertain(found.journals.get(name)):
            yield (
                f"{name} counts {found.counted[name]} calls at the end; none is up, and"
                f" {unknown} had no final answer."
            )


def _uncertain(journal: Path | None) -> bool:
    """Tell whether a gate was started anew while nobody counted: its calls count as used."""
    return journal is not None and "gate_uncertain" in journal.read_text(errors="replace")


def _nothing_lost(found: Records) -> Iterator[str]:
    if found.tenants_missing:
        yield f"Acknowledged and lost: tenants {', '.join(found.tenants_missing[:_TOLD])}."
    for name, has in found.allocations.items():
        may = possible(found.book, name)
        if has not in may:
            yield f"Acknowledged and lost: {name} has {has}, it can only be one of {sorted(may)}."


def _converged(found: Records) -> Iterator[str]:
    if found.converged is None:
        for name, has in found.allocations.items():
            if found.actual.get(name) != has:
                yield f"{name} enforces {found.actual.get(name)} and is allocated {has}."
        yield "The fleet did not converge in time after the last fault."
