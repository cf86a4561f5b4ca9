"""Two units' keys compared: what differs twice is mended, and nothing that has ended comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from callpool.device.pair_keys import Comparison, Listing, Tombs, merged

KEYS = st.sets(st.sampled_from([f"k{i}" for i in range(8)]))


def listing(*keys: str, ended: tuple[str, ...] = (), reach: float = 1e9) -> Listing:
    return Listing(calls=dict.fromkeys(keys, (0, 7)), users={}, ended=ended, reach=reach)


def test_what_differs_once_is_only_under_way() -> None:
    compare = Comparison()
    tombs = Tombs(0.0)
    assert compare.compare(["a"], [], listing("b"), tombs).count == 0
    assert compare.open
    assert not compare.complete
    assert compare.compare(["a", "b"], [], listing("a", "b"), tombs).count == 0
    assert compare.complete


def test_a_key_that_only_the_other_unit_has_twice_is_added_with_its_age() -> None:
    compare, tombs = Comparison(), Tombs(0.0)
    compare.compare([], [], listing("b"), tombs)
    assert dict(compare.compare([], [], listing("b"), tombs).add) == {"b": (0, 7)}
    assert not compare.complete  # one of its keys was still missing


def test_a_key_that_ended_here_is_not_added_again() -> None:
    compare, tombs = Comparison(), Tombs(0.0)
    tombs.ended("b", 1.0)
    compare.compare([], [], listing("b"), tombs)
    assert compare.compare([], [], listing("b"), tombs).count == 0
    assert compare.complete  # the other one has to end it, and does
    tombs.admitted("b")  # the same key once more
    assert dict(compare.compare([], [], listing("b"), tombs).add) == {"b": (0, 7)}


def test_a_key_that_ended_there_is_ended_here_and_one_that_never_came_there_is_not() -> None:
    compare, tombs = Comparison(), Tombs(0.0)
    compare.compare(["a", "b"], [], listing(), tombs)
    assert set(compare.suspects) == {"a", "b"}
    assert compare.compare(["a", "b"], [], listing(ended=("a",)), tombs).end == ("a",)
    assert not compare.complete  # it counted one too many up to now
    compare.compare(["b"], [], listing(), tombs)
    assert compare.complete  # the other unit lacks b, and learns it


def test_a_user_is_told_where_the_other_unit_lacks_it_and_dropped_where_it_is_gone_there() -> None:
    compare, tombs = Comparison(), Tombs(0.0)
    compare.compare([], ["x@d", "y@d"], listing(), tombs)
    mending = compare.compare([], ["x@d", "y@d"], listing(ended=("u:y@d",)), tombs)
    assert (mending.tell, mending.drop) == (("x@d",), ("y@d",))


def test_a_new_start_of_either_unit_begins_anew() -> None:
    compare, tombs = Comparison(), Tombs(0.0)
    known = []
    for forget in (False, False, True, False):
        if forget:
            compare.forget()
        compare.compare(["a"], [], listing("a"), tombs)
        known.append(compare.complete)
    assert known == [False, True, False, True]


def test_the_ends_that_are_remembered_reach_back_to_the_first_that_is_forgotten() -> None:
    tombs = Tombs(0.0, most=2)
    for i in range(4):
        tombs.ended(f"k{i}", float(i))
    assert tombs.among(["k0", "k1", "k2", "k3"]) == ("k2", "k3")
    assert tombs.reach(10.0) == 9.0  # k1, at 1.0, was the last to be forgotten


def test_a_unit_that_starts_takes_what_the_other_has_and_drops_what_ended_there() -> None:
    there = listing("a", "n", ended=("b",), reach=100.0)
    start = merged(["a", "b", "c"], [], there, away=5.0)
    assert set(start.calls) == {"a", "n"}
    assert start.drop == ("b",)  # c was up here, and nobody has seen its end


def test_a_unit_that_was_away_for_longer_than_the_other_remembers_takes_its_list() -> None:
    there = listing("a", ended=("b",), reach=100.0)
    assert set(merged(["a", "b", "c"], [], there, away=200.0).drop) == {"b", "c"}


@given(KEYS, KEYS, KEYS, KEYS)
def test_two_units_that_mend_agree_on_every_key_that_has_not_ended(
    a: set[str], b: set[str], ended_a: set[str], ended_b: set[str]
) -> None:
    """Whatever was lost: both hold what either has, save what ended on either."""
    sides = [(set(a - ended_a), Tombs(0.0)), (set(b - ended_b), Tombs(0.0))]
    for (_, tombs), ended in zip(sides, (ended_a, ended_b), strict=True):
        for key in ended:
            tombs.ended(key, 1.0)
    wanted = (sides[0][0] | sides[1][0]) - ended_a - ended_b
    compares = [Comparison(), Comparison()]
    for _ in range(4):
        for i in (0, 1):
            (mine, tombs), (theirs, other) = sides[i], sides[1 - i]
            there = listing(*theirs, ended=other.among(compares[i].suspects))
            mending = compares[i].compare(mine, [], there, tombs)
            for key in mending.add:
                mine.add(key)
            for key in mending.end:
                mine.discard(key)
                tombs.ended(key, 2.0)
    assert sides[0][0] == sides[1][0] == wanted
    assert (compares[0].complete, compares[1].complete) == (True, True)
