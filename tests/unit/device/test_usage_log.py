"""What a device used, minute by minute, until the manager has taken it."""

from __future__ import annotations

from pathlib import Path

from device_world import NOW, FakeUsage, World

from callpool.device.schedule import Cadence, Schedule
from callpool.device.usage import MOST, PER_CONTACT, UsageLog
from callpool.licensing.capacity import Capacity
from callpool.wire.messages import ContactReply, UsageCount

CAPS = Capacity.of(sbc_sessions=10, far_end_users=3)
START = NOW - NOW % 3600


class Sampler:
    """A log with its clock."""

    def __init__(self, file: Path) -> None:
        self.log = UsageLog(file)
        self.at = START

    def sample(self, *, after: float = 10.0, high: tuple[int, int] = (0, 0), **use: object) -> None:
        self.at += after
        usage = FakeUsage(**use)  # type: ignore[arg-type]
        self.log.sample(usage, high, CAPS, time=self.at, boottime=self.at)

    def due(self, after: float = 60.0) -> dict[int, dict[str, UsageCount]]:
        return {int(m.at - START): m.types for m in self.log.due(self.at + after)}


def test_a_minute_holds_mean_and_peak_and_what_was_refused_in_it(tmp_path: Path) -> None:
    s = Sampler(tmp_path / "usage.json")
    s.sample(sessions=2, admitted=100, turned_away={"sbc_sessions": (3, 1)})
    s.sample(sessions=4, high=(9, 2), admitted=107, turned_away={"sbc_sessions": (5, 4)})
    s.sample(after=50, sessions=4, admitted=107, turned_away={"sbc_sessions": (5, 4)})
    found = s.due(0)
    assert set(found) == {0}, "a minute that is not over is not told"
    assert found[0]["sbc_sessions"] == UsageCount(9, 3.0, 10, 5, 4, 7)
    assert found[0]["far_end_users"] == UsageCount(2, 0.0, 3)
    assert s.due()[60]["sbc_sessions"].peak == 4


def test_a_gate_that_started_anew_counts_refusals_from_0(tmp_path: Path) -> None:
    s = Sampler(tmp_path / "usage.json")
    s.sample(turned_away={"sbc_sessions": (50, 8)})
    s.sample(after=60, turned_away={"sbc_sessions": (2, 1)})
    assert [m["sbc_sessions"].refused for m in s.due().values()] == [50, 2]


def test_what_was_not_taken_outlives_the_core_and_what_was_taken_is_gone(tmp_path: Path) -> None:
    s = Sampler(tmp_path / "usage.json")
    for n in range(1, 4):
        s.sample(after=60, sessions=n)
    s.log.save()
    s.log = UsageLog(tmp_path / "usage.json")
    assert set(s.due()) == {60, 120, 180}
    s.log.taken(int(START + 120))
    assert set(s.due()) == {180}


def test_a_file_that_cannot_be_read_is_no_history(tmp_path: Path) -> None:
    file = tmp_path / "usage.json"
    file.write_text('{"60": {"sbc_sess')
    assert UsageLog(file).due(1e12) == ()


def test_while_the_manager_is_away_old_minutes_are_folded_into_hours_and_all_is_bounded(
    tmp_path: Path,
) -> None:
    s = Sampler(tmp_path / "usage.json")
    refused = 0
    for n in range(45 * 1440):
        refused += n % 60 == 59
        usage = FakeUsage(sessions=n % 60, turned_away={"sbc_sessions": (refused, 0)})
        s.log.sample(usage, (0, 0), CAPS, time=START + n * 60, boottime=0.0)
    s.sample(after=45 * 86400, sessions=0, turned_away={"sbc_sessions": (refused, 0)})
    told = 0
    hours = 0
    while due := s.log.due(s.at + 60):
        assert len(due) <= PER_CONTACT
        for minute in due:
            told += 1
            if minute.at < s.at - 86400 - 3600:
                hours += 1
                assert minute.at % 3600 == 0
                assert minute.types["sbc_sessions"] == UsageCount(59, 29.5, 10, 1)
        s.log.taken(due[-1].at)
    assert told <= MOST
    assert hours >= 29 * 24


def test_a_report_of_use_stands_for_the_poll_and_fails_at_the_pace_of_every_contact() -> None:
    often = Schedule().succeeded(100.0, Cadence(usage=300.0))
    assert (often.due, often.reason) == (400.0, "usage")
    assert (often.failed(400.0).due, often.failed(400.0).reason) == (1300.0, "retry")
    never = Schedule().succeeded(100.0, Cadence())
    assert (never.due, never.reason) == (100.0 + 12 * 3600, "poll")
    polled = Schedule().succeeded(100.0, Cadence(usage=300.0, poll=5.0))
    assert (polled.due, polled.reason) == (105.0, "poll")


async def test_use_is_reported_every_five_minutes_and_dropped_once_the_reply_proves_it(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)

    def with_usage(nonce: str, **changes: object) -> ContactReply:
        return plain(nonce, **{"usage_seconds": 300.0, **changes})

    plain, world.manager.reply = world.manager.reply, with_usage  # type: ignore[method-assign]
    await world.start()
    world.gate.used = FakeUsage(sessions=3)
    for _ in range(18):
        await world.go(60.0)
    asked = [r for r in world.manager.requests if r.reason == "usage"]
    assert len(asked) == 3
    told = [m.at for r in world.manager.requests for m in r.usage]
    assert told == sorted(set(told)), "each minute is told once"
    assert len(told) >= 14
    notes = [d for event, d in world.journal.lines if event == "contact"]
    assert not any(d["cause"] == "usage" for d in notes)


async def test_a_lost_reply_has_the_same_minutes_told_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    world.gate.used = FakeUsage(sessions=3)
    await world.go(120.0)
    world.link.lose_replies = 1
    await world.agent.pull()
    await world.go(0.0)
    first = world.manager.requests[-1].usage
    assert first
    assert world.agent.contacts._usage.due(first[-1].at + 60) == first, (
        "kept: no reply has proved it"
    )
    await world.go(901.0)
    assert world.manager.envelopes[-3] == world.manager.envelopes[-2], "the same bytes again"
    assert world.manager.requests[-1].usage[0].at > first[-1].at
    assert world.agent.contacts._usage.due(first[-1].at + 60) == ()


async def test_without_trusted_time_nothing_is_counted_into_a_wrong_minute(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.go(120.0)
    await world.crash()
    world.link.down = True
    world.clock.boot(off=10.0, wall=NOW - 86400.0 * 400)
    await world.start()
    before = [m.at for m in world.agent.contacts._usage.due(1e12)]
    await world.go(300.0)
    assert [m.at for m in world.agent.contacts._usage.due(1e12)] == before


async def test_a_factory_reset_drops_what_the_next_manager_has_no_business_with(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.start()
    world.gate.used = FakeUsage(sessions=3)
    await world.go(600.0)
    assert world.layout.usage.exists()
    assert world.agent.contacts._usage.due(1e12)
    end = world.clock.now().wall
    await world.agent.factory_reset("S1")
    await world.go(0.0)
    assert all(m.at + 60 > end for m in world.agent.contacts._usage.due(1e12))
