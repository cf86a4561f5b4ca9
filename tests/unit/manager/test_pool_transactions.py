from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec
import pytest
from poolmodel import DAY, LEASE, START, Model

from callpool.licensing.errors import LicenseError, TrustError
from callpool.licensing.pool import LEASE_MARGIN
from callpool.manager import inventory, pools
from callpool.manager.contacts import check_skew


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=20, far_end_users=20)
    for name, serial in (("a", "A1"), ("b", "B1")):
        made.add(name, serial)
    yield made
    made.check()
    made.close()


def refused(model: Model, name: str, **counts: int) -> LicenseError:
    with pytest.raises(LicenseError) as error:
        model.allocate(name, **counts)
    return error.value


def test_an_allocation_above_the_pool_changes_nothing(model: Model) -> None:
    error = refused(model, "a", far_end_users=3, sbc_sessions=21)
    assert error.code == "pool_exceeded"
    assert "at most 20" in error.sentence
    assert model.held("A1", "far_end_users") == 0


def test_a_share_never_sent_is_free_at_once_and_one_sent_only_when_confirmed(model: Model) -> None:
    model.allocate("a", sbc_sessions=20)
    model.allocate("a", sbc_sessions=5)
    assert model.held("A1") == 5
    model.poll("A1")
    model.allocate("a", sbc_sessions=1)
    assert model.held("A1") == 5
    model.poll("A1")
    assert model.held("A1") == 5  # sent, not yet proven to have arrived
    model.poll("A1")
    assert model.held("A1") == 1


def test_calls_in_progress_keep_their_units_until_they_end(model: Model) -> None:
    model.allocate("a", sbc_sessions=10)
    model.poll("A1")
    model.devices["A1"].in_use = {"sbc_sessions": 8}
    model.allocate("a", sbc_sessions=5)
    model.poll("A1")
    reply = model.poll("A1")
    assert model.held("A1") == 8
    assert reply is not None
    assert reply.poll_seconds == 5.0  # asks again soon: calls end
    model.devices["A1"].in_use = {"sbc_sessions": 2}
    model.poll("A1")
    assert model.held("A1") == 5


def test_a_device_that_cannot_be_reached_keeps_its_share_until_both_clocks_agree(
    model: Model,
) -> None:
    model.allocate("a", sbc_sessions=20)
    model.poll("A1")
    model.allocate("a", sbc_sessions=0)
    model.clock.wall += 2 * LEASE  # the wall alone is not believed
    model.manager.sweep()
    assert model.held("A1") == 20
    model.clock.wall -= 2 * LEASE
    model.clock.boottime += LEASE + LEASE_MARGIN - 1
    model.clock.wall += LEASE + LEASE_MARGIN - 1
    model.manager.sweep()
    assert model.held("A1") == 20
    assert refused(model, "b", sbc_sessions=1).code == "pool_exceeded"
    model.clock.advance(2)
    model.allocate("b", sbc_sessions=20)
    assert model.held("A1") == 0


def test_elapsed_time_goes_on_across_a_restart_of_the_machine(model: Model) -> None:
    model.allocate("a", sbc_sessions=20)
    model.poll("A1")
    model.allocate("a", sbc_sessions=0)
    model.clock.advance(LEASE - DAY)
    model.manager.sweep()
    model.clock.boot_id, model.clock.boottime = "boot-2", 5.0
    model.manager.sweep()
    model.clock.advance(DAY)
    model.manager.sweep()
    assert model.held("A1") == 20
    model.clock.advance(2 * LEASE_MARGIN)
    model.manager.sweep()
    assert model.held("A1") == 0
    model.devices["A1"].license = model.devices["A1"].license.discarded()


def test_a_device_that_missed_its_lease_end_gets_no_renewal_for_what_was_freed(
    model: Model,
) -> None:
    model.allocate("a", sbc_sessions=20)
    model.poll("A1")
    model.allocate("a", sbc_sessions=0)
    model.clock.advance(LEASE + 2 * LEASE_MARGIN)
    model.allocate("b", sbc_sessions=20)
    device = model.devices["A1"]
    model.ask(device, notices=False)  # woken from suspension, its timers have not run yet
    reply = model.deliver(device)
    assert reply is not None
    assert reply.lease_seconds == 0.0
    model.check()
    reply = model.poll("A1")
    assert reply is not None
    assert reply.lease_seconds == LEASE


def test_the_share_of_a_lease_that_ended_stays_allocated(model: Model) -> None:
    model.allocate("a", sbc_sessions=20)
    model.poll("A1")
    model.clock.advance(LEASE + 2 * LEASE_MARGIN)
    assert refused(model, "b", sbc_sessions=1).code == "pool_exceeded"
    reply = model.poll("A1")
    assert reply is not None
    assert reply.lease_seconds == LEASE
    assert model.may_use(model.devices["A1"], "sbc_sessions") == 20


def test_an_order_that_ends_steps_down_by_itself_and_an_import_refills(model: Model) -> None:
    model.order(starts=START - DAY, ends=START + 3 * DAY, sbc_sessions=10)
    model.allocate("a", sbc_sessions=30)
    model.poll("A1")
    model.clock.advance(3 * DAY)
    model.check()
    assert model.may_use(model.devices["A1"], "sbc_sessions") == 20
    model.order(starts=START - DAY, ends=START + 300 * DAY, sbc_sessions=15)
    model.poll("A1")
    assert model.may_use(model.devices["A1"], "sbc_sessions") == 30


def test_an_order_that_follows_another_is_granted_ahead_without_a_gap(model: Model) -> None:
    model.order(starts=START - DAY, ends=START + 3 * DAY, far_end_users=10)
    model.allocate("a", far_end_users=30)
    model.poll("A1")
    model.order(starts=START + 3 * DAY, ends=START + 300 * DAY, far_end_users=10)
    model.poll("A1")
    for seconds in (3 * DAY - 1, 1.0, 3600.0):
        model.clock.advance(seconds)
        model.check()
        assert model.may_use(model.devices["A1"], "far_end_users") == 30
    model.poll("A1")
    assert model.may_use(model.devices["A1"], "far_end_users") == 30


def test_a_renewal_that_begins_joins_what_the_unit_has_of_the_same_order(model: Model) -> None:
    model.order(starts=START - DAY, ends=START + 3 * DAY, sbc_sessions=20)
    model.allocate("b", sbc_sessions=20)
    model.allocate("a", sbc_sessions=20)
    model.order(starts=START - DAY, ends=START + 300 * DAY, sbc_sessions=30)
    model.allocate("a", sbc_sessions=25)
    for serial in ("A1", "B1"):
        model.poll(serial)
    for seconds in (3 * DAY - 1, 1.0):
        model.clock.advance(seconds)
        model.manager.sweep()
        model.check()
        assert model.may_use(model.devices["A1"], "sbc_sessions") == 25
    model.check_tables()


def test_an_ha_pair_costs_double_and_both_units_get_the_same(model: Model) -> None:
    model.add("h", "H1", "H2")
    error = refused(model, "h", sbc_sessions=11)
    assert "at most 10" in error.sentence
    model.allocate("h", sbc_sessions=10)
    assert [model.held(s) for s in ("H1", "H2")] == [10, 10]
    for serial in ("H1", "H2"):
        model.poll(serial)
        assert model.may_use(model.devices[serial], "sbc_sessions") == 10
    assert refused(model, "a", sbc_sessions=1).code == "pool_exceeded"


def test_a_tenants_share_bounds_its_devices_and_is_set_aside_for_them(model: Model) -> None:
    model.tenant("east", sbc_sessions=12)
    model.add("e", "E1", tenant="east")
    error = refused(model, "e", sbc_sessions=13)
    assert error.code == "tenant_exceeded"
    assert "at most 12" in error.sentence
    error = refused(model, "a", sbc_sessions=9)
    assert error.code == "pool_exceeded"
    assert "at most 8" in error.sentence
    model.allocate("e", sbc_sessions=12)
    with pytest.raises(LicenseError) as below:
        model.change(lambda c: inventory.set_shares(c, "east", {"sbc_sessions": 11}))
    assert below.value.code == "share_below_held"
    with pytest.raises(LicenseError) as above:
        model.change(lambda c: inventory.set_shares(c, "east", {"sbc_sessions": 21}))
    assert above.value.code == "pool_exceeded"


def test_a_burnt_down_device_is_replaced_at_once_on_the_operators_word(model: Model) -> None:
    model.allocate("a", sbc_sessions=20)
    model.poll("A1")
    with pytest.raises(LicenseError) as unsaid:
        model.change(lambda c: inventory.replace_serial(c, "a", "A1", "A2", old_is_off=False))
    assert unsaid.value.code == "old_unit_may_be_on"
    model.change(lambda c: inventory.replace_serial(c, "a", "A1", "A2", old_is_off=True))
    old = model.devices.pop("A1")
    model.enrol("A2", "default")
    model.poll("A2")
    assert model.may_use(model.devices["A2"], "sbc_sessions") == 20
    given = model.ask(old)
    assert given.refusal is not None
    assert given.refusal.code == "serial_replaced"


def test_a_removed_device_holds_until_it_confirms_and_its_lease_is_not_renewed(
    model: Model,
) -> None:
    model.allocate("a", sbc_sessions=20)
    first = model.poll("A1")
    assert first is not None
    model.change(lambda c: inventory.remove_device(c, "a"))
    assert model.held("A1") == 20
    model.clock.advance(DAY)
    reply = model.poll("A1")
    assert reply is not None
    assert (reply.status, reply.lease_end) == ("not_listed", first.lease_end)
    with pytest.raises(LicenseError) as early:
        model.change(lambda c: inventory.add_device(c, "a2", ["A1"], "default", "live"))
    assert early.value.code == "serial_still_holds"
    model.poll("A1")
    assert model.held("A1") == 0
    model.allocate("b", sbc_sessions=20)


def test_a_clone_is_found_by_its_contact_value(model: Model) -> None:
    model.allocate("a", sbc_sessions=5)
    model.poll("A1")
    device = model.devices["A1"]
    copied = device.value
    model.poll("A1")
    original, device.value = device.value, copied
    model.ask(device)  # the copy calls by the previous value: it might be a lost reply
    assert not device.locked
    device.value = original
    given = model.ask(device)
    assert given.refusal is not None
    assert given.refusal.code == "stale_contact"
    given = model.ask(device)
    assert given.refusal is not None
    assert given.refusal.code == "unit_locked"
    model.change(lambda c: inventory.unlock(c, "A1"))
    given = model.ask(device)
    assert given.refusal is not None
    assert given.refusal.code == "unknown_signer"


def test_a_repeated_request_gets_the_same_reply_and_a_lost_one_is_forgiven_once(
    model: Model,
) -> None:
    device = model.devices["A1"]
    first = model.ask(device)
    assert device.asked is not None
    again = model.send(device, device.asked)
    assert first.reply == again.reply
    model.ask(device)  # another nonce, the same value: the reply was lost
    assert not device.locked
    model.ask(device)
    assert device.locked


def test_an_overtaken_request_is_old_news_and_no_clone(model: Model) -> None:
    device = model.devices["A1"]
    model.ask(device)
    slow = device.asked
    assert slow is not None
    model.clock.advance(5)
    model.poll("A1")
    given = model.send(device, msgspec.structs.replace(slow, nonce="other"))
    assert given.refusal is not None
    assert given.refusal.code == "older_report"
    device.asked = None
    model.poll("A1")
    # One that lay in a manager that hung, while another one answered several times.
    given = model.send(device, slow)
    assert given.refusal is not None
    assert given.refusal.code == "older_report"
    device.asked = None
    model.poll("A1")
    assert not device.locked


def test_a_clock_an_hour_off_is_refused_by_name() -> None:
    with pytest.raises(TrustError, match="ahead of") as error:
        check_skew(START + 3601, START)
    assert error.value.code == "clock_skew"
    with pytest.raises(TrustError, match="behind"):
        check_skew(START - 3601, START)
    assert check_skew(START + 61, START) == 61


def test_the_database_refuses_a_violation_whatever_the_code_does(model: Model) -> None:
    model.tenant("east", sbc_sessions=5)
    model.add("e", "E1", tenant="east")
    model.allocate("e", sbc_sessions=5)
    model.allocate("a", sbc_sessions=15)
    raw = sqlite3.connect(model.manager.layout.database, isolation_level=None)
    raw.execute("PRAGMA foreign_keys = ON")
    for violation, law in (
        ("UPDATE holding SET held = held + 1 WHERE serial = 'A1'", "order_never_oversold"),
        ("UPDATE holding SET granted = held + 1 WHERE serial = 'A1'", "held_covers_granted"),
        (
            "INSERT INTO holding (serial, type, order_id, since, tenant_id, granted, held)"
            " SELECT 'B1', type, order_id, 0, tenant_id, 1, 1 FROM holding WHERE serial = 'A1'",
            "order_never_oversold",
        ),
        (
            "UPDATE holding SET tenant_id = (SELECT tenant_id FROM tenant WHERE name = 'east')"
            " WHERE serial = 'A1'",
            "tenant_never_oversold",
        ),
        ("UPDATE tenant_share SET share = 4 WHERE share = 5", "tenant_never_oversold"),
        ("UPDATE order_line SET count = 19 WHERE type = 'sbc_sessions'", "order_never_oversold"),
    ):
        with pytest.raises(sqlite3.IntegrityError, match=law):
            raw.execute(violation)
    raw.close()


def test_a_device_short_of_its_target_gets_what_becomes_free(model: Model) -> None:
    model.order(starts=START - DAY, ends=START + DAY, sbc_sessions=10)
    model.allocate("a", sbc_sessions=15)
    model.allocate("b", sbc_sessions=15)
    model.poll("A1")
    model.poll("B1")
    model.clock.advance(DAY)
    model.manager.sweep()
    assert model.held("A1") + model.held("B1") == 20
    short = "A1" if model.held("A1") < 15 else "B1"
    other = "b" if short == "A1" else "a"
    model.allocate(other, sbc_sessions=0)
    model.poll("B1" if short == "A1" else "A1")
    model.poll("B1" if short == "A1" else "A1")
    assert model.held(short) == 15


def test_what_lies_above_a_devices_maximum_is_accepted_and_said(model: Model) -> None:
    report = {"maximum": {"sbc_sessions": 8}, "local": {"sbc_sessions": 3}}
    model.change(
        lambda c: c.tx.run(
            "UPDATE unit SET report = :report WHERE serial = 'A1'",
            report=msgspec.json.encode(report).decode(),
        )
    )
    notes = model.change(
        lambda c: pools.allocate(c, inventory.device_by_name(c, "a"), {"sbc_sessions": 10})
    )
    assert len(notes) == 1
    assert "clipped to 8" in notes[0]
    assert model.held("A1") == 10
