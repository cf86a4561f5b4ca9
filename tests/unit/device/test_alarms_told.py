"""What a device tells its manager of its alarm log, and when."""

from __future__ import annotations

import math
from pathlib import Path

from device_world import World

from callpool.device.alarm_book import AlarmBook
from callpool.device.alarm_feed import PACE, PER_CONTACT, AlarmFeed
from callpool.licensing.alarms import AlarmLog
from callpool.wire.messages import AlarmsMessage


def log_of(events: int, name: str = "log-1") -> AlarmLog:
    log = AlarmLog(log=name)
    for number in range(events):
        found = [] if number % 2 else [("contact_lost", f"turn {number}")]
        log, _ = log.observe(found, float(number))
    return log


def sent(message: AlarmsMessage | None) -> list[int]:
    assert message is not None
    return [e.sequence for e in message.events]


def test_nothing_is_told_where_no_log_is_kept() -> None:
    assert AlarmFeed().message(0.0) is None
    assert AlarmFeed().due(0.0) == math.inf


def test_events_are_told_once_the_manager_has_said_how_far_it_is() -> None:
    feed = AlarmFeed()
    feed.read = lambda: log_of(3)
    first = feed.message(0.0)
    assert first is not None
    assert (first.events, [e.sequence for e in first.active]) == ((), [3])
    assert feed.taken(0), "there is more to tell at once"
    assert sent(feed.message(1.0)) == [1, 2, 3]
    assert not feed.taken(3)
    assert sent(feed.message(2.0)) == []
    # A manager that was restored from a backup is behind again.
    assert not feed.taken(1)
    assert sent(feed.message(3.0)) == [2, 3]


def test_a_manager_that_takes_no_alarms_is_sent_none_and_never_hurried() -> None:
    feed = AlarmFeed()
    feed.read = lambda: log_of(3)
    for turn in range(3):
        assert sent(feed.message(float(turn))) == []
        assert not feed.taken(None)
        assert feed.due(float(turn)) == math.inf


def test_a_contact_carries_so_many_and_the_next_goes_on_while_the_manager_moves() -> None:
    feed = AlarmFeed()
    feed.read = lambda: log_of(250)
    feed.message(0.0)
    assert feed.taken(0)
    assert sent(feed.message(1.0)) == list(range(1, PER_CONTACT + 1))
    assert feed.taken(PER_CONTACT)
    assert not feed.taken(PER_CONTACT), "it does not move: the next contact will do"


def test_an_alarm_that_flaps_asks_for_a_contact_at_its_pace_only() -> None:
    feed, log = AlarmFeed(), log_of(2)
    feed.read = lambda: log
    feed.message(100.0)
    feed.taken(2)
    assert feed.due(100.0) == math.inf
    log, _ = log.observe([("contact_lost", "again")], 3.0)
    assert feed.due(101.0) == PACE - 1.0
    assert feed.due(100.0 + PACE) == 0.0
    feed.message(100.0 + PACE)
    assert feed.due(100.0 + PACE) == math.inf, "under way: the schedule repeats what fails"


async def test_a_new_alarm_is_told_soon_by_a_contact_of_its_own(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    await world.start()
    book = AlarmBook(world.layout.alarms, world.agent.core)
    await book.start()
    contacts = world.agent.contacts
    contacts.alarms.read = lambda: book.log
    world.manager.takes_alarms = True
    await world.agent.pull()
    await world.go(0.0)
    before = len(world.manager.requests)
    world.agent.core.fault("gate_down", "It is gone.")
    await book.look()
    assert world.agent.next_due() <= PACE
    await world.go(PACE)
    assert len(world.manager.requests) == before + 1
    told = world.manager.requests[-1]
    assert told.reason == "alarm"
    assert told.alarm_log is not None
    assert [e.codes for e in told.alarm_log.events] == [("gate_down",)]
    assert [e.codes for e in told.alarm_log.active] == [("gate_down",)]
    # The manager is lost: its own schedule decides, and no alarm hurries it.
    world.link.down = True
    await world.agent.pull()
    await world.go(0.0)
    await book.look()
    failed = len(world.link.attempts)
    for _ in range(20):
        world.agent.core.fault("gate_down", "Again.")
        await book.look()
        world.agent.core.clear("gate_down")
        await book.look()
        await world.go(PACE)
    assert len(world.link.attempts) == failed


async def test_the_log_has_a_name_that_outlives_a_restart_and_another_when_begun_anew(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "device")
    await world.start()
    core, file = world.agent.core, world.layout.alarms
    book = AlarmBook(file, core)
    await book.start()
    core.fault("gate_down", "It is gone.")
    await book.look()
    name = book.log.log
    assert name
    again = AlarmBook(file, core)
    await again.start()
    assert again.log.log == name
    assert again.log.sequence == 1
    file.write_text("{torn")
    anew = AlarmBook(file, core)
    await anew.start()
    assert anew.log.log not in ("", name)
    assert anew.log.sequence == 0
