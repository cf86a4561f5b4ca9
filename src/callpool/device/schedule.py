"""When a device contacts its manager: the one place that decides, its reasons in order.

A fleet that was started, or lost its manager, at one moment must not stay in step for ever: each
wait is shifted by a random share (`shift`, 0 to 1, drawn by the caller), reports earlier, retries
later, and Retry-After is never undercut. Durations run on boottime. Values come with every reply;
before the first one the defaults of the design hold: a poll each 12 h, a retry each 15 min for 2 h
and each 4 h after that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

#: The shortest time in seconds between two contacts that nothing asked for.
SHORTEST: Final = 1.0
#: The share of a wait by which it is shifted at most.
SHIFT: Final = 0.1
#: Contacts that are put off for so many seconds are lost ones.
PATIENCE: Final = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """Seconds, as the manager's replies give them."""

    poll: float = 12 * 3600.0
    retry: float = 900.0
    retry_later: float = 4 * 3600.0
    retry_later_after: float = 2 * 3600.0
    #: A report of use is due this long after each good contact; 0 for never.
    usage: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When the next contact is due, and why; all times are boottime, in seconds."""

    cadence: Cadence = Cadence()
    #: When the next contact is due.
    due: float = 0.0
    #: Why it will be made.
    reason: str = "start"
    #: When contacts began to fail; None while they succeed.
    failing_since: float | None = None
    #: No contact before this time, whatever asks for one (Retry-After).
    not_before: float = 0.0

    def next_at(self) -> float:
        """Return when the next contact is to be made."""
        return max(self.due, self.not_before)

    def wanted(self, reason: str, now: float) -> Schedule:
        """Ask for a contact at once; one that is due already keeps its reason."""
        return self if self.due <= now else replace(self, due=min(self.due, now), reason=reason)

    def succeeded(self, now: float, cadence: Cadence, shift: float = 0.0) -> Schedule:
        """Note a good contact: the next is the poll, or the report of use before it.

        A report is a whole contact, so it stands for the poll. `shift` brings it forward.
        """
        wait, reason = cadence.poll, "poll"
        if 0.0 < cadence.usage < wait:
            wait, reason = cadence.usage, "usage"
        wait *= 1.0 - SHIFT * shift
        return Schedule(cadence=cadence, due=now + max(wait, SHORTEST), reason=reason)

    def failed(self, now: float, retry_after: float | None = None, shift: float = 0.0) -> Schedule:
        """Note a failed contact: retry soon, later seldom, never before Retry-After."""
        since = now if self.failing_since is None else self.failing_since
        c = self.cadence
        wait = c.retry if now - since < c.retry_later_after else c.retry_later
        late = 1.0 + SHIFT * shift
        return replace(
            self,
            due=now + max(wait * late, SHORTEST),
            reason="retry",
            failing_since=since,
            not_before=now + retry_after * late if retry_after else 0.0,
        )

    def deferred(self, now: float, retry_after: float, shift: float = 0.0) -> Schedule:
        """Note that the manager has no room now: come back when it says, for the same reason."""
        at = now + max(retry_after, SHORTEST) * (1.0 + SHIFT * shift)
        since = now if self.failing_since is None else self.failing_since
        return replace(self, due=at, not_before=at, failing_since=since)

    def lost(self, now: float) -> bool:
        """Tell whether contacts have been put off for so long that this is no contact."""
        return self.failing_since is not None and now - self.failing_since >= PATIENCE
