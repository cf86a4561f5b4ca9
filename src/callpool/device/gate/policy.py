"""The policy as Kamailio reads it: one string, so that one RPC sets the whole of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from callpool.device.gate.settings import GateSettings, Refusal
from callpool.licensing.admission import REASONS, AdmissionPolicy, Step
from callpool.licensing.capacity import CPS, FAR_END_USERS, SBC_SESSIONS

#: Kamailio's ints have 32 bits, and its rate rule multiplies by 5000.
_MAX_CPS = 400_000
#: Ends further away than this (seconds) are cut to it: ticks and dates stay in 32 bits.
_FAR = 200_000_000
_LAST_DATE = 2**31 - 2


def words(reason: str) -> str:
    """Return the sentence of a reason code, safe inside a quoted header value."""
    text = REASONS.get(reason, reason.replace("_", " "))
    return "".join(c for c in text if c.isalnum() or c in " ,.-_()'")[:160]


def refusal_of(reason: str, refusals: Mapping[str, Refusal]) -> Refusal:
    """Return how a reason is answered: as it was set, else 503 without Retry-After."""
    return refusals.get(reason, Refusal())


def render(
    policy: AdmissionPolicy,
    settings: GateSettings,
    *,
    now: float,
    real: float,
    tick: int,
    real_seconds: Callable[[float], float] = lambda seconds: seconds,
) -> str:
    """Return the policy as the value of `cp_pol=>p`.

    `now` is the wall time of the clock that the policy's ends are written in (a lab's clock may
    be stepped away from the real one), `real` the wall time that Kamailio sees, both in seconds
    since 1970; `tick` is Kamailio's tick counter at this moment; `real_seconds` turns seconds
    of the policy's clock into real ones (a lab's clock may run fast). Every end is what is left
    of it, counted from `real` and from `tick`. Steps that have ended are left out.
    """
    return "/".join(
        _step(
            step,
            settings,
            left=None if step.until is None else real_seconds(step.until - now),
            real=real,
            tick=tick,
        )
        for step in policy.steps
        if step.until is None or step.until > now
    )


def _step(step: Step, settings: GateSettings, *, left: float | None, real: float, tick: int) -> str:
    second = millisecond = last_tick = 0
    if left is not None:
        left = min(left, _FAR, _LAST_DATE - real)
        second, millisecond = divmod(math.floor((real + left) * 1000), 1000)
        last_tick = tick + math.ceil(left)
    refusal = refusal_of(step.reason, settings.refusals)
    fields = (
        second,
        millisecond,
        last_tick,
        1 if step.admit else 2 if step.calls_only else 0,
        step.caps.get(SBC_SESSIONS, -1),
        step.caps.get(FAR_END_USERS, -1),
        min(step.caps.get(CPS, -1), _MAX_CPS),
        "" if step.admit else step.reason,
        refusal.code,
        refusal.retry_after or 0,
        "" if step.admit else words(step.reason),
    )
    return ";".join(str(f) for f in fields)
