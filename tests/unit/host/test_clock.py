from __future__ import annotations

from pathlib import Path

import pytest

from callpool.host.clock import MAX_RATE, LabClock, SystemClock, clock_for
from callpool.licensing.errors import LicenseError


def test_the_lab_moves_wall_and_elapsed_time_together_in_every_process(tmp_path: Path) -> None:
    mover, reader = LabClock(tmp_path / "clock"), LabClock(tmp_path / "clock")
    real = SystemClock().now()
    mover.advance(86_400.0)
    now = reader.now()
    assert now.boot_id == real.boot_id
    assert 0 <= now.wall - real.wall - 86_400.0 < 5
    assert 0 <= now.boottime - real.boottime - 86_400.0 < 5


def test_a_lab_that_runs_fast_keeps_what_it_has_gained(tmp_path: Path) -> None:
    clock = LabClock(tmp_path / "clock")
    clock.set_rate(60.0)
    assert clock.real_seconds(60.0) == pytest.approx(1.0)
    clock.advance(100.0)
    ahead = clock.now().wall - SystemClock().now().wall
    clock.set_rate(1.0)
    assert clock.now().wall - SystemClock().now().wall >= ahead - 0.001
    assert clock.real_seconds(60.0) == 60.0


def test_a_wall_clock_that_is_set_wrong_leaves_elapsed_time_alone(tmp_path: Path) -> None:
    clock = LabClock(tmp_path / "clock")
    clock.advance(100.0)
    clock.set_wall(-3000.0)
    clock.set_rate(1.0)
    real, now = SystemClock().now(), LabClock(tmp_path / "clock").now()
    assert 0 <= now.wall - real.wall + 2900.0 < 5
    assert 0 <= now.boottime - real.boottime - 100.0 < 5
    with pytest.raises(LicenseError):
        clock.set_wall(float("nan"))


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")])
def test_the_lab_only_moves_forward(tmp_path: Path, step: float) -> None:
    with pytest.raises(LicenseError) as caught:
        LabClock(tmp_path / "clock").advance(step)
    assert caught.value.code == "bad_clock_step"


@pytest.mark.parametrize("rate", [0.0, 0.5, MAX_RATE + 1, float("nan")])
def test_the_lab_is_never_slower_than_real_time_nor_too_fast(tmp_path: Path, rate: float) -> None:
    with pytest.raises(LicenseError) as caught:
        LabClock(tmp_path / "clock").set_rate(rate)
    assert caught.value.code == "bad_clock_rate"


def test_without_a_lab_the_clock_is_the_systems(tmp_path: Path) -> None:
    assert isinstance(clock_for(""), SystemClock)
    assert isinstance(clock_for(str(tmp_path / "clock")), LabClock)
    assert SystemClock().real_seconds(5.0) == 5.0
