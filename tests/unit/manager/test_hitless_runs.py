"""Hitless runs at the manager: journalled, driven by reports, law 1 unbroken."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from pairmodel import Pair
from poolmodel import DAY, LEASE, START, Model

from callpool.licensing.alarm_feed import HITLESS_RUN
from callpool.licensing.errors import LicenseError
from callpool.licensing.hitless import State
from callpool.manager import inventory, pairs, pools, views, windows
from callpool.manager.hitless_api import run_of
from callpool.manager.own_alarms import conditions
from callpool.manager.store.tx import Tx

S = "sbc_sessions"


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=500)
    made.add("pair", "P1", "P2", apply="restart")
    made.add("single", "A1", apply="restart")
    yield made
    made.close()


@pytest.fixture
def pair(model: Model) -> Pair:
    """A pair that runs 100 on both units and has been given 120."""
    made = Pair(model)
    model.allocate("pair", sbc_sessions=100)
    for serial in ("P1", "P2"):
        made.call(serial)
        device = model.devices[serial]
        device.license = device.license.restarted(save=True)
        made.call(serial)
    model.allocate("pair", sbc_sessions=120)
    return made


def refused(model: Model, work: object) -> str:
    with pytest.raises(LicenseError) as error:
        model.change(work)  # type: ignore[arg-type]
    return error.value.code


def shown(model: Model, name: str = "pair") -> dict[str, object]:
    pool = model.manager.database.read(lambda tx: views.pool(tx, model.clock.wall))
    found: dict[str, object] = next(d for d in pool["devices"] if d["name"] == name)
    return found


def test_a_raise_is_installed_in_four_steps_and_the_first_unit_is_active_again(
    model: Model, pair: Pair
) -> None:
    for serial in ("P1", "P2"):
        pair.call(serial)
    assert [pair.runs(s) for s in ("P1", "P2")] == [100, 100]
    assert shown(model)["pending"]
    pair.begin()
    seen = []
    for _ in range(30):
        if pair.run().kept.run.state is not State.RUNNING:
            break
        for serial in ("P1", "P2"):
            pair.call(serial)
            model.check()
            seen.append((pair.active, pair.runs("P1"), pair.runs("P2")))
    assert pair.run().kept.run.state is State.COMPLETE
    assert list(dict.fromkeys(seen)) == [
        ("P1", 100, 100), ("P1", 100, 120), ("P2", 100, 120), ("P2", 120, 120), ("P1", 120, 120),
    ]  # fmt: skip
    found = shown(model)
    assert not found["pending"]
    view = found["pair"]
    assert isinstance(view, dict)
    assert (view["active"], view["synchronised"], view["equal"]) == ("P1", True, True)
    causes = journal(model)
    assert causes.count("hitless_ordered") == causes.count("hitless_done") == 4
    assert causes.count("pair_active") == 3


def journal(model: Model) -> list[str]:
    rows = model.manager.database.read(lambda tx: tx.rows("SELECT cause FROM journal"))
    return [r["cause"] for r in rows]


def test_only_the_active_unit_is_asked_to_hand_over_and_only_the_redundant_one_to_restart(
    pair: Pair,
) -> None:
    pair.begin()
    asked = []
    for _ in range(12):
        for serial in ("P1", "P2"):
            role = pair.role(serial)
            reply = pair.call(serial, obeys=False)
            assert reply is not None
            if reply.restart:
                assert (role, reply.restart.save, reply.restart.until > 0) == (
                    "redundant", True, True,
                )  # fmt: skip
                asked.append(("restart", serial))
            if reply.switch:
                assert (role, reply.switch.to) == ("active", pair.peer(serial))
                asked.append(("switch", serial))
            pair.obey(serial, reply)
    assert list(dict.fromkeys(asked)) == [
        ("restart", "P2"), ("switch", "P1"), ("restart", "P1"), ("switch", "P2"),
    ]  # fmt: skip


def test_a_cut_frees_nothing_until_the_run_is_over(model: Model, pair: Pair) -> None:
    assert pair.begin()
    assert pair.turns() is State.COMPLETE
    model.allocate("pair", sbc_sessions=20)
    for serial in ("P1", "P2"):
        pair.call(serial)
    pair.begin()
    while pair.run().kept.run.state is State.RUNNING:
        assert model.held("P1") == model.held("P2") == 120
        with pytest.raises(LicenseError, match="at most 260"):
            model.allocate("single", sbc_sessions=300)
        for serial in ("P1", "P2"):
            pair.call(serial)
            model.check()
    assert pair.run().kept.run.state is State.COMPLETE
    assert model.held("P1") == model.held("P2") == 20
    model.allocate("single", sbc_sessions=460)
    model.poll("A1")
    model.check()


def test_a_cut_can_be_rolled_back_at_any_point(model: Model) -> None:
    for turns in range(1, 8):
        name, first, other = f"q{turns}", f"Q{turns}", f"R{turns}"
        model.add(name, first, other, apply="restart")
        pair = Pair(model, name, first, other)
        model.allocate(name, sbc_sessions=30)
        for serial in (first, other):
            pair.call(serial)
            device = model.devices[serial]
            device.license = device.license.restarted(save=True)
            pair.call(serial)
        model.allocate(name, sbc_sessions=10)
        pair.begin()
        for _ in range(turns):
            for serial in (first, other):
                pair.call(serial)
        if pair.run().kept.run.state is State.COMPLETE:
            assert turns > 5
            continue
        pair.act("roll_back")
        model.clock.advance(400)  # what was asked before is over
        model.manager.sweep()
        if pair.turns() is State.STOPPED:
            pair.act("resume")
        assert pair.turns() is State.ROLLED_BACK
        assert [pair.runs(s) for s in (first, other)] == [30, 30]
        assert pair.active == first
        model.check()
        assert shown(model, name)["allocation"] == {S: 30, "far_end_users": 0}


@pytest.mark.parametrize("loses", ["P1", "P2"])
@pytest.mark.parametrize("at", range(8))
def test_a_unit_that_is_lost_stops_the_run_safely_and_it_is_resumed(
    model: Model, pair: Pair, loses: str, at: int
) -> None:
    pair.begin()
    for _ in range(at):
        for serial in ("P1", "P2"):
            pair.call(serial)
    if pair.run().kept.run.state is not State.RUNNING:
        return
    pair.crash(loses)
    stays = pair.peer(loses)
    for _ in range(8):
        pair.call(stays)
        model.clock.advance(60)
        model.manager.sweep()
        model.check()
    run = pair.run().kept.run
    assert (run.state, run.order) == (State.STOPPED, None)
    assert pair.active == stays  # it serves
    assert run.wait
    pair.recover(loses)
    pair.act("resume")
    assert pair.turns() is State.COMPLETE
    assert [pair.runs(s) for s in ("P1", "P2")] == [120, 120]
    assert pair.active == "P1"


def test_a_manager_that_is_started_anew_at_every_step_goes_on(model: Model, pair: Pair) -> None:
    pair.begin()
    for _ in range(15):
        for serial in ("P1", "P2"):
            model.reopen()
            pair.call(serial)
    assert pair.run().kept.run.state is State.COMPLETE
    assert [pair.runs(s) for s in ("P1", "P2")] == [120, 120]


def test_a_reply_that_was_lost_is_given_again_with_the_same_order(model: Model, pair: Pair) -> None:
    pair.begin()
    for _ in range(40):
        if pair.run().kept.run.state is not State.RUNNING:
            break
        for serial in ("P1", "P2"):
            pair.call(serial, lost=True)
            pair.call(serial)
    assert pair.run().kept.run.state is State.COMPLETE
    assert pair.switches == {"P1": (1, "done"), "P2": (2, "done")}
    assert [model.devices[s].restart_done for s in ("P1", "P2")] == [1, 1]


def test_while_a_run_goes_on_nothing_else_changes_its_device(model: Model, pair: Pair) -> None:
    pair.begin()
    for work in (
        lambda c: pools.allocate(c, inventory.device_by_name(c, "pair"), {S: 1}),
        lambda c: inventory.change_device(c, "pair", tenant=None, apply="live", mode=None),
        lambda c: inventory.remove_device(c, "pair"),
        lambda c: inventory.replace_serial(c, "pair", "P2", "P3", old_is_off=True),
        lambda c: windows.restart_now(c, "pair", save=True),
        lambda c: pairs.dissolve(c, "pair", "P2"),
    ):
        assert refused(model, work) == "hitless_running"
    # Once it stands, what makes it another device closes it.
    pair.act("stop")
    model.allocate("pair", sbc_sessions=130)
    model.change(lambda c: pairs.dissolve(c, "pair", "P2"))
    assert pair.run().kept.run.state is State.CLOSED


def test_a_resumed_run_installs_what_was_allocated_meanwhile(model: Model, pair: Pair) -> None:
    pair.begin()
    for serial in ("P1", "P2", "P1"):
        pair.call(serial)
    pair.act("stop")
    model.allocate("pair", sbc_sessions=150)
    pair.act("resume")
    assert pair.turns() is State.COMPLETE
    assert [pair.runs(s) for s in ("P1", "P2")] == [150, 150]
    assert pair.run().kept.wanted[S] == 150


def test_what_becomes_free_for_the_pair_during_its_run_is_installed_on_both_units(
    model: Model, pair: Pair
) -> None:
    pair.begin()
    for serial in ("P1", "P2", "P2", "P1"):
        pair.call(serial)
    assert pair.runs("P2") == 120
    # As where another device gives back what the pair is short of.
    model.change(lambda c: pools.set_targets(c, inventory.device_by_name(c, "pair"), {S: 125}))
    assert pair.turns() is State.COMPLETE
    assert [pair.runs(s) for s in ("P1", "P2")] == [125, 125]
    assert pair.active == "P1"
    assert pair.run().kept.wanted[S] == 125


def test_what_cannot_be_started_says_why(model: Model, pair: Pair) -> None:
    def begin(name: str) -> str:
        with pytest.raises(LicenseError) as error:
            Pair(model, name).begin()
        return error.value.code

    assert begin("single") == "no_pair"
    model.add("fresh", "F1", "F2", apply="restart")
    assert begin("fresh") == "unit_not_ready"
    model.add("live", "L1", "L2")
    assert begin("live") == "applies_at_once"
    model.change(lambda c: windows.restart_now(c, "pair", save=True))
    assert begin("pair") == "restart_waits"
    for serial in ("P1", "P2", "P1", "P2"):
        pair.call(serial)
    assert begin("pair") == "nothing_to_install"
    model.allocate("pair", sbc_sessions=10)
    pair.active = ""
    for serial in ("P1", "P2"):
        pair.call(serial)
    assert begin("pair") == "no_active_unit"
    pair.active = "P1"
    pair.call("P1")
    pair.begin()
    assert begin("pair") == "hitless_open"
    for action, code in (
        ("resume", "hitless_running"), ("close", "hitless_running"), ("burn", "bad_request"),
    ):  # fmt: skip
        with pytest.raises(LicenseError) as error:
            pair.act(action)
        assert error.value.code == code
    pair.act("stop")
    with pytest.raises(LicenseError) as error:
        pair.act("stop")
    assert error.value.code == "hitless_stopped"
    pair.act("close")
    with pytest.raises(LicenseError) as error:
        pair.act("resume")
    assert error.value.code == "no_hitless_run"


def test_the_alarms_of_its_own_run_are_expected_and_no_longer(model: Model, pair: Pair) -> None:
    pair.begin()
    reply = pair.call("P1")
    assert reply is not None
    assert reply.expect_ha_alarms_until > model.clock.wall
    assert (reply.poll_seconds, reply.retry_seconds) == (1.0, 2.0)

    def expected() -> dict[str, float]:
        rows = model.manager.database.read(lambda tx: tx.rows("SELECT * FROM alarm_expected"))
        return {r["oid"]: r["until"] for r in rows}

    assert set(expected()) == set(HITLESS_RUN)
    pair.turns()
    assert all(until - model.clock.wall <= 30 for until in expected().values())
    reply = pair.call("P1")
    assert reply is not None
    assert model.clock.wall < reply.expect_ha_alarms_until <= model.clock.wall + 30
    model.clock.advance(30)
    reply = pair.call("P1")
    assert reply is not None
    assert reply.expect_ha_alarms_until == 0.0
    assert min(reply.poll_seconds, reply.retry_seconds) > 60


def test_a_run_that_stands_is_an_alarm_until_it_goes_on(model: Model, pair: Pair) -> None:
    def look(tx: Tx) -> list[str]:
        found = conditions(tx, model.clock.wall, model.manager.settings, 0.0)
        return [f"{c.serial} {c.text}" for c in found if c.code == "hitless_run_stopped"]

    pair.begin()
    seen = []
    for action in ("stop", "resume", "stop", "close"):
        pair.act(action)
        seen.append(model.manager.database.read(look))
    said = "P1 A hitless installation has stopped, the pair serves on: tester has stopped it."
    assert seen == [[said], [], [said], []]


def test_a_restart_that_was_taken_back_is_not_offered_and_its_number_not_used_again(
    model: Model, pair: Pair
) -> None:
    pair.begin()
    for serial in ("P1", "P2", "P2"):
        pair.call(serial, obeys=False)
    assert pair.asked == {"P2": 1}
    pair.act("stop")
    reply = pair.call("P2", obeys=False)
    assert reply is not None
    assert reply.restart is None
    model.clock.advance(400)
    pair.act("resume")
    pair.asked.clear()
    for serial in ("P1", "P2", "P1", "P2"):
        pair.call(serial)
    assert model.devices["P2"].restart_done == 2


def test_a_unit_whose_lease_ended_keeps_nothing_for_a_run_that_stands(
    model: Model, pair: Pair
) -> None:
    pair.begin()
    pair.act("stop")
    model.clock.advance(LEASE / 2)
    pair.call("P1")
    model.allocate("pair", sbc_sessions=0)
    model.clock.advance(LEASE / 2 + 100)
    model.manager.sweep()
    assert (model.held("P1"), model.held("P2")) == (120, 0)
    model.check()


def test_the_run_is_shown_step_by_step(model: Model, pair: Pair) -> None:
    def run() -> dict[str, object]:
        found = model.manager.database.read(lambda tx: run_of(tx, "pair"))["run"]
        assert isinstance(found, dict)
        return found

    pair.begin()
    assert (run()["state"], run()["may"]) == ("running", ["stop", "roll_back"])
    for serial in ("P1", "P2", "P2"):
        pair.call(serial, obeys=False)
    steps = run()["steps"]
    assert isinstance(steps, list)
    assert [s["status"] for s in steps] == ["ordered", "to_do", "to_do", "to_do"]
    assert [s["unit"] for s in steps] == ["P2", "P2", "P1", "P1"]
    view = shown(model)["pair"]
    assert isinstance(view, dict)
    assert view["run"]["id"] == run()["id"]
    pair.crash("P2")
    model.clock.advance(301)
    model.manager.sweep()
    assert (run()["state"], run()["may"]) == ("stopped", ["resume", "roll_back", "close"])
    assert run()["waits_for"] == {
        "code": "restart_awaited",
        "sentence": "P2 has not yet reported its restart, in time",
    }


# -- pairs in the inventory


def test_a_pair_is_formed_at_double_cost_or_not_at_all(model: Model) -> None:
    model.allocate("single", sbc_sessions=200)
    model.poll("A1")
    model.change(lambda c: pairs.form(c, "single", "A2"))
    assert (model.held("A1"), model.held("A2")) == (200, 200)
    model.enrol("A2", "default")
    model.poll("A2")
    model.check()
    assert shown(model, "single")["cost"] == 2
    assert refused(model, lambda c: pairs.form(c, "single", "A3")) == "already_pair"
    model.add("other", "B1", apply="restart")
    model.allocate("other", sbc_sessions=60)
    assert refused(model, lambda c: pairs.form(c, "other", "B2")) == "pool_exceeded"
    assert model.held("B1") == 60
    assert refused(model, lambda c: pairs.form(c, "other", "A1")) == "duplicate_serial"


def test_a_unit_that_leaves_a_pair_holds_its_share_until_it_has_dropped_it(
    model: Model, pair: Pair
) -> None:
    for serial in ("P1", "P2"):
        pair.call(serial)
    model.change(lambda c: pairs.dissolve(c, "pair", "P2"))
    assert (model.held("P1"), model.held("P2")) == (120, 120)
    assert shown(model)["cost"] == 1
    assert shown(model)["pair"] is None
    assert refused(model, lambda c: pairs.form(c, "single", "P2")) == "serial_still_holds"
    for _ in range(2):
        model.poll("P2")
        device = model.devices["P2"]
        device.license = device.license.restarted(save=True)
        model.check()
    model.poll("P2")
    assert model.held("P2") == 0
    model.change(lambda c: pairs.form(c, "single", "P2"))
    assert refused(model, lambda c: pairs.dissolve(c, "pair", "P1")) == "no_pair"
    assert refused(model, lambda c: pairs.dissolve(c, "single", "P1")) == "unknown_serial"


def test_a_unit_that_died_active_is_not_taken_for_the_active_one(model: Model, pair: Pair) -> None:
    for serial in ("P2", "P1"):
        pair.call(serial)
    pair.crash("P1")
    pair.call("P2")
    view = shown(model)["pair"]
    assert isinstance(view, dict)
    assert (view["active"], view["trouble"]["code"]) == ("P2", "alone")
    assert [u["role"] for u in view["units"]] == ["active", "alone"]
    rows = model.manager.database.read(
        lambda tx: tx.rows("SELECT detail FROM journal WHERE cause = 'pair_active'")
    )
    assert [msgspec.json.decode(r["detail"])["serial"] for r in rows] == ["P1", "P2"]


def test_two_active_units_are_told_and_the_one_that_was_stays_it(model: Model, pair: Pair) -> None:
    for serial in ("P1", "P2"):
        pair.call(serial)
    before = journal(model).count("pair_active")
    for _ in range(3):
        for serial in ("P1", "P2"):
            pair.active = serial
            pair.call(serial)
    assert journal(model).count("pair_active") == before
    view = shown(model)["pair"]
    assert isinstance(view, dict)
    assert (view["active"], view["trouble"]["code"]) == (None, "both_active")
    # A unit that has fallen silent says nothing any more.
    for _ in range(2):
        pair.active = "P2"
        pair.call("P2")
    assert journal(model).count("pair_active") == before + 1
