from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from callpool.licensing.instant import SKEW_REPORTED, HighWaterMark, Instant

START = Instant(wall=1_800_000_000.0, boottime=100.0, boot_id="a")
seconds = st.floats(0.0, 1e8, allow_nan=False)
walls = st.floats(0.0, 4e9, allow_nan=False)


def at(base: Instant, *, later: float = 0.0, wall: float | None = None) -> Instant:
    return Instant(
        wall=base.wall + later if wall is None else wall,
        boottime=base.boottime + later,
        boot_id=base.boot_id,
    )


@given(st.lists(st.tuples(st.floats(0.0, 1e6), walls), max_size=20))
def test_while_a_boot_lasts_only_elapsed_time_moves_trusted_time(
    readings: list[tuple[float, float]],
) -> None:
    mark = HighWaterMark.first(START).signed(5000.0, START)
    now, elapsed = START, 0.0
    for step, wall in readings:
        elapsed += step
        now = at(now, later=step, wall=wall)
        mark = mark.advance(now)
        assert abs(mark.time(now) - (5000.0 + elapsed)) < 1e-3
        assert not mark.behind


@given(seconds, walls)
def test_a_clock_set_back_across_a_boot_buys_no_time(lived: float, wall: float) -> None:
    mark = HighWaterMark.first(START).signed(2e9, START).advance(at(START, later=lived))
    reached = mark.time(at(START, later=lived))
    boot = Instant(wall=wall, boottime=1.0, boot_id="b")
    after = mark.advance(boot)
    assert after.time(boot) >= reached
    assert after.behind == (wall < reached - SKEW_REPORTED)


def test_a_boot_that_is_behind_stays_so_until_signed_time_arrives() -> None:
    mark = HighWaterMark.first(START).signed(2e9, START)
    boot = Instant(wall=1e9, boottime=1.0, boot_id="b")
    mark = mark.advance(boot)
    assert mark.behind
    corrected = at(boot, later=60.0, wall=2e9 + 60.0)
    assert mark.advance(corrected).behind, "a wall clock set right is no signed time"
    assert not mark.advance(corrected).signed(2e9 + 60.0, corrected).behind


def test_a_wall_clock_ahead_at_a_boot_is_believed_without_raising_the_mark() -> None:
    mark = HighWaterMark.first(START).signed(2e9, START)
    glitch = Instant(wall=3e9, boottime=1.0, boot_id="b")
    led = mark.advance(glitch)
    assert led.time(glitch) == 3e9
    assert led.mark == 2e9
    # The next boot, with the right time, is not behind: the glitch poisoned nothing.
    good = Instant(wall=2e9 + 500, boottime=1.0, boot_id="c")
    assert not led.advance(good).behind
    assert led.advance(good).time(good) == 2e9 + 500


def test_signed_time_may_lower_the_mark() -> None:
    mark = HighWaterMark.first(START).signed(3e9, START)
    later = at(START, later=5.0)
    lowered = mark.advance(later).signed(2e9, later)
    assert lowered.time(later) == 2e9
    assert lowered.wall_of(2e9 + 30, later) == later.wall + 30


def test_boottime_that_runs_backwards_moves_nothing() -> None:
    mark = HighWaterMark.first(START).signed(2e9, START)
    assert mark.advance(at(START, later=-50.0)).time(START) == 2e9
