"""`Usage`: what the gate counts, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counts of one gate. All but the totals are counts at this moment."""

    #: Sessions that count against the license, the uncertain ones included.
    sessions: int = 0
    #: Registered far-end users (addresses of record).
    users: int = 0
    #: Emergency calls, which count against nothing.
    emergency: int = 0
    #: Sessions counted as used because nobody can know: they were up while nobody counted.
    uncertain: int = 0
    #: The most sessions and users at once since the driver started.
    peak_sessions: int = 0
    peak_users: int = 0
    #: Calls admitted and ended since the gate's directory was made, emergency calls included.
    admitted: int = 0
    ended: int = 0
    #: Refusals per reason code since the gate's directory was made.
    refused: Mapping[str, int] = field(default_factory=dict)
    #: (true refusals, repeats) per license type, since the driver started.
    turned_away: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    #: Whether the core's book agrees with Kamailio up to the last event.
    in_sync: bool = False
    #: Whether Kamailio runs and its last heartbeat is younger than 3 seconds.
    alive: bool = False
