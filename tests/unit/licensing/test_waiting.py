"""What is taken for a request that waits: only what is unused, evenly, whole or not at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from callpool.licensing.waiting import Donor, lacking, plan, take

donors = st.lists(
    st.builds(
        Donor,
        name=st.uuids().map(str),
        unused=st.integers(0, 300),
        cost=st.sampled_from([1, 2]),
        live=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda d: d.name,
)


def test_the_tenant_of_500_gives_exactly_what_is_unused() -> None:
    even = [Donor(name="A", unused=25), Donor(name="B", unused=25)]
    assert plan(50, even) == {"A": 25, "B": 25}
    assert plan(51, even) is None
    assert plan(0, even) == {}


def test_who_has_most_unused_gives_first() -> None:
    two = [Donor(name="A", unused=10), Donor(name="B", unused=70)]
    assert take(50, two) == {"B": 50}
    assert take(70, two) == {"A": 5, "B": 65}
    assert take(71, two) == {"A": 6, "B": 65} or take(71, two) == {"A": 5, "B": 66}


def test_a_pair_gives_two_units_for_each() -> None:
    assert take(10, [Donor(name="H", unused=30, cost=2)]) == {"H": 5}
    assert take(9, [Donor(name="H", unused=30, cost=2)]) == {"H": 5}


def test_devices_that_must_restart_give_first_and_only_where_that_makes_it_whole() -> None:
    mixed = [Donor(name="A", unused=30), Donor(name="R", unused=40, live=False)]
    assert plan(30, mixed) == {"A": 30}
    assert plan(50, mixed) == {"R": 20}
    assert plan(71, mixed) is None
    # What is on its way counts; nobody else gives before it is there.
    assert plan(50, mixed, later=20) == {}
    assert plan(60, mixed, later=20) == {"R": 10}
    assert plan(91, mixed, later=20) is None


def test_what_is_lacking_counts_both_units_of_a_pair() -> None:
    assert lacking({"s": 50}, {"s": [0]}, {"s": 20}) == {"s": 30}
    assert lacking({"s": 50}, {"s": [50, 40]}, {"s": 0}) == {"s": 10}
    assert lacking({"s": 50}, {"s": [0, 0]}, {"s": 100}) == {}


@given(donors, st.integers(0, 2000))
def test_nobody_gives_what_it_uses_and_no_more_is_taken_than_is_missing(
    found: list[Donor], missing: int
) -> None:
    by_name = {d.name: d for d in found}
    taken = take(missing, found)
    assert all(0 < n <= by_name[name].unused for name, n in taken.items())
    units = sum(by_name[name].cost * n for name, n in taken.items())
    there = sum(d.cost * d.unused for d in found)
    assert units >= min(missing, there)
    assert units <= missing + 1
    # As even as can be: nobody is left with two more than somebody who gave.
    left = {d.name: d.unused - taken.get(d.name, 0) for d in found}
    if taken:
        assert max(left.values()) <= min(left[name] for name in taken) + 2


@given(donors, st.integers(1, 2000))
def test_nothing_is_taken_before_the_whole_can_come(found: list[Donor], missing: int) -> None:
    planned = plan(missing, found)
    there = sum(d.cost * d.unused for d in found)
    assert (planned is None) == (there < missing)
    if planned:
        kinds = {d.live for d in found if d.name in planned}
        assert len(kinds) == 1
