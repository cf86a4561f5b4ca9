"""In which order several workers take the tests: what lasts first, what is short last.

pytest-xdist gives each worker a run of neighbouring tests, all of about one number, and who is
done takes from who has most left (`--dist worksteal`). The unit layer has most of the tests and
little of the time. So each run is made to begin with its share of the labs, and to end with unit
tests that anybody can take over: no worker is alone with a long test when the others are done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

T = TypeVar("T")

#: What one test lasts, roughly and in relation to the others, by layer.
COST: Final = {"acceptance": 12, "integration": 2, "unit": 0}


def dealt(modules: Iterable[tuple[str, list[T]]], workers: int) -> list[T]:
    """Return all tests of `modules` (layer, tests) in an order that is fair to `workers`.

    Tests of a module stay together, as they share what is costly to set up, but for those of the
    unit layer: they fill each worker's run up to its number. Modules keep their order otherwise.
    """
    found = list(modules)
    long = [m for m in found if COST.get(m[0], 1)]
    short = [test for layer, tests in found if not COST.get(layer, 1) for test in tests]
    hands: list[list[T]] = [[] for _ in range(workers)]
    load = [0] * workers
    for layer, tests in sorted(long, key=lambda m: -COST.get(m[0], 1)):
        worker = load.index(min(load))
        hands[worker] += tests
        load[worker] += COST.get(layer, 1) * len(tests)
    order: list[T] = []
    left = len(short) + sum(map(len, hands))
    for worker, hand in enumerate(hands):
        # The number that xdist gives to this one.
        room = left // (workers - worker)
        fill = max(0, room - len(hand))
        order += hand + short[:fill]
        short = short[fill:]
        left -= max(room, len(hand))
    return order + short
