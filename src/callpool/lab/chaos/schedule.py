"""What goes wrong, and when: all of it from one seed, so that a run can be played again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: Seconds between the begins of two faults.
_GAP: Final = (1.0, 4.0)
#: Seconds that a device's clock jumps forward at once, and in all: more than an hour away from
#: the manager's it would be refused, as it should.
_JUMP: Final = (5.0, 900.0)
_JUMPS: Final = 1_500.0
#: Seconds that a wall clock is set wrong by at most, either way: longer than a lease, and with
#: all the jumps still less than an hour.
_WRONG: Final = 900.0
#: Seconds after which nobody waits for a link that hangs, or a disk that is full, to mend.
_LONGEST: Final = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    #: Seconds after the begin.
    at: float
    #: What, as in `KINDS`.
    kind: str
    #: To whom.
    target: str
    #: How long it lasts; of a clock that jumps, by how much; of one that is set, how wrong it is.
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind} {self.target} ({self.seconds:.1f} s)"


#: What the managers' common wall clock is called.
MANAGERS: Final = "managers"
#: Faults that are over at once.
AT_ONCE: Final = frozenset(("jump_clock", "set_clock"))

#: The faults, and what they happen to: managers, devices, links, wall clocks or the database.
KINDS: Final = {
    "kill_manager": "manager",
    "stop_manager": "manager",
    "kill_core": "device",
    "stop_core": "device",
    "kill_kamailio": "device",
    "stop_kamailio": "device",
    "cut_link": "device",
    "hang_links": "balancer",
    "fill_disk": "device",
    "jump_clock": "device",
    "set_clock": "wall",
    "kill_database": "database",
    "stop_database": "database",
}


def schedule(
    seed: int,
    seconds: float,
    *,
    managers: Sequence[str],
    devices: Sequence[str],
    database: bool,
) -> list[Fault]:
    """Return the faults of a run of `seconds`, in order of time; `database`: it can be hurt."""
    chance = random.Random(seed)  # noqa: S311  to play again, not to hide
    targets = {
        "manager": list(managers),
        "device": list(devices),
        "balancer": ["balancer"],
        "wall": [*devices, MANAGERS],
        "database": ["database"] if database else [],
    }
    kinds = [kind for kind, of in KINDS.items() if targets[of]]
    busy: dict[tuple[str, str], float] = {}
    jumped = dict.fromkeys(devices, 0.0)
    found: list[Fault] = []
    deck: list[str] = []
    at = chance.uniform(*_GAP)
    while at < seconds:
        # Each kind once, in any order, before any of them again.
        deck = deck or chance.sample(kinds, len(kinds))
        kind = deck.pop()
        target = chance.choice(targets[KINDS[kind]])
        lasts = chance.uniform(0.3, _LONGEST)
        # Two faults of one part one after another; those of different parts may meet.
        part = _part(kind)
        if busy.get((part, target), 0.0) <= at:
            if kind == "jump_clock":
                lasts = min(chance.uniform(*_JUMP), _JUMPS - jumped[target])
                jumped[target] += max(0.0, lasts)
            elif kind == "set_clock":
                lasts = chance.uniform(-_WRONG, _WRONG)
            else:
                busy[part, target] = at + lasts + 1.0
            if kind == "set_clock" or lasts > 0:
                found.append(Fault(at=at, kind=kind, target=target, seconds=lasts))
        at += chance.uniform(*_GAP)
    return found


def _part(kind: str) -> str:
    return kind.partition("_")[2]
