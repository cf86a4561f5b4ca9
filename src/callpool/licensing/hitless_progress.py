"""How far each step of a hitless run has come, for people."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from callpool.licensing.hitless import OPEN, Run, State, Step


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One step as far as it has come."""

    step: Step
    #: The unit that it is about.
    unit: str
    #: to_do, waiting, ordered, done, not_needed (it was so already).
    status: str
    ordered_at: float | None = None
    done_at: float | None = None
    seen: str = ""


def progress(run: Run) -> tuple[Progress, ...]:
    """Return the steps with how far each has come; of a roll back its own way through them."""
    turned = max((i for i, line in enumerate(run.lines) if line.what == "rolling_back"), default=0)
    lines = run.lines[turned:]
    out: list[Progress] = []
    over = run.state not in OPEN
    last = max((line.step for line in lines if line.what == "done"), default=0)
    for step in run.steps:
        mine = [line for line in lines if line.step == step.number]
        ordered = [line for line in mine if line.what == "ordered"]
        done = [line for line in mine if line.what == "done"]
        unit = run.first if step.first else run.other
        order = run.order
        out_now = order is not None and (order.kind, order.unit) == (step.kind, unit)
        status = "ordered" if out_now else "done" if done else "to_do"
        if status == "to_do" and (over or step.number < last) and run.state is not State.CLOSED:
            status = "not_needed"
        out.append(
            Progress(
                step=step,
                unit=unit,
                status=status,
                ordered_at=ordered[-1].at if ordered else None,
                done_at=done[-1].at if done else None,
                seen=(done or ordered)[-1].seen if mine else "",
            )
        )
    if run.state is State.RUNNING and run.order is None:
        for i, found in enumerate(out):
            if found.status == "to_do":
                out[i] = replace(found, status="waiting")
                break
    return tuple(out)
