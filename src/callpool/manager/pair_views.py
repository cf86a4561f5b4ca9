"""What the units of an HA pair say of it: which is active, synchronised, running which licenses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.hitless import OPEN, PRECONDITIONS, Role, Unit
from callpool.licensing.hitless_progress import progress
from callpool.manager.hitless_store import Found
from callpool.manager.store.tx import Row

#: The longest text of a device that is kept.
_MOST: int = 200


class PairSeen(msgspec.Struct, frozen=True, kw_only=True):
    """`wire.messages.PairReport` as it was kept; a unit that told none has no role."""

    peer: str = ""
    role: str = ""
    synchronised: bool = False
    peer_age: float = -1.0
    switch_done: int = 0
    switch_result: str = ""

    @property
    def known_role(self) -> Role:
        """The role, UNKNOWN for a word that is none."""
        return Role(self.role) if self.role in set(Role) else Role.UNKNOWN

    @property
    def serves(self) -> bool:
        """Tell whether the unit says that it owns the service address."""
        return self.known_role in (Role.ACTIVE, Role.ALONE)


def report_of(unit: Row) -> dict[str, Any]:
    """Return a unit's last report, empty where it has sent none."""
    return msgspec.json.decode(unit["report"]) if unit["report"] else {}


def pair_of(report: Mapping[str, Any]) -> PairSeen:
    """Return what a unit's report says of its pair."""
    told = report.get("pair")
    return msgspec.convert(told, PairSeen) if told else PairSeen()


def active_of(units: Sequence[Row]) -> str | None:
    """Return the serial number of the one unit of a pair that serves, None where that is open.

    A unit that fell silent while it was active is believed no longer than until the other one
    says that it is alone; of two that are alone, or active beside each other, neither is.
    """
    pairs = [pair_of(report_of(u)) for u in units]
    serving = [(u, p) for u, p in zip(units, pairs, strict=True) if p.serves]
    if len(serving) == 2 and serving[0][1].role != serving[1][1].role:
        serving = [max(serving, key=lambda found: found[0]["last_contact"] or 0.0)]
    return serving[0][0]["serial"] if len(serving) == 1 else None


def pair_shown(units: Sequence[Row], run: Found | None) -> dict[str, Any] | None:
    """Return an HA pair as its two units (rows of `unit`) last told it, None for a single unit.

    `active` is as `active_of` tells it, `synchronised` what both say; `trouble` what keeps the
    pair from a hitless installation (a row of `hitless.PRECONDITIONS`), None for nothing; `equal`
    whether both enforce the same.
    """
    if len(units) != 2:
        return None
    reports = [report_of(u) for u in units]
    pairs = [pair_of(r) for r in reports]
    runs = [
        {k: r["actual"].get(k, 0) for k in POOL_TYPES} if r.get("actual") else None for r in reports
    ]
    return {
        "active": active_of(units),
        "synchronised": all(p.synchronised for p in pairs),
        "trouble": _trouble([u["serial"] for u in units], pairs),
        "equal": runs[0] == runs[1] if None not in runs else None,
        "units": [
            {
                "serial": unit["serial"],
                "role": pair.known_role.value,
                "peer": pair.peer[:_MOST],
                "synchronised": pair.synchronised,
                "peer_age": pair.peer_age,
                "seen_at": unit["last_contact"],
                "runs": mine,
                "switch_result": pair.switch_result[:_MOST],
            }
            for unit, pair, mine in zip(units, pairs, runs, strict=True)
        ],
        "run": None if run is None else run_shown(run),
    }


def _trouble(serials: Sequence[str], pairs: Sequence[PairSeen]) -> dict[str, str] | None:
    units = [
        Unit(serial=serial, peer=p.peer, role=p.known_role, synchronised=p.synchronised)
        for serial, p in zip(serials, pairs, strict=True)
    ]
    for code, holds, words in PRECONDITIONS:
        for unit, other in (units, units[::-1]):
            if not holds(unit, other):
                peer = unit.peer[:_MOST] or "nobody"
                said = words.format(unit=unit.serial, other=other.serial, peer=peer)
                return {"code": code, "sentence": said}
    return None


def run_shown(found: Found) -> dict[str, Any]:
    """Return a hitless run for operators: see `shapes.hitless.Run`."""
    run, kept = found.kept.run, found.kept
    return {
        "id": found.run_id,
        "state": run.state.value,
        "back": run.back,
        "who": found.who,
        "began_at": found.began_at,
        "ended_at": found.ended_at,
        "first": run.first,
        "other": run.other,
        "before": kept.before,
        "wanted": kept.wanted,
        "waits_for": None if run.wait is None else msgspec.to_builtins(run.wait),
        "deadline": _deadline(found),
        "may": _may(found),
        "steps": [
            {
                "number": p.step.number,
                "kind": p.step.kind.value,
                "words": p.step.words,
                "unit": p.unit,
                "status": p.status,
                "ordered_at": p.ordered_at,
                "done_at": p.done_at,
                "seen": p.seen,
            }
            for p in progress(run)
        ],
        "history": [msgspec.to_builtins(line) for line in run.lines],
    }


def _deadline(found: Found) -> float | None:
    run = found.kept.run
    if run.state.value != "running":
        return None
    return run.order.until if run.order else run.deadline


def _may(found: Found) -> list[str]:
    """Return what an operator can do with a run as it stands."""
    run = found.kept.run
    if run.state not in OPEN:
        return []
    if run.state.value == "running":
        return ["stop"] if run.back else ["stop", "roll_back"]
    return ["resume", "close"] if run.back else ["resume", "roll_back", "close"]
