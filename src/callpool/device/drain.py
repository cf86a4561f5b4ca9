"""A graceful restart: no new call is admitted until those in progress have ended, or a time is up.

It is one more step before the policy's own, so Kamailio walks it by itself: a core that dies
meanwhile leaves a gate that admits calls again at the step's end. Registrations and emergency calls
are judged as ever. Calls that are still up at the end survive the restart, as they do any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from callpool.device.errors import DeviceError
from callpool.licensing.admission import MAX_STEPS, RESTARTING, AdmissionPolicy, Step

#: The longest that calls may be waited for, in seconds.
LONGEST_WAIT: Final = 3600
#: Seconds between two looks at the calls that are left.
LOOK_EVERY: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """A restart that waits."""

    #: When it is carried out at the latest: wall time (seconds since 1970), and boottime.
    until: float
    boottime: float
    #: Whether it applies what the pool has sent, and who asked for it.
    save: bool
    who: str


def check_wait(seconds: object) -> int:
    """Return how long calls are waited for, in seconds; raises DeviceError `bad_wait`."""
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 1:
        raise DeviceError("bad_wait", "A graceful restart waits for a whole number of seconds.")
    if seconds > LONGEST_WAIT:
        raise DeviceError("bad_wait", f"Calls are waited for {LONGEST_WAIT} seconds at most.")
    return seconds


def drained(policy: AdmissionPolicy, drain: Drain, wall: float) -> AdmissionPolicy:
    """Return `policy` with the step before it in which no new call is admitted.

    A policy without room for one more step, or a wall clock that has jumped past the end, is
    returned as it is: the restart comes all the same.
    """
    after = tuple(s for s in policy.steps if s.until is None or s.until > drain.until)
    if drain.until <= wall or len(after) >= MAX_STEPS:
        return policy
    waiting = Step(
        until=drain.until,
        admit=False,
        reason=RESTARTING,
        calls_only=True,
        caps=policy.at(wall).caps,
    )
    return AdmissionPolicy(steps=(waiting, *after))
