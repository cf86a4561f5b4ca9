"""`AdmissionPolicy`: what the gate does now, and what it does next by itself.

The policy is an ordered list of steps; Kamailio walks them alone, so a core that is dead
or frozen changes nothing about what is admitted (law 3, fail static).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from callpool.licensing.capacity import CPS, FAR_END_USERS, SBC_SESSIONS, check_count, check_type
from callpool.licensing.errors import LicenseError

#: No policy has reached the gate: everything is refused.
NO_POLICY: Final = "no_policy"
#: The cap of the type is 0: the device has no license of it.
NO_LICENSE: Final = "no_license"
#: As many sessions as licensed are up.
SESSION_LIMIT: Final = "session_limit"
#: As many far-end users as licensed are registered.
USER_LIMIT: Final = "user_limit"
#: More calls this second than licensed.
CPS_LIMIT: Final = "cps_limit"
#: Smart licensing is off.
UNCONFIGURED: Final = "unconfigured"
#: The evaluation is spent, and no authorization is held.
EVAL_EXPIRED: Final = "eval_expired"
#: More calls per second are configured than purchased (call policy `cusp-mib` only).
OUT_OF_COMPLIANCE: Final = "out_of_compliance"
#: The authorization has ended (call policies `cusp` and `cusp-mib` only).
AUTHORIZATION_EXPIRED: Final = "authorization_expired"
#: A restart of the SIP service waits for calls to end (`restart graceful`).
RESTARTING: Final = "restarting"

#: What each reason of a refusal says in `Warning: 399` and on pages.
REASONS: Final[Mapping[str, str]] = {
    NO_POLICY: "no license policy has been applied yet",
    NO_LICENSE: "no license of this type",
    SESSION_LIMIT: "all licensed SBC sessions are in use",
    USER_LIMIT: "all licensed far-end users are registered",
    CPS_LIMIT: "licensed calls per second exceeded",
    UNCONFIGURED: "smart licensing is not enabled",
    EVAL_EXPIRED: "the evaluation period has ended",
    OUT_OF_COMPLIANCE: "more calls per second are configured than purchased",
    AUTHORIZATION_EXPIRED: "the license authorization has expired",
    RESTARTING: "the SIP service is about to restart",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a policy: it holds from the end of the step before it."""

    #: When the step ends: wall time in seconds since 1970; None for the last step.
    until: float | None = None
    #: Whether new calls and new registrations are judged by the caps (True) or all refused.
    admit: bool = True
    #: The most of each type at once (sessions, users) or a second (cps); a type that is not
    #: named is not limited.
    caps: Mapping[str, int] = field(default_factory=dict)
    #: The stable reason code of a refusal when `admit` is False.
    reason: str = ""
    #: When `admit` is False: only calls are refused, registrations are judged by the caps.
    calls_only: bool = False


#: The most steps one policy may have: Kamailio holds them in one string.
MAX_STEPS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionPolicy:
    """An ordered list of steps, the last without end.

    Raises LicenseError `bad_policy` when built with no step, with ends that do not rise, with
    a last step that ends, with more than MAX_STEPS, or with a reason that is not a plain word.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        """Check the order of the steps and their values."""
        ends = [s.until for s in self.steps]
        if not ends or ends[-1] is not None or None in ends[:-1]:
            raise LicenseError("bad_policy", "A policy has steps, and only the last has no end.")
        known = [e for e in ends if e is not None]
        if known != sorted(set(known)) or len(ends) > MAX_STEPS:
            raise LicenseError("bad_policy", f"At most {MAX_STEPS} steps, their ends must rise.")
        for step in self.steps:
            if not step.admit and not step.reason.replace("_", "").isalnum():
                raise LicenseError("bad_policy", "A refusing step names its reason, a plain word.")
            for name, count in step.caps.items():
                check_count(count, check_type(name))

    def at(self, now: float) -> Step:
        """Return the step in force at wall time `now` (seconds since 1970)."""
        return next(s for s in self.steps if s.until is None or now < s.until)


def limited(*, sessions: int, users: int, cps: int | None = None) -> dict[str, int]:
    """Return caps for sessions and users, and for calls per second unless None."""
    caps = {SBC_SESSIONS: sessions, FAR_END_USERS: users}
    return caps if cps is None else {**caps, CPS: cps}
