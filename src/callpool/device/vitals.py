"""What the metrics tell beyond the status: the core's own health."""

from __future__ import annotations

import os

import msgspec

from callpool.device import alarms as al
from callpool.device.core import Core


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """The core's health now."""

    #: The core's process.
    pid: int
    #: The wall clock less trusted time, seconds.
    clock_skew: float
    #: Calls admitted and ended; they only rise while the gate's directory stands.
    admitted: int
    ended: int
    #: Whether Kamailio runs and its heartbeat is young, and agrees with the core's book.
    gate_alive: bool
    gate_in_sync: bool
    #: Whether the gate has confirmed the last policy that it was given.
    policy_confirmed: bool
    #: How often Kamailio died and was started again, and how often the faces were started, in
    #: this run of the core.
    gate_restarts: int
    faces_starts: int


def vitals_of(core: Core, *, gate_restarts: int, faces_starts: int) -> Vitals:
    """Return the vitals now."""
    now = core.now()
    usage = core.gate.usage()
    return Vitals(
        pid=os.getpid(),
        clock_skew=now.wall - core.time(now),
        admitted=usage.admitted,
        ended=usage.ended,
        gate_alive=usage.alive,
        gate_in_sync=usage.in_sync,
        policy_confirmed=core.step(now) is not None and al.GATE_DOWN not in core.faults,
        gate_restarts=gate_restarts,
        faces_starts=faces_starts,
    )
