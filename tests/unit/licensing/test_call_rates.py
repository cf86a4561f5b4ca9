"""Calls a second out of counters: now, the mean and the most of a minute."""

from __future__ import annotations

import pytest

from callpool.licensing.call_rates import CallRates, Rate, exceeded


def rates(*readings: tuple[float, int]) -> CallRates:
    made = CallRates()
    for at, count in readings:
        made.look(at, count)
    return made


def test_without_a_second_reading_nothing_is_known() -> None:
    assert rates().rate(0) == rates((0.0, 500)).rate(0) == Rate()


def test_now_is_the_last_second_whatever_the_pace_of_the_readings() -> None:
    half = rates(*((n / 2, n * 5) for n in range(20)))
    assert half.rate(0).now == 10.0
    slow = rates((0.0, 0), (4.0, 40))
    assert slow.rate(0).now == 10.0
    burst = rates((0.0, 0), (0.1, 10))
    assert burst.rate(0).now == 10.0, "ten calls in a tenth are no hundred a second"


def test_the_mean_and_the_most_are_of_the_last_minute_alone() -> None:
    made = rates((0.0, 0), (1.0, 120), *((float(n), 120) for n in range(2, 60)))
    part = made.whole
    assert (made.rate(0).mean, made.rate(0).most, made.rate(0).now) == (2.0, 120.0, 0.0)
    made.look(60.0, 120)
    assert (part, made.whole) == (False, True)
    for n in range(61, 63):
        made.look(float(n), 120)
    assert made.rate(0) == Rate(), "the burst is more than a minute ago"


def test_readings_that_were_held_up_are_spread_over_the_time_they_took() -> None:
    made = rates((0.0, 0), (120.0, 1200))
    assert made.rate(0).mean == 10.0


@pytest.mark.parametrize("again", [(5.0, 3), (1.0, 100)])
def test_counters_that_fall_or_a_clock_that_does_begin_anew(again: tuple[float, int]) -> None:
    made = rates((0.0, 0), (4.0, 80), again)
    assert made.rate(0) == Rate()


def test_each_count_is_told_apart() -> None:
    made = CallRates()
    for n in range(3):
        made.look(float(n), n * 10, n * 4)
    assert (made.rate(0).now, made.rate(1).now) == (10.0, 4.0)


@pytest.mark.parametrize(
    ("mean", "limit", "was", "whole", "told"),
    [
        (100.0, 100, False, True, False),  # at the limit is not above it
        (100.1, 100, False, True, True),
        (100.1, 100, False, False, True),  # enough for a minute's mean already
        (90.0, 100, True, True, True),  # still told of: no flapping
        (80.1, 100, True, True, True),
        (80.0, 100, True, True, False),
        (0.0, 100, True, False, True),  # after a restart nothing is known of the minute
        (90.0, 100, False, True, False),
        (5.0, 0, False, True, False),  # nothing licensed is told of otherwise
    ],
)
def test_more_calls_than_licensed_are_told_once_until_that_is_well_over(
    mean: float, limit: int, was: bool, whole: bool, told: bool
) -> None:
    assert exceeded(mean, limit, was=was, whole=whole) is told
