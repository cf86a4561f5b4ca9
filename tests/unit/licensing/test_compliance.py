from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.licensing.compliance import (
    DAY,
    EXPIRY_NOTICES,
    Entitled,
    check_configured,
    notice,
    weigh,
)
from callpool.licensing.errors import LicenseError

counts = st.integers(0, 2000).map(lambda n: n * 5)
orders = st.builds(
    lambda count, starts, length: Entitled(count=count, starts=starts, ends=starts + length),
    st.integers(1, 5000),
    st.integers(0, 1000),
    st.integers(1, 1000),
)


def test_two_proxies_at_60_each_of_100_are_out_of_compliance_and_90_are_not() -> None:
    bought = [Entitled(count=100, starts=0, ends=10)]
    assert not weigh(bought, [60, 60], 5).ok
    assert weigh(bought, [60, 60], 5).balance == -20
    assert weigh(bought, [60, 30], 5).ok
    assert weigh(bought, [60, 40], 5).ok
    assert not weigh(bought, [60, 30], 10).ok  # the order is out of date at its end


@given(st.lists(orders), st.lists(counts), st.integers(-10, 2100))
def test_only_what_is_purchased_and_in_date_is_weighed_against_the_sum(
    entitled: list[Entitled], configured: list[int], now: int
) -> None:
    found = weigh(entitled, configured, now)
    in_date = [e.count for e in entitled if e.starts <= now < e.ends]
    assert found.purchased == sum(in_date)
    assert found.in_use == sum(configured)
    assert found.ok == (sum(configured) <= sum(in_date))
    assert found.balance >= 0 if found.ok else found.balance < 0


@given(st.lists(orders), st.lists(counts), counts, st.integers(0, 2000))
def test_one_more_count_never_helps_and_one_more_order_never_hurts(
    entitled: list[Entitled], configured: list[int], more: int, now: int
) -> None:
    found = weigh(entitled, configured, now)
    if not found.ok:
        assert not weigh(entitled, [*configured, more], now).ok
    else:
        extra = Entitled(count=more + 1, starts=0, ends=5000)
        assert weigh([*entitled, extra], configured, now).ok


@pytest.mark.parametrize(
    ("count", "code"), [(7, "bad_count"), (-5, "bad_count"), (105, "above_maximum")]
)
def test_a_count_is_a_multiple_of_5_and_at_most_what_the_device_carries(
    count: int, code: str
) -> None:
    with pytest.raises(LicenseError) as caught:
        check_configured(count, 100)
    assert caught.value.code == code
    assert [check_configured(n, 100) for n in (0, 5, 100)] == [0, 5, 100]


@given(st.floats(-10, 400))
def test_the_smallest_notice_that_the_time_left_has_reached_is_due(days: float) -> None:
    due = notice(days * DAY, 0.0)
    if due is None:
        assert days > EXPIRY_NOTICES[0] or days <= 0
    else:
        assert days <= due
        assert not any(days <= smaller for smaller in EXPIRY_NOTICES if smaller < due)
