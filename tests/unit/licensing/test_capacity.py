from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.licensing.capacity import (
    LICENSE_TYPES,
    MAX_COUNT,
    POOL_TYPES,
    Capacity,
    check_count,
    check_type,
)
from callpool.licensing.errors import LicenseError

counts = st.integers(0, MAX_COUNT // 4)
capacities = st.dictionaries(st.sampled_from(list(LICENSE_TYPES)), counts).map(Capacity.of)


@given(capacities, capacities)
def test_what_is_added_can_be_taken_away(a: Capacity, b: Capacity) -> None:
    assert (a + b) - b == a
    assert a <= a + b


@given(capacities, capacities)
def test_a_difference_is_never_below_zero_and_never_above_what_it_came_from(
    a: Capacity, b: Capacity
) -> None:
    assert a - b <= a
    assert all(n > 0 for _, n in a - b)
    assert (a <= b) == (not (a - b))


@given(capacities, capacities)
def test_min_and_max_are_bounds_per_type(a: Capacity, b: Capacity) -> None:
    assert a.min(b) <= a <= a.max(b)
    assert a.min(b) + a.max(b) == a + b


@given(capacities)
def test_a_zero_and_an_unnamed_type_are_the_same(a: Capacity) -> None:
    full = {name: a.get(name) for name in LICENSE_TYPES}
    assert Capacity.of(full) == a
    assert hash(Capacity.of(full)) == hash(a)
    assert Capacity.of(a.to_dict()) == a


@pytest.mark.parametrize("bad", [-1, MAX_COUNT + 1, 1.0, 0.5, True, "5", None, 10**30])
def test_a_count_that_is_no_count_is_refused(bad: object) -> None:
    with pytest.raises(LicenseError) as caught:
        check_count(bad)
    assert caught.value.code == "bad_count"
    with pytest.raises(LicenseError):
        Capacity.of({"sbc_sessions": bad})  # type: ignore[dict-item]


def test_only_the_pools_types_are_pooled() -> None:
    assert POOL_TYPES == ("sbc_sessions", "far_end_users")
    assert check_type("cps") == "cps"
    for name, pooled in (("cps", True), ("sessions", False)):
        with pytest.raises(LicenseError) as caught:
            check_type(name, pooled=pooled)
        assert caught.value.code == "unknown_license_type"
