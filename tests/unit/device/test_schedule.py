from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.device.alarms import alarm, span
from callpool.device.schedule import Cadence, Schedule
from callpool.licensing.alarm_table import DEFINITIONS


def test_before_the_first_reply_the_defaults_of_the_design_hold() -> None:
    cadence = Cadence()
    assert (cadence.poll, cadence.retry) == (12 * 3600, 15 * 60)
    assert (cadence.retry_later_after, cadence.retry_later) == (2 * 3600, 4 * 3600)


def test_a_contact_that_is_due_already_keeps_its_reason() -> None:
    schedule = Schedule(due=10.0).wanted("hint", 20.0)
    assert (schedule.due, schedule.reason) == (10.0, "start")
    assert Schedule(due=30.0).wanted("hint", 20.0).reason == "hint"


@given(st.floats(0, 1e6), st.floats(1, 1e5), st.floats(0, 1e6))
def test_nothing_is_asked_before_retry_after_is_over(now: float, wait: float, later: float) -> None:
    failed = Schedule().failed(now, wait)
    assert failed.wanted("hint", now + later).next_at() >= now + wait


@given(st.lists(st.floats(1.0, 20_000.0), min_size=1, max_size=30))
def test_the_slow_cadence_begins_two_hours_after_the_first_failure(gaps: list[float]) -> None:
    schedule, now, first = Schedule(), 0.0, None
    for gap in gaps:
        now += gap
        first = now if first is None else first
        schedule = schedule.failed(now)
        assert (
            schedule.due - now == (900.0 if now - first < 7200.0 else 14_400.0)
            or abs(schedule.due - now - (900.0 if now - first < 7200.0 else 14_400.0)) < 1e-6
        )
    assert schedule.succeeded(now, Cadence()).failing_since is None


@given(st.floats(0, 1e6), st.floats(1, 1e5), st.floats(0, 1), st.floats(0, 1e6))
def test_one_that_is_put_off_never_comes_sooner_nor_much_later_than_asked(
    now: float, wait: float, shift: float, later: float
) -> None:
    asked = Schedule(due=now, reason="usage").deferred(now, wait, shift)
    assert now + wait <= asked.wanted("hint", now + later).next_at() <= now + wait * 1.1 + 1e-3
    assert asked.reason == "usage"
    assert asked.lost(now + 900.1)
    assert not asked.lost(now + 800.0)


@given(st.floats(0, 1))
def test_waits_are_shifted_so_that_a_fleet_does_not_call_in_step(shift: float) -> None:
    good = Schedule().succeeded(0.0, Cadence(usage=300.0), shift)
    assert good.due == pytest.approx(300.0 * (1.0 - 0.1 * shift))
    assert Schedule().failed(0.0, None, shift).due == pytest.approx(900.0 * (1.0 + 0.1 * shift))
    assert Schedule().failed(0.0, 50.0, shift).not_before >= 50.0


def test_a_manager_that_gives_no_interval_is_not_hammered() -> None:
    zero = Cadence(poll=0.0, retry=0.0, retry_later=-5.0)
    assert Schedule().succeeded(100.0, zero).due == 101.0
    assert Schedule(cadence=zero).failed(100.0).due == 101.0


def test_every_alarm_has_a_sentence_and_a_severity() -> None:
    for code in DEFINITIONS:
        made = alarm(code, "5")
        assert not made.text[0].islower()
        assert made.severity in ("critical", "major", "minor", "warning")
    assert (span(90_000.0), span(3_700.0), span(59.0)) == ("1 d 1 h", "1 h 1 min", "0 min")
