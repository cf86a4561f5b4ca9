"""Whether a device admits new calls, and if not, why: for its pages and its operator."""

from __future__ import annotations

from callpool.licensing.admission import NO_POLICY, REASONS, Step
from callpool.licensing.capacity import LICENSE_TYPES, SBC_SESSIONS


def out_of_service(step: Step | None) -> str:
    """Return why no new call is admitted under `step`, empty where calls are admitted.

    `step` is the one that the gate is confirmed to walk now, None before the first one. Calls
    in progress go on either way.
    """
    if step is None:
        return REASONS[NO_POLICY]
    if not step.admit:
        return REASONS.get(step.reason, step.reason)
    if step.caps.get(SBC_SESSIONS) == 0:
        return f"no {LICENSE_TYPES[SBC_SESSIONS].label} are licensed"
    return ""
