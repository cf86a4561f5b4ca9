"""Smart licensing: every duration, and the rhythm of retries. Seconds throughout.

Sources: seed `000` (S), public material (P), design.md (D); facts/smart-licensing.md 3.2.
"""

from __future__ import annotations

from typing import Final

from callpool.licensing.smart import State

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DAY: Final = 86400.0

#: The evaluation period: seconds left at first, counted only while in use (P, D).
EVALUATION: Final = 90 * DAY
#: How often it is told again that the evaluation has ended, until registered or off (P).
EXPIRED_REMINDER: Final = HOUR
#: The agent asks for a fresh authorization this long after the last (S).
AUTHORIZATION_RENEWAL: Final = 30 * DAY
#: An authorization ends this long after the last success (S).
AUTHORIZATION_VALID: Final = 90 * DAY
#: An ID certificate is good for a year (S), renewed in the middle of it (P).
CERTIFICATE_VALID: Final = 365 * DAY
CERTIFICATE_RENEWAL: Final = 180 * DAY
#: A renewal of the ID certificate that failed is tried again (D).
CERTIFICATE_RETRY: Final = 24 * HOUR
#: Out of compliance by the cloud's own word: ask again (P, measured).
RECHECK: Final = 12 * HOUR
#: Retries at first, how long 'at first' lasts, and after that (S).
RETRY: Final = 15 * MINUTE
RETRY_BURST: Final = 2 * HOUR
RETRY_LATER: Final = 4 * HOUR
#: A clock outside the ID certificate's range is forgiven so long (P).
CLOCK_GRACE: Final = HOUR
#: Warnings that the ID certificate ends while its renewal fails: when so many seconds are left.
#: The days of the evaluation's warnings; no source gives a schedule (D).
CERTIFICATE_WARNINGS: Final = tuple(days * DAY for days in (60, 30, 21, 14, 7, 6, 5, 4, 3, 2, 1))
#: Clocks that differ by less are called equal.
CLOCK_EQUAL: Final = MINUTE
#: Signed refusals in a row that exceed the re-entitlement limit (D).
REFUSAL_LIMIT: Final = 3
#: A contact without an answer for so long counts as failed.
ANSWER_LIMIT: Final = 120.0
#: The least between two contacts of one kind, whatever dates an answer names.
SHORTEST: Final = MINUTE
#: Seconds that are less than the noise of a time since 1970.
HAIR: Final = 1e-3
#: The most evaluation that is used up between two writes: charged after a power cut (D).
EVALUATION_RESERVE: Final = 10 * MINUTE

#: Warnings when so many seconds of evaluation are left: 60, 30, 21, 14, 7 days, then daily,
#: hourly on the last (P, D). Falling.
WARNINGS: Final = (
    *(days * DAY for days in (60, 30, 21, 14, 7, 6, 5, 4, 3, 2, 1)),
    *(hours * HOUR for hours in range(23, 0, -1)),
)


def retry_wait(state: State, failing_for: float) -> float:
    """Return the seconds until the next try, `failing_for` seconds after the first failure.

    Every 15 minutes for 2 hours, then every 4 hours (S); AuthorizationExpired: 4 hours (S).
    """
    if state is State.AUTHORIZATION_EXPIRED or failing_for >= RETRY_BURST - 1e-3:
        return RETRY_LATER
    return RETRY


def next_warning(warned: float) -> float | None:
    """Return at how many seconds left to warn next, after the warning at `warned` seconds."""
    return next((at for at in WARNINGS if at < warned), None)


def next_certificate_warning(warned: float) -> float | None:
    """Return at how many seconds left to warn next of the certificate's end; as above."""
    return next((at for at in CERTIFICATE_WARNINGS if at < warned), None)
