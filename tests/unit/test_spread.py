"""The order that several workers take the tests in."""

from __future__ import annotations

from spread import dealt

MODULES = [
    ("unit", [f"u{n}" for n in range(60)]),
    ("acceptance", ["a1", "a2"]),
    ("integration", ["i1", "i2", "i3"]),
    ("acceptance", ["b1", "b2"]),
    ("unit", [f"v{n}" for n in range(20)]),
    ("integration", ["j1", "j2", "j3"]),
]


def test_no_test_is_lost_or_run_twice_with_any_number_of_workers() -> None:
    everything = sorted(test for _, tests in MODULES for test in tests)
    for workers in range(1, 12):
        assert sorted(dealt(MODULES, workers)) == everything


def test_each_worker_begins_with_a_lab_and_ends_with_unit_tests() -> None:
    order = dealt(MODULES, 2)
    half = len(order) // 2
    assert (order[:2], order[half : half + 2]) == (["a1", "a2"], ["b1", "b2"])
    assert {test[0] for test in (*order[half - 30 : half], *order[-30:])} <= {"u", "v"}


def test_tests_that_share_a_module_stay_together() -> None:
    for workers in (2, 3, 4):
        order = dealt(MODULES, workers)
        first = order.index("i1")
        assert order[first : first + 3] == ["i1", "i2", "i3"]


def test_the_order_within_a_layer_is_the_one_that_was_drawn() -> None:
    drawn = dealt(MODULES, 1)
    assert drawn[:10] == ["a1", "a2", "b1", "b2", "i1", "i2", "i3", "j1", "j2", "j3"]
    assert drawn[10:] == [*MODULES[0][1], *MODULES[4][1]]
