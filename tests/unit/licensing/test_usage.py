"""What usage says: the rules for who can spare and who is short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.licensing.usage import (
    DAY,
    FITS,
    HOUR,
    MINUTE,
    SHORT,
    SPARE,
    UNKNOWN,
    Advice,
    Holding,
    Period,
    advise,
    percentile,
    rolled,
    trend,
    words,
)

START = 20_000 * DAY
NOW = START + 7 * DAY


def hour(n: int, peak: int, **more: int) -> Period:
    values = {"minutes": 60, "cap": 250, "admitted": 100, **more}
    return Period(at=START + n * HOUR, peak=peak, total=peak * 60.0, **values)


def week(*peaks: int, **more: int) -> list[Period]:
    """Seven days, each with one busy hour and 23 idle ones."""
    return [
        hour(d * 24 + h, peak if h == 10 else 1, **more)
        for d, peak in enumerate(peaks)
        for h in range(24)
    ]


def test_what_lies_above_the_highest_peak_and_its_headroom_can_be_spared() -> None:
    holding = Holding(allocated=250)
    found = advise(week(180, 170, 160, 150, 140, 130, 120), holding, now=NOW)
    assert (found.verdict, found.peak, found.spare, found.frees) == (SPARE, 180, 52, 52)
    assert found.trend == pytest.approx(-10.0)
    assert words(found, holding, days=7) == (
        "can spare 52 (peak 180 of 250 in 7 days, falling 10.0 a day)"
    )


def test_a_rising_trend_is_followed_a_week_ahead_before_anything_is_spared() -> None:
    found = advise(week(120, 130, 140, 150, 160, 170, 180), Holding(allocated=400), now=NOW)
    # 180 + 7 * 10, and a tenth on top
    assert found.spare == 400 - 275
    tight = advise(week(120, 130, 140, 150, 160, 170, 180), Holding(allocated=250), now=NOW)
    assert (tight.verdict, tight.spare) == (FITS, 0)


def test_the_local_key_is_used_first_and_a_pair_frees_twice() -> None:
    peaks = week(100, 100, 100, 100, 100, 100, 100)
    found = advise(peaks, Holding(allocated=100, local=50, cost=2), now=NOW)
    assert (found.spare, found.frees) == (40, 80)
    all_of_it = advise(peaks, Holding(allocated=30, local=200), now=NOW)
    assert all_of_it.spare == 30


def test_who_refused_is_short_and_needs_what_was_offered_and_its_headroom() -> None:
    hours = week(250, 250, 250, 20, 20, 20, 20)
    hours[10] = hour(10, 250, admitted=500, refused=25, repeated=9, worst=6)
    hours[34] = hour(34, 250, admitted=500, refused=12, worst=12)
    holding = Holding(allocated=250)
    found = advise(hours, holding, now=NOW)
    assert (found.verdict, found.refused, found.repeated, found.days_refused) == (SHORT, 37, 9, 2)
    # 250 * 525 / 500 = 262.5 and 250 + 12 = 262: the higher, and a tenth
    assert found.needs == 289
    assert (found.allocate, found.costs, found.spare) == (289, 39, 0)
    assert found.at_cap_since == START + 10 * HOUR
    assert words(found, holding, days=7, day="1 May") == (
        "short: 37 true refusals on 2 days; peak at the cap since 1 May;"
        " would need about 289: allocate 289, 39 more of the pool"
    )


def test_out_of_service_for_want_of_licenses_needs_what_was_turned_away() -> None:
    hours = [hour(0, 0, cap=0, admitted=0, refused=30, worst=10)]
    holding = Holding(allocated=0)
    found = advise(hours, holding, now=START + HOUR)
    assert (found.verdict, found.needs, found.allocate) == (SHORT, 11, 11)


def test_nothing_is_proposed_above_the_maximum_or_below_what_is_allocated_already() -> None:
    hours = [hour(0, 250, refused=100, worst=100)]
    capped = Holding(allocated=250, maximum=260)
    found = advise(hours, capped, now=START + HOUR)
    assert (found.needs, found.allocate, found.costs) == (550, 260, 10)
    assert "above its maximum of 260" in words(found, capped, days=1)
    raised = Holding(allocated=900)
    found = advise(hours, raised, now=START + HOUR)
    assert (found.allocate, found.costs) == (900, 0)
    assert words(found, raised, days=1).endswith("would need about 550, which it has now")


def test_repeats_alone_make_nobody_short() -> None:
    found = advise(week(100, *[100] * 6, repeated=50), Holding(allocated=250), now=NOW)
    assert found.verdict == SPARE


def test_too_little_or_too_old_data_says_nothing() -> None:
    assert advise([], Holding(allocated=9), now=NOW) == Advice(verdict=UNKNOWN)
    few = [hour(n, 1) for n in range(11)]
    assert advise(few, Holding(allocated=9), now=START + 11 * HOUR).verdict == UNKNOWN
    enough = [*few, hour(11, 1)]
    assert advise(enough, Holding(allocated=9), now=START + 12 * HOUR).verdict == SPARE
    assert advise(enough, Holding(allocated=9), now=START + 3 * DAY).verdict == UNKNOWN


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 3)), min_size=1, max_size=200),
    st.integers(0, 600), st.integers(0, 300), st.sampled_from([1, 2]),
)  # fmt: skip
def test_no_proposal_ever_goes_below_the_recent_peak_and_its_headroom(
    use: list[tuple[int, int]], allocated: int, local: int, cost: int
) -> None:
    hours = [hour(n, peak, refused=refused, worst=refused) for n, (peak, refused) in enumerate(use)]
    holding = Holding(allocated=allocated, local=local, cost=cost)
    found = advise(hours, holding, now=START + len(use) * HOUR)
    assert 0 <= found.spare <= allocated
    assert found.frees == cost * found.spare
    if found.spare:
        left = allocated - found.spare
        assert left + local >= 1.1 * max(peak for peak, _ in use) - 1e-6 or left == 0 <= local
        if left == 0:
            assert local >= 1.1 * max(peak for peak, _ in use) - 1e-6
        assert not any(refused for _, refused in use)
    assert found.allocate == 0 or found.allocate >= allocated


def test_one_odd_day_does_not_bend_the_trend() -> None:
    points = [(float(n), 100.0 - 5 * n) for n in range(8)]
    points[4] = (4.0, 900.0)
    assert trend(points) == pytest.approx(-5.0, abs=1.0)
    assert trend(points[:2]) is None
    assert trend([(1.0, 5.0)] * 4) is None


def test_the_day_that_is_not_over_is_no_point_of_the_trend() -> None:
    hours = week(100, 100, 100, 100, 100, 100, 5)
    assert advise(hours, Holding(allocated=100), now=NOW).trend == 0.0
    found = advise([h for h in hours if h.at < START + 3 * DAY], Holding(allocated=100), now=NOW)
    assert found.trend == 0.0
    found = advise(hours[: 2 * 24 + 12], Holding(allocated=100), now=START + 2 * DAY + 12 * HOUR)
    assert found.trend is None


@given(st.lists(st.integers(0, 3 * 1440), unique=True, min_size=1), st.randoms())
def test_periods_gathered_in_steps_are_those_gathered_at_once(numbers: list[int], rng) -> None:  # type: ignore[no-untyped-def]
    minutes = [
        Period(at=START + n * MINUTE, peak=n % 50, total=float(n % 7), cap=10 + n % 3,
               admitted=n % 4, refused=n % 5, repeated=1, worst=n % 5)
        for n in numbers
    ]  # fmt: skip
    shuffled = minutes[:]
    rng.shuffle(shuffled)
    days = rolled(minutes, DAY)
    assert rolled(rolled(shuffled, HOUR), DAY) == days
    assert sum(d.minutes for d in days) == len(numbers)
    assert sum(d.refused for d in days) == sum(m.refused for m in minutes)


def test_a_pair_is_one_device_whose_calls_are_on_one_unit_at_a_time() -> None:
    one, other = hour(0, 40, refused=2), hour(0, 3, refused=1)
    both = one.beside(other)
    assert (both.peak, both.refused, both.minutes, both.mean) == (40, 3, 60, 40.0)


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile([7], 0.95) == 7
    assert percentile([], 0.95) == 0
