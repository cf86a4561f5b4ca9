"""Whether a device admits new calls, and if not, why: for its pages and its operator."""

from __future__ import annotations

from collections.abc import Sequence

from callpool.licensing.admission import NO_POLICY, REASONS, Step
from callpool.licensing.capacity import CPS, LICENSE_TYPES, SBC_SESSIONS
from callpool.wire.messages import WaitingMessage


def waits_for(waiting: Sequence[WaitingMessage]) -> str:
    """Return what a device's request waits for at the manager, empty where none waits."""
    return "; ".join(
        f"{w.count} {LICENSE_TYPES[w.type].label} are asked for: {w.sentence}"
        for w in waiting
        if w.type in LICENSE_TYPES
    )


def out_of_service(
    step: Step | None, waiting: Sequence[WaitingMessage] = (), *, after_restart: int = 0
) -> str:
    """Return why no new call is admitted under `step`, empty where calls are admitted.

    `step` is the one that the gate is confirmed to walk now, None before the first one. Calls
    in progress go on either way. `waiting` is what the manager's last reply said,
    `after_restart` the sessions that a restart with save would bring.
    """
    if step is None:
        return REASONS[NO_POLICY]
    if not step.admit:
        return REASONS.get(step.reason, step.reason)
    if step.caps.get(CPS) == 0:
        return "no count of calls per second is configured"
    if step.caps.get(SBC_SESSIONS) == 0:
        why = f"no {LICENSE_TYPES[SBC_SESSIONS].label} are licensed"
        if after_restart:
            why += f"; {after_restart} have arrived and wait for a restart with save"
        return f"{why}; {waits_for(waiting)}" if waiting else why
    return ""
