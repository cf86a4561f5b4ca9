"""What is wrong with a device, how grave it is, and the one action that mends it.

The gravities of what stands in the database are derived with it (`store/derived.py`); those that
the clock brings are added when asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from callpool.licensing.alarm_table import DEFINITIONS
from callpool.manager.store.derived import ECHOES
from callpool.manager.store.tx import Row

#: Gravity from which something is critical, major.
CRITICAL: Final = 75
MAJOR: Final = 55


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A button: what it says, where it goes, and what it sends."""

    label: str
    #: The last part of the address below the device's, or a whole path.
    verb: str
    #: The permission that it takes.
    needs: str = "pool.change"
    #: Whether it leads to a form rather than doing something at once.
    leads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, for people."""

    title: str
    sentence: str
    action: Action | None = None


_RESTART: Final = Action(label="Restart with save", verb="restart")
_RESEND: Final = Action(label="Re-send", verb="resend")
_REPLACE: Final = Action(label="Replace…", verb="replace", leads=True)
_TOKEN: Final = Action(label="Make a token…", verb="token", leads=True)
_ALLOCATE: Final = Action(label="Allocate…", verb="allocation", leads=True)

PROBLEMS: Final[Mapping[str, Problem]] = {
    "locked": Problem(
        title="Locked",
        sentence="A copied or rolled-back machine has called by this serial number. Its lease is "
        "not renewed until somebody decides which machine goes on.",
        action=Action(label="Unlock…", verb="unlock", leads=True),
    ),
    "lease_ended": Problem(
        title="Lease ended",
        sentence="It has not called for a whole lease: it runs on its local key alone.",
        action=_REPLACE,
    ),
    "lease_ends": Problem(
        title="Lease ends soon",
        sentence="It cannot be reached; at the end of its lease it falls to its local key.",
        action=_REPLACE,
    ),
    "restart": Problem(
        title="Waits for a restart",
        sentence="It has received a change that a restart with save applies. Calls that are up "
        "go on.",
        action=_RESTART,
    ),
    "reset": Problem(
        title="Reset to factory defaults",
        sentence="It has dropped its identity; a registration token lets it enrol anew.",
        action=_TOKEN,
    ),
    "released": Problem(
        title="Unlocked, not back yet",
        sentence="It enrols anew by the token that unlocking gave.",
        action=Action(label="Unlock again…", verb="unlock", leads=True),
    ),
    "silent": Problem(
        title="Silent",
        sentence="It has missed its poll: see whether it runs and reaches the manager.",
        action=_RESEND,
    ),
    "short": Problem(
        title="Has less than allocated",
        sentence="The pool or its tenant has not enough in date for what is allocated to it.",
        action=_ALLOCATE,
    ),
    "new": Problem(
        title="Never enrolled",
        sentence="It is listed and has not called yet; a registration token lets it enrol.",
        action=_TOKEN,
    ),
    "restarting": Problem(
        title="Restart asked for",
        sentence="It restarts at its next contact.",
        action=Action(label="Re-send", verb="resend"),
    ),
    "unsent": Problem(
        title="Has not fetched its change",
        sentence="It has been told that there is something to fetch.",
        action=_RESEND,
    ),
    "unmanaged": Problem(
        title="Not managed",
        sentence="It is listed, and takes nothing from the pool.",
        action=Action(label="Manage", verb="manage"),
    ),
}

#: What mends an alarm that a device reports, where the manager can do it.
_ALARM_ACTIONS: Final[Mapping[str, Action]] = {
    "over_allocated": _ALLOCATE,
    "sessions_nearly_used": _ALLOCATE,
    "users_nearly_used": _ALLOCATE,
    "not_managed": Action(label="Manage", verb="manage"),
}


_PAIR_WAITS: Final = Problem(
    title="Waits for its installation",
    sentence="The pair has received a change. A hitless installation applies it on one unit after "
    "the other; no call is touched.",
    action=Action(label="Install…", verb="pair", leads=True),
)


def problem_for(code: str, units: int) -> Problem:
    """Return a problem's words; those for an HA pair where the device has two units."""
    return _PAIR_WAITS if code == "restart" and units == 2 else PROBLEMS[code]


def alarm_problem(codes: list[str]) -> Problem:
    """Return what a device reports as one problem: the gravest, and how many more."""
    known = [c for c in codes if c in DEFINITIONS]
    known.sort(key=lambda c: (c in ECHOES, -DEFINITIONS[c].severity))
    if not known:
        return Problem(title="Alarm", sentence=", ".join(codes))
    first = DEFINITIONS[known[0]]
    more = f" {len(known) - 1} more." if len(known) > 1 else ""
    action = next((_ALARM_ACTIONS[c] for c in known if c in _ALARM_ACTIONS), None)
    sentence = f"{alarm_title(known[0])}. {first.next_step}{more}"
    title = known[0].replace("_", " ").capitalize()
    return Problem(
        title=title, sentence=sentence.replace("..", ".").replace(" .", "."), action=action
    )


def alarm_title(code: str) -> str:
    """Return an alarm's short text; what the device adds is on its own page."""
    found = DEFINITIONS.get(code)
    if found is None:
        return code
    return found.short or found.text.replace(": {}", "").replace(" {}", " …")


def severity(gravity: int) -> str:
    """Return the word for a gravity."""
    if gravity >= CRITICAL:
        return "critical"
    if gravity >= MAJOR:
        return "major"
    return "minor" if gravity >= 30 else "note"


def codes_of(report: str | None) -> list[str]:
    """Return the alarm codes of a report."""
    found = msgspec.json.decode(report).get("alarms", []) if report else []
    return [str(code) for code in found]


def problem_of(row: Row) -> tuple[int, str, Problem]:
    """Return gravity, code and problem of a row of `queries.attention`."""
    gravity, _, code = row["worst"].partition(":")
    if code == "alarm":
        return int(gravity), code, alarm_problem(row["alarms"].split())
    return int(gravity), code, problem_for(code, len(row["serials"].split()))


#: Severities, the gravest first.
ORDER: Final = ("critical", "major", "minor", "warning", "indeterminate", "note")


def grave(code: str) -> str:
    """Return the word for an alarm's severity."""
    return DEFINITIONS[code].severity.name.lower() if code in DEFINITIONS else "note"


def next_step(code: str) -> str:
    """Return what is to be done about an alarm."""
    return DEFINITIONS[code].next_step if code in DEFINITIONS else ""
