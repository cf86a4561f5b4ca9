from __future__ import annotations

from pathlib import Path

import pytest
from device_world import DAY, FakeUsage, World, local_key

from callpool.device.alarm_book import AlarmBook
from callpool.device.errors import DeviceError
from callpool.licensing.alarm_table import POOL_APPLICATION, POOL_INFRASTRUCTURE, Severity
from callpool.licensing.lease import APPLY_LIVE
from callpool.wire.messages import MANAGED, NOT_LISTED, NOT_MANAGED


async def world_and_book(tmp_path: Path) -> tuple[World, AlarmBook]:
    world = World(tmp_path / "device")
    await world.start()
    book = AlarmBook(world.layout.alarms, world.agent.core)
    await book.start()
    await book.look()
    return world, book


def told(book: AlarmBook, after: int = 0) -> list[tuple[str, Severity, str]]:
    return [(e.oid, e.severity, e.code) for e in book.report(after=after).history]


async def test_each_cause_on_the_device_is_raised_changed_and_cleared(tmp_path: Path) -> None:
    world, book = await world_and_book(tmp_path)
    assert not book.report().active
    world.manager.allocate(10, 3)
    await world.agent.pull()
    await world.go(0.0)
    await book.look()
    assert told(book) == [(POOL_APPLICATION, Severity.MAJOR, "restart_pending")]
    await world.restart(save=True)
    await book.look()
    assert told(book, after=1) == [(POOL_APPLICATION, Severity.CLEARED, "restart_pending")]
    # The manager is lost, and the lease nears its end: one alarm that grows graver.
    world.link.down = True
    await world.agent.pull()
    await world.go(0.0)
    await book.look()
    await world.go(6.5 * DAY)
    await book.look()
    assert told(book, after=2) == [
        (POOL_INFRASTRUCTURE, Severity.MAJOR, "contact_lost"),
        (POOL_INFRASTRUCTURE, Severity.CRITICAL, "lease_warning"),
    ]
    world.link.down = False
    await world.agent.pull()
    await world.go(0.0)
    await book.look()
    assert told(book, after=4) == [(POOL_INFRASTRUCTURE, Severity.CLEARED, "lease_warning")]
    await world.crash()


async def test_a_restart_tells_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    world, book = await world_and_book(tmp_path)
    world.manager.allocate(10, 3)
    await world.agent.pull()
    await world.go(0.0)
    await book.look()
    await world.crash()
    world.clock.advance(30.0)
    await world.start()
    again = AlarmBook(world.layout.alarms, world.agent.core)
    await again.start()
    await again.look()
    assert told(again) == [(POOL_APPLICATION, Severity.MAJOR, "restart_pending")]
    assert [e.sequence for e in again.report().active] == [1]
    assert again.report().started > book.report().started, "by this a restart is known"
    await world.crash()


async def test_use_is_alarmed_with_hysteresis_and_everybody_sees_it(tmp_path: Path) -> None:
    world, book = await world_and_book(tmp_path)
    world.manager.allocate(95, 3)
    await world.agent.pull()
    await world.go(0.0)
    await world.restart(save=True)
    seen = []
    for sessions in (94, 95, 81, 80, 94):
        world.gate.used = FakeUsage(sessions=sessions)
        await book.look()
        seen.append("sessions_nearly_used" in world.alarms())
    assert seen == [False, True, True, False, False]
    assert [s for _, s, c in told(book) if c == "sessions_nearly_used"] == [
        Severity.WARNING,
        Severity.CLEARED,
    ]
    await world.crash()


async def test_a_disk_that_is_full_loses_no_alarm_and_a_damaged_file_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, book = await world_and_book(tmp_path)
    world.manager.allocate(10, 3)
    await world.agent.pull()
    await world.go(0.0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("callpool.device.alarm_book.write_durably", full)
        await book.look()
    assert len(book.report().active) == 1
    assert not world.layout.alarms.exists()
    await book.look()
    assert world.layout.alarms.exists(), "written as soon as it can be"
    assert world.layout.alarms.stat().st_mode & 0o777 == 0o600
    world.layout.alarms.write_bytes(b"{")
    anew = AlarmBook(world.layout.alarms, world.agent.core)
    await anew.start()
    await anew.look()
    assert told(anew) == [(POOL_APPLICATION, Severity.MAJOR, "restart_pending")]
    assert any(event == "alarms_unreadable" for event, _ in world.journal.lines)
    await world.crash()


async def test_an_ended_lease_stays_an_alarm_over_a_restart_until_the_manager_is_back(
    tmp_path: Path,
) -> None:
    world, book = await world_and_book(tmp_path)
    world.manager.allocate(10, 3)
    await world.agent.pull()
    await world.go(0.0)
    world.link.down = True
    await world.go(7.5 * DAY)
    await book.look()
    (active,) = book.report().active
    assert (active.severity, active.codes) == (
        Severity.CRITICAL,
        ("lease_ended", "contact_lost"),
    )
    assert world.row() == (0, 5, 5)
    await world.crash()
    await world.start()
    again = AlarmBook(world.layout.alarms, world.agent.core)
    await again.start()
    await again.look()
    assert again.report().active == (active,), "neither cleared nor told anew"
    world.link.down = False
    await world.agent.pull()
    await world.go(0.0)
    await again.look()
    # The grant is back, and waits for a restart.
    assert told(again, after=active.sequence) == [
        (POOL_APPLICATION, Severity.MAJOR, "restart_pending"),
        (POOL_INFRASTRUCTURE, Severity.CLEARED, "lease_ended"),
    ]
    await world.crash()


async def test_a_device_that_the_pool_lets_go_says_so_only_if_it_was_managed(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "device")
    world.manager.status = NOT_MANAGED
    await world.start()
    assert world.alarms() == {"not_managed"}, "it never was"
    world.manager.status = MANAGED
    await world.agent.pull()
    await world.go(0.0)
    assert not world.alarms()
    for status, code in ((NOT_MANAGED, "not_managed"), (NOT_LISTED, "not_listed")):
        world.manager.status = status
        await world.agent.pull()
        await world.go(0.0)
        assert world.alarms() == {code, "no_longer_managed"}
    await world.crash()
    await world.start()
    assert world.alarms() == {"not_listed", "no_longer_managed"}, "the flash remembers it"
    world.manager.status = MANAGED
    await world.agent.pull()
    await world.go(0.0)
    assert not world.alarms()
    await world.crash()


async def test_a_grant_that_overtakes_a_key_that_the_gate_has_not_confirmed_is_alarmed(
    tmp_path: Path,
) -> None:
    world, book = await world_and_book(tmp_path)
    world.manager.apply = APPLY_LIVE
    world.gate.broken = True
    await world.agent.core.install_key(local_key(2, sbc_sessions=8, far_end_users=2))
    assert world.alarms() == {"gate_down"}, "no grant has arrived since"
    world.manager.allocate(10, 3)
    await world.agent.pull()
    await world.agent.tick()
    await world.agent.settle()
    assert world.alarms() == {"gate_down", "key_upgrade_under_way"}
    await book.look()
    assert (POOL_APPLICATION, Severity.MINOR, "key_upgrade_under_way") in told(book)
    world.gate.broken = False
    await world.go(5.0)
    assert not world.alarms()
    await book.look()
    assert (POOL_APPLICATION, Severity.CLEARED, "key_upgrade_under_way") in told(book)
    assert world.row() == (10, 8, 18)
    # A key that changes nothing in force is installed at once, whatever the gate does.
    world.gate.broken = True
    await world.agent.core.install_key(local_key(3, sbc_sessions=8, far_end_users=2))
    world.manager.allocate(12, 3)
    await world.agent.pull()
    await world.agent.tick()
    await world.agent.settle()
    assert world.alarms() == {"gate_down"}
    world.gate.broken = False
    await world.go(5.0)
    await world.crash()


async def test_a_restart_that_was_asked_for_is_in_the_report(tmp_path: Path) -> None:
    world, book = await world_and_book(tmp_path)
    assert (book.report().restart_asked, book.report().restart_done) == (0.0, 0.0)
    await world.restart(save=True)
    asked = book.report().restart_asked
    assert book.report().restart_done == asked > 0.0
    world.clock.advance(60.0)
    world.gate.broken = True
    with pytest.raises(DeviceError):
        await world.agent.restart(save=True)
    report = book.report()
    assert report.restart_asked == asked + 60.0
    assert report.restart_done == asked, "asked for, and not done yet"
    world.gate.broken = False
    await world.go(5.0)
    assert book.report().restart_done > report.restart_asked
    await world.crash()
