"""The CPS policy `window`: the mean of five minutes against the licensed calls per second.

Facts 2.2 (P): calls are counted, a snapshot is taken every 30 seconds, the window is five
minutes, and the mean must stay below the license. What happens at or above it is not said
anywhere; design.md decides: every new call is refused until the mean is below again. Kamailio
refuses calls, not registrations, by a step that the core puts before the policy's own; that
step ends by itself, so a core that dies refuses nobody for ever.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from callpool.licensing.admission import CPS_LIMIT, AdmissionPolicy, Step
from callpool.licensing.capacity import CPS

#: How the limit of calls per second is judged.
INSTANT: Final = "instant"
WINDOW: Final = "window"
CPS_POLICIES: Final = (INSTANT, WINDOW)

#: Seconds between two snapshots, and of the window.
SNAPSHOT: Final = 30.0
SPAN: Final = 300.0


class CallWindow:
    """Snapshots of how many calls have been admitted; times are seconds of boottime."""

    def __init__(self) -> None:
        """Begin with an empty window."""
        self._snapshots: deque[tuple[float, int]] = deque()

    def look(self, now: float, admitted: int) -> None:
        """Take a snapshot of the total of `admitted` calls if one is due."""
        held = self._snapshots
        if held and (admitted < held[-1][1] or now < held[-1][0]):
            held.clear()  # the count began anew
        if held and now - held[-1][0] < SNAPSHOT:
            return
        held.append((now, admitted))
        while len(held) > 1 and held[1][0] <= now - SPAN:
            held.popleft()

    @property
    def mean(self) -> float:
        """Return calls a second over the window, by the last snapshot."""
        held = self._snapshots
        if len(held) < 2:
            return 0.0
        return (held[-1][1] - held[0][1]) / max(SPAN, held[-1][0] - held[0][0])


def windowed(policy: AdmissionPolicy, mean: float, now: float) -> AdmissionPolicy:
    """Return `policy` with its calls per second judged by `mean` at wall time `now`.

    The cap itself goes: what is refused is refused by the step in front.
    """
    limit = policy.at(now).caps.get(CPS)
    steps = tuple(
        Step(
            until=step.until,
            admit=step.admit,
            # 0 stays: without a license no call is admitted, whatever the mean.
            caps={k: v for k, v in step.caps.items() if k != CPS or v == 0},
            reason=step.reason,
            calls_only=step.calls_only,
        )
        for step in policy.steps
    )
    if not limit or mean < limit:
        return AdmissionPolicy(steps=steps)
    end = (now // SNAPSHOT + 2) * SNAPSHOT
    rest = tuple(s for s in steps if s.until is None or s.until > end)
    held = AdmissionPolicy(steps=steps).at(now).caps
    first = Step(until=end, admit=False, reason=CPS_LIMIT, caps=held, calls_only=True)
    return AdmissionPolicy(steps=(first, *rest))
