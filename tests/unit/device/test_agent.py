from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from device_world import DAY, NOW, FakeUsage, WireManager, World, local_key

from callpool.device.errors import DeviceError, FlashError
from callpool.device.record import open_record
from callpool.licensing.errors import CallpoolError
from callpool.licensing.lease import APPLY_LIVE
from callpool.wire.envelope import REPLY, sign
from callpool.wire.keys import SigningKey
from callpool.wire.messages import NOT_LISTED, NOT_MANAGED, RestartOrder


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "device")
    await made.start()
    yield made
    await made.crash()


# -- enrolment


async def test_a_device_enrols_once_by_itself_and_then_contacts(world: World) -> None:
    assert not world.layout.token.exists(), "the token is gone once it is used"
    assert [r.reason for r in world.manager.requests] == ["start"]
    status = world.agent.status()
    assert (status.enrolled, status.server_status, status.product_key) == (
        True,
        "Connected",
        "PK-1",
    )
    assert world.row() == (0, 5, 5)


async def test_an_enrolment_whose_reply_is_lost_is_repeated_byte_for_byte(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    world.link.lose_replies = 1
    await world.start()
    assert world.alarms() == {"enrolment_failed"}
    await world.go(2.0)
    assert world.manager.envelopes[0] == world.manager.envelopes[1]
    assert world.agent.status().enrolled
    await world.crash()


@pytest.mark.parametrize("forgery", ["anchor", "serial"])
async def test_an_enrolment_with_a_manager_that_the_token_does_not_name_is_refused(
    tmp_path: Path, forgery: str
) -> None:
    world = World(tmp_path / "device")
    if forgery == "anchor":
        false = WireManager(world.clock)
        false.secret = world.manager.secret
        world.link.manager = false
    else:
        world.manager.serial = "S2"
    await world.start()
    assert not world.agent.status().enrolled
    assert "enrolment_failed" in world.alarms()
    assert world.sessions() == 5, "the local key counts meanwhile"
    await world.crash()


async def test_a_replayed_enrolment_is_refused(tmp_path: Path) -> None:
    first = World(tmp_path / "first")
    heard: list[str] = []

    def hear(reply: str) -> str:
        heard.append(reply)
        return reply

    first.link.altered = hear
    await first.start()
    await first.crash()
    second = World(tmp_path / "second")
    second.manager = first.manager
    second.link.manager = first.manager
    second.layout.lay_token(first.manager.token)
    second.link.altered = lambda _: heard[0]
    await second.start()
    assert not second.agent.status().enrolled
    assert "enrolment_failed" in second.alarms()
    await second.crash()


@pytest.mark.parametrize("killed", [False, True])
async def test_enrolling_anew_takes_a_new_key_and_keeps_what_is_held(
    world: World, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    await world.restart(save=True)
    old = world.layout.load_identity().public
    world.layout.lay_token(world.manager.token)
    if killed:
        # Killed once the new enrolment is on disk, before its key is put in place.
        kept = world.layout.next_identity

        def kill(*_: object) -> None:
            raise DeviceError("killed", "Killed.")

        monkeypatch.setattr(type(world.layout), "take_next_identity", kill)
        await world.agent.enrol()
        await world.agent.tick()
        await world.agent.settle()
        assert kept.exists()
        monkeypatch.undo()
        await world.crash()
        world.layout.token.unlink()
        await world.start()
    else:
        await world.agent.enrol()
        await world.go(0.0)
    new = world.layout.load_identity().public
    assert new != old
    assert world.manager.device == new
    assert not world.layout.token.exists()
    assert world.row() == (10, 5, 15)
    assert world.alarms() == set()


async def test_a_used_up_token_is_said_and_the_device_lives_on_its_key(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    world.manager.secret = "another"
    await world.start()
    assert world.alarms() == {"enrolment_failed"}
    assert world.layout.token.exists()
    before = len(world.link.attempts)
    await world.go(DAY)
    assert 90 < len(world.link.attempts) - before < 120, "asked ever less often, each 15 min"
    await world.crash()


# -- Remote, Local, Actual, pending


async def test_only_a_restart_with_save_applies_what_the_pool_sent(world: World) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    assert world.row() == (10, 5, 5)
    assert "restart_pending" in world.alarms()
    assert world.sessions() == 5
    await world.restart(save=False)
    assert world.row() == (10, 5, 5)
    assert world.sessions() == 5
    await world.restart(save=True)
    assert world.row() == (10, 5, 15)
    assert world.sessions() == 15
    assert world.alarms() == set()
    last = world.manager.requests[-1]
    assert (last.reason, last.remote_version, last.applied_version) == ("restart", 1, 1)


async def test_a_crash_or_a_power_cut_keeps_what_was_applied_and_the_change_pending(
    world: World,
) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    await world.restart(save=True)
    world.manager.allocate(20)
    await world.agent.pull()
    await world.go(0.0)
    for off in (0.0, 3600.0):
        await world.crash()
        if off:
            world.clock.boot(off=off)
        await world.start()
        assert world.row() == (20, 5, 15)
        assert world.sessions() == 15
        assert world.agent.status().pending


async def test_the_flash_is_written_with_what_is_applied_before_the_restart(world: World) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    await world.restart(save=True)
    told = [what for what, _ in world.gate.told]
    then = world.gate.flash_then[told.index("restart")]
    assert then is not None
    assert then.restarting
    assert open_record(then, world.settings).license.actual_at(NOW).get("sbc_sessions") == 15


async def test_a_core_killed_between_flash_and_restart_carries_the_restart_out_later(
    world: World,
) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    world.gate.broken = True
    with pytest.raises(DeviceError) as caught:
        await world.agent.restart(save=True)
    assert caught.value.code == "gate_down"
    await world.crash()
    world.gate.broken = False
    await world.start()
    assert world.gate.restarts == 1
    assert world.sessions() == 15
    await world.crash()
    await world.start()
    assert world.gate.restarts == 1, "once"


async def test_live_is_applied_in_place_and_confirmed_at_once(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    assert world.row() == (10, 5, 15)
    assert world.gate.restarts == 0
    assert [r.reason for r in world.manager.requests][-2:] == ["pull", "confirm"]
    assert world.manager.requests[-1].applied_version == 1


async def test_a_hint_makes_it_pull(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(3)
    world.agent.contacts._heard("message")
    await world.go(0.0)
    assert world.row() == (3, 5, 8)
    assert "hint" in [r.reason for r in world.manager.requests]


async def test_a_shrunken_share_is_confirmed_down_as_its_calls_end(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    world.gate.used = FakeUsage(sessions=15)
    world.manager.allocate(2)
    await world.agent.pull()
    await world.go(0.0)
    assert world.sessions() == 7
    assert world.manager.requests[-1].remote_in_use == {"sbc_sessions": 10}
    seen = len(world.manager.requests)
    for sessions in (15, 12, 12, 7, 3, 1):
        world.gate.used = FakeUsage(sessions=sessions)
        await world.go(1.0)
    reported = [r.remote_in_use.get("sbc_sessions", 0) for r in world.manager.requests[seen:]]
    assert reported == [7, 2], "told each time fewer are left, and no more once it fits"


async def test_calls_that_end_while_the_manager_is_lost_wait_for_the_retry(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    world.gate.used = FakeUsage(sessions=15)
    world.manager.allocate(2)
    await world.agent.pull()
    await world.go(0.0)
    world.link.down = True
    for sessions in (12, 9, 7):
        world.gate.used = FakeUsage(sessions=sessions)
        await world.go(1.0)
    attempts = len(world.link.attempts)
    await world.go(10.0)
    assert len(world.link.attempts) == attempts, "it asks again when a retry is due"
    world.link.down = False
    await world.go(1000.0)
    assert world.manager.requests[-1].remote_in_use == {"sbc_sessions": 2}


async def test_a_restart_wish_of_the_manager_is_carried_out_once(world: World) -> None:
    world.manager.allocate(10)
    world.manager.restart = RestartOrder(number=1, save=True)
    await world.agent.pull()
    await world.go(0.0)
    assert world.gate.restarts == 1
    assert world.sessions() == 15
    for _ in range(3):
        await world.agent.pull()
        await world.go(0.0)
    await world.crash()
    await world.start()
    assert world.gate.restarts == 1
    assert world.manager.requests[-1].restart_done == 1
    world.manager.allocate(20)
    world.manager.restart = RestartOrder(number=2, save=False)
    await world.agent.pull()
    await world.go(0.0)
    assert world.gate.restarts == 2
    assert world.row() == (20, 5, 15)


async def test_a_restart_wish_whose_window_is_over_is_not_carried_out(world: World) -> None:
    world.manager.restart = RestartOrder(number=1, save=True, until=NOW + 60.0)
    world.link.lose_replies = 1
    await world.agent.pull()
    await world.go(0.0)
    # The same request again, and the same reply: it comes a quarter of an hour late.
    await world.go(901.0)
    sent = world.manager.envelopes
    assert len(set(sent)) == len(sent) - 1
    assert world.gate.restarts == 0
    world.manager.restart = RestartOrder(number=1, save=True, until=NOW + 2000.0)
    await world.agent.pull()
    await world.go(0.0)
    assert world.gate.restarts == 1


async def test_above_the_maximum_it_is_clipped_and_alarmed(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(2000)
    await world.agent.pull()
    await world.go(0.0)
    assert world.row() == (2000, 5, 1000)
    assert "over_allocated" in world.alarms()


@pytest.mark.parametrize("status", [NOT_MANAGED, NOT_LISTED])
async def test_leaving_the_pool_takes_remote_at_once_and_what_is_applied_by_restart(
    world: World, status: str
) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    await world.restart(save=True)
    world.manager.status = status
    await world.agent.pull()
    await world.go(0.0)
    assert world.row() == (0, 5, 15)
    await world.crash()
    await world.start()
    assert world.row() == (0, 5, 15)
    await world.restart(save=True)
    assert world.row() == (0, 5, 5)
    assert world.manager.requests[-1].applied_version == 0


# -- lease and timers


async def test_an_order_that_ends_within_the_lease_steps_down_by_itself(world: World) -> None:
    world.manager.apply, world.manager.until = APPLY_LIVE, NOW + 3600
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    world.link.down = True
    policy = world.gate.policy
    assert policy.at(NOW + 3599).caps["sbc_sessions"] == 15
    assert policy.at(NOW + 3601).caps["sbc_sessions"] == 5
    await world.go(3700.0)
    assert world.row() == (0, 5, 5)


async def test_seven_days_after_the_last_contact_remote_is_discarded_and_it_restarts(
    world: World,
) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    await world.restart(save=True)
    world.link.down = True
    await world.go(6 * DAY + 60)
    assert world.row() == (10, 5, 15)
    assert {"contact_lost", "lease_warning"} <= world.alarms()
    assert world.gate.policy.at(NOW + 7 * DAY + 30).caps["sbc_sessions"] == 5, "by itself, too"
    restarts = world.gate.restarts
    await world.go(DAY)
    assert world.row() == (0, 5, 5)
    assert world.gate.restarts == restarts + 1
    assert world.flash.record is not None
    assert world.flash.record.pool.latest is None
    world.link.down = False
    await world.go(4 * 3600.0)
    assert world.row() == (10, 5, 5), "the pool's share comes back, and waits for a restart"


async def test_failed_contacts_retry_each_15_minutes_for_2_hours_and_then_each_4_hours(
    world: World,
) -> None:
    world.link.down = True
    await world.go(13 * 3600.0)  # the poll at 12 h fails
    world.link.attempts.clear()
    start = world.clock.now().boottime
    await world.go(30 * 3600.0)
    gaps = [
        round(b - a) for a, b in zip(world.link.attempts, world.link.attempts[1:], strict=False)
    ]
    assert set(gaps[:3]) == {900}
    assert set(gaps[5:]) == {4 * 3600}
    assert world.link.attempts[0] - start < 900
    world.link.down = False
    await world.go(4 * 3600.0)
    assert "contact_lost" not in world.alarms()


async def test_it_polls_at_the_interval_that_the_manager_gives(world: World) -> None:
    world.manager.poll = 600.0
    await world.agent.pull()
    await world.go(0.0)
    seen = len(world.manager.requests)
    await world.go(3600.0)
    reasons = [r.reason for r in world.manager.requests[seen:]]
    assert set(reasons) == {"poll"}
    assert len(reasons) in (5, 6)


async def test_retry_after_is_honoured_whatever_asks(world: World) -> None:
    world.link.down, world.link.retry_after = True, 2000.0
    await world.agent.pull()
    await world.go(0.0)
    tried = len(world.link.attempts)
    await world.agent.pull()
    await world.go(1900.0)
    assert len(world.link.attempts) == tried
    await world.go(200.0)
    assert len(world.link.attempts) == tried + 1


async def test_a_manager_without_room_is_not_lost_until_it_has_put_off_for_long(
    world: World,
) -> None:
    world.link.busy = 200.0
    await world.agent.pull()
    await world.go(0.0)
    tried = len(world.link.attempts)
    await world.agent.pull()
    await world.go(199.0)
    assert len(world.link.attempts) == tried
    assert "contact_lost" not in world.agent.core.faults
    await world.go(2.0)
    assert len(world.link.attempts) == tried + 1
    assert world.manager.envelopes[-1] != world.manager.envelopes[-2]
    await world.go(800.0)
    assert "contact_lost" in world.agent.core.faults
    world.link.busy = 0.0
    await world.go(201.0)
    assert "contact_lost" not in world.agent.core.faults


async def test_a_lost_reply_is_asked_for_with_the_same_bytes(world: World) -> None:
    world.manager.allocate(10)
    world.link.lose_replies = 1
    await world.agent.pull()
    await world.go(0.0)
    assert world.row() == (0, 5, 5)
    await world.crash()
    await world.start()  # also across a crash: the request is in flash
    assert world.row() == (10, 5, 5)
    sent = world.manager.envelopes
    assert len(sent) - len(set(sent)) == 1, "one request was sent twice"


async def test_what_changed_while_a_reply_was_lost_is_learnt_right_after_the_repeat(
    world: World,
) -> None:
    world.link.lose_replies = 1
    await world.agent.pull()
    await world.go(0.0)
    world.manager.allocate(20)  # its hint comes to a device that repeats an older request
    await world.agent.pull()
    await world.go(0.0)
    assert world.row() == (20, 5, 5)


# -- law 4


@pytest.mark.parametrize("how", ["altered", "replayed", "foreign", "older", "stranger", "huge"])
async def test_a_reply_that_is_not_the_managers_answer_changes_nothing(
    world: World, how: str
) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    before, seen = world.flash.record, world.manager.last[1]
    assert before is not None
    world.manager.allocate(50)
    manager = world.manager

    def nonce() -> str:
        return manager.requests[-1].nonce

    forged: dict[str, Callable[[str], str]] = {
        "altered": lambda r: r[:-20] + ("A" if r[-20] != "A" else "B") + r[-19:],
        "replayed": lambda r: seen,
        "foreign": lambda r: sign(manager.key, REPLY, manager.reply(nonce(), serial="S2")),
        "older": lambda r: sign(
            manager.key,
            REPLY,
            manager.reply(nonce(), grant=msgspec.structs.replace(manager.grant(), version=0)),
        ),
        "stranger": lambda r: sign(SigningKey.generate(), REPLY, manager.reply(nonce())),
        "huge": lambda r: r + "A" * 300_000,
    }
    world.link.altered = forged[how]
    await world.agent.pull()
    await world.go(0.0)
    assert world.row() == (10, 5, 15)
    assert {"reply_refused", "contact_lost"} <= world.alarms()
    assert world.flash.record is not None
    after = world.flash.record.pool
    assert (after.latest, after.contact, after.seen_version) == (
        before.pool.latest,
        before.pool.contact,
        before.pool.seen_version,
    )
    world.link.altered = None
    await world.go(900.0)
    assert world.row() == (50, 5, 55), "and the true answer is still taken"
    assert world.alarms() == set()


async def test_a_reply_held_back_buys_no_time(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    world.link.lose_replies = 1
    await world.agent.pull()
    await world.go(0.0)
    issued = world.clock.now().wall
    await world.go(901.0)  # the same bytes get the same, old reply
    assert world.row() == (10, 5, 15)
    end = world.agent.status().lease_end
    assert end is not None
    assert end - issued <= 7 * DAY + 1000  # a fresh contact followed, honestly renewed
    assert world.agent.core.time(world.agent.core.now()) >= world.clock.now().wall - 1


async def test_keys_can_be_rolled_and_what_they_signed_before_still_verifies(world: World) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    await world.restart(save=True)
    world.manager.allocate(20)
    world.manager.roll()
    await world.agent.pull()
    await world.go(0.0)
    assert world.row() == (20, 5, 15)
    await world.crash()
    await world.start()
    assert world.row() == (20, 5, 15), "applied was signed by a key that has left the set"


async def test_a_key_out_of_date_signs_nothing(world: World) -> None:
    world.manager.not_after = world.clock.now().wall + 60
    world.manager.roll()
    await world.agent.pull()
    await world.go(0.0)
    assert world.alarms() == set()
    world.clock.advance(120)
    await world.agent.pull()
    await world.go(0.0)
    assert "reply_refused" in world.alarms()


async def test_a_manager_that_suspects_a_clone_is_alarmed(world: World) -> None:
    world.manager.refuse = ("unit_locked", 409)
    await world.agent.pull()
    await world.go(0.0)
    assert {"clone_locked", "contact_lost"} <= world.alarms()
    world.manager.refuse = None
    await world.go(1000.0)
    assert world.alarms() == set()


async def test_what_the_manager_has_read_and_refused_is_not_sent_again(world: World) -> None:
    world.manager.refuse = ("clock_skew", 403)
    await world.agent.pull()
    await world.go(0.0)
    assert "clock_skew" in world.alarms()
    world.manager.refuse = None
    await world.go(1000.0)
    assert len(set(world.manager.envelopes)) == len(world.manager.envelopes)
    assert world.alarms() == set()


# -- clocks


async def test_a_boot_behind_the_mark_runs_on_local_until_signed_time(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(3600.0)
    await world.crash()
    world.link.down = True
    world.clock.boot(off=60.0, wall=NOW - DAY)
    await world.start()
    assert world.sessions() == 5
    assert world.row()[2] == 5
    assert "clock_behind" in world.alarms()
    world.clock.instant = replace(world.clock.instant, wall=NOW + 3700)
    world.link.down = False
    await world.go(1000.0)
    assert world.sessions() == 15
    assert "clock_behind" not in world.alarms()


async def test_setting_the_clock_back_buys_no_time(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    world.link.down = True
    await world.go(3 * DAY)
    world.clock.jump(-3 * DAY)
    await world.agent.tick()
    assert "clock_skew" in world.alarms()
    # The gate's ends follow, in the wall time of now.
    assert world.gate.policy.steps[0].until == pytest.approx(
        world.clock.now().wall + 4 * DAY, abs=5
    )
    await world.go(4 * DAY + 5)
    assert world.row() == (0, 5, 5)


# -- bad luck


async def test_what_cannot_be_written_is_not_enforced(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    await world.agent.pull()
    await world.agent.tick()  # the request is written and sent
    world.flash.full = True
    await world.agent.settle()
    assert world.row() == (0, 5, 5)
    assert world.sessions() == 5
    assert "flash_write_failed" in world.alarms()
    with pytest.raises(DeviceError):
        await world.agent.restart(save=True)
    assert world.gate.restarts == 0
    world.flash.full = False
    await world.go(900.0)
    assert world.row() == (10, 5, 15)
    assert world.alarms() == set()


async def test_a_full_flash_keeps_no_lease_alive(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    world.link.down, world.flash.full = True, True
    await world.go(7 * DAY + 5)
    assert world.sessions() == 5
    await world.crash()
    world.flash.full = False
    await world.start()
    assert world.sessions() == 5, "the old flash says when the lease ended"


async def test_a_gate_that_does_not_confirm_is_alarmed_and_asked_again(world: World) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    world.gate.broken = True
    await world.agent.pull()
    await world.agent.tick()
    await world.agent.settle()
    assert "gate_down" in world.alarms()
    world.gate.broken = False
    await world.go(5.0)
    assert world.sessions() == 15
    assert world.alarms() == set()


async def test_a_smaller_share_is_confirmed_only_once_the_gate_has_confirmed_it(
    world: World,
) -> None:
    world.manager.apply = APPLY_LIVE
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    assert world.manager.requests[-1].applied_version == 1
    world.gate.broken = True
    world.manager.allocate(2)
    await world.agent.pull()
    for _ in range(3):
        await world.agent.tick()
        await world.agent.settle()
    last = world.manager.requests[-1]
    assert (last.remote_version, last.applied_version) == (2, 1), "the gate still admits by 1"
    assert last.actual["sbc_sessions"] == 15
    seen = len(world.manager.requests)
    await world.go(60.0)
    assert len(world.manager.requests) == seen, "and it does not go on asking"
    world.gate.broken = False
    await world.go(3.0)
    last = world.manager.requests[-1]
    assert (last.reason, last.remote_version, last.applied_version) == ("confirm", 2, 2)
    assert last.actual["sbc_sessions"] == 7


async def test_the_manager_unreachable_at_the_start_is_said_and_retried(world: World) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    await world.restart(save=True)
    await world.crash()
    world.link.down = True
    await world.start()
    assert world.sessions() == 15
    assert world.agent.status().server_status == "Disconnected"
    assert "contact_lost" in world.alarms()
    world.link.down = False
    await world.go(900.0)
    assert world.agent.status().server_status == "Connected"


async def test_a_flash_of_another_serial_or_with_a_forged_grant_is_refused(world: World) -> None:
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    record = world.flash.record
    assert record is not None
    assert record.pool.latest is not None
    other = msgspec.structs.replace(world.settings, serial="S9")
    with pytest.raises(FlashError) as caught:
        open_record(record, other)
    assert caught.value.code == "flash_foreign"
    forged = sign(SigningKey.generate(), REPLY, world.manager.reply("n"))
    latest = msgspec.structs.replace(record.pool.latest, reply=forged)
    pool = msgspec.structs.replace(record.pool, latest=latest)
    with pytest.raises(FlashError) as caught:
        open_record(msgspec.structs.replace(record, pool=pool), world.settings)
    assert caught.value.code == "flash_altered"


async def test_a_local_key_counts_at_once_and_an_older_one_is_refused(world: World) -> None:
    await world.agent.core.install_key(local_key(5, sbc_sessions=40))
    assert world.row() == (0, 40, 40)
    assert world.sessions() == 40
    for envelope, code in (
        (local_key(4, sbc_sessions=99), "older_key"),
        (local_key(9, serial="S2", sbc_sessions=99), "key_for_another_serial"),
        ("rubbish", "bad_envelope"),
    ):
        with pytest.raises(CallpoolError) as caught:
            await world.agent.core.install_key(envelope)
        assert caught.value.code == code
    assert world.row() == (0, 40, 40)


async def test_the_mark_is_written_at_a_bounded_rate(world: World) -> None:
    before = world.flash.writes
    for _ in range(360):
        world.clock.advance(10.0)
        await world.agent.tick()
    assert 50 <= world.flash.writes - before <= 62
