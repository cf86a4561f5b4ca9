"""A manager whose database was restored from an old backup: it notices, and gives nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from poolmodel import DAY, LEASE, START, Model

from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.licensing.pool import LEASE_MARGIN
from callpool.manager import inventory, views
from callpool.manager.grant_journal import Entry, GrantJournal, UnitState
from callpool.manager.restore import accept


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=20)
    for name, serial in (("a", "A1"), ("b", "B1")):
        made.add(name, serial)
    made.allocate("a", sbc_sessions=10)
    made.poll("A1")
    yield made
    made.check()
    made.close()


def state(model: Model) -> Any:
    model.manager.sweep()
    return model.manager.database.read(lambda tx: views.pool(tx, model.clock.wall))["restored"]


def causes(model: Model) -> list[str]:
    rows = model.manager.database.read(lambda tx: tx.rows("SELECT cause FROM journal"))
    return [r["cause"] for r in rows]


def moved_after_backup(model: Model) -> Path:
    """Back up, then move A's 10 sessions and 10 more to B."""
    copy = model.backup()
    model.allocate("a", sbc_sessions=0)
    for _ in range(3):
        model.poll("A1")
    model.allocate("b", sbc_sessions=20)
    model.poll("B1")
    assert model.held("B1") == 20
    return copy


def test_a_restart_alone_is_no_restoration(model: Model) -> None:
    model.reopen()
    assert state(model) is None


def test_the_journal_tells_what_devices_hold_and_nothing_grows_until_all_have_reported(
    model: Model,
) -> None:
    copy = moved_after_backup(model)
    model.reopen(copy)
    found = state(model)
    assert (found["reason"], found["journal_agrees"]) == ("journal_ahead", True)
    assert found["waiting_for"] == ["A1", "B1"]
    assert model.held("B1") == 20
    with pytest.raises(LicenseError) as error:
        model.allocate("a", sbc_sessions=11)
    assert error.value.code == "manager_restored"
    model.clock.advance(1)
    for serial in ("B1", "A1"):
        assert model.poll(serial) is not None
        assert not model.devices[serial].locked
        model.check()
    assert state(model) is None
    assert "restore_ended" in causes(model)
    # The backup's configuration rules again: a is to have 10, b nothing.
    for _ in range(4):
        for serial in ("B1", "A1"):
            model.poll(serial)
            model.check()
    assert (model.held("A1"), model.held("B1")) == (10, 0)


def test_a_device_that_does_not_report_is_waited_for_until_its_lease_is_over(model: Model) -> None:
    copy = moved_after_backup(model)
    model.reopen(copy)
    model.manager.sweep()
    model.clock.advance(DAY)
    model.poll("A1")
    assert state(model)["waiting_for"] == ["B1"]
    model.clock.advance(LEASE - DAY)
    model.manager.sweep()
    assert state(model) is not None
    model.clock.advance(LEASE_MARGIN)
    assert state(model) is None
    model.poll("A1")
    model.check()
    assert model.may_use(model.devices["A1"], "sbc_sessions") == 10


def test_without_a_journal_it_is_noticed_at_a_contact_and_no_lease_is_renewed(
    model: Model,
) -> None:
    copy = moved_after_backup(model)
    model.reopen(copy, journal=False)
    assert state(model) is None
    device = model.devices["B1"]
    assert model.ask(device).refusal.code == "manager_restored"  # type: ignore[union-attr]
    assert state(model)["journal_agrees"] is False
    assert model.ask(model.devices["A1"]).refusal is not None
    model.clock.advance(LEASE + 2 * LEASE_MARGIN)
    assert state(model) is None
    for serial in ("A1", "B1", "A1"):
        model.poll(serial)
        assert not model.devices[serial].locked
        model.check()
    assert model.may_use(model.devices["A1"], "sbc_sessions") == 10


def test_an_operator_may_end_the_state_by_name_and_reason(model: Model) -> None:
    copy = moved_after_backup(model)
    model.reopen(copy)
    assert state(model) is not None
    for reason, code in (("  ", "bad_request"), ("B1 is off", "")):
        if code:
            with pytest.raises(LicenseError) as error:
                model.change(lambda c, reason=reason: accept(c, reason))  # type: ignore[misc]
            assert error.value.code == code
        else:
            model.change(lambda c: accept(c, "B1 is off"))
    assert state(model) is None
    rows = model.manager.database.read(
        lambda tx: tx.rows("SELECT who, detail FROM journal WHERE cause = 'restore_ended'")
    )
    assert [r["who"] for r in rows] == ["tester"]
    assert "B1 is off" in rows[0]["detail"]
    with pytest.raises(LicenseError) as error:
        model.change(lambda c: accept(c, "again"))
    assert error.value.code == "not_restored"


def test_an_order_imported_after_the_backup_is_charged_with_what_is_used_of_it(
    model: Model,
) -> None:
    copy = model.backup()
    model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=30)
    model.allocate("b", sbc_sessions=40)
    model.poll("B1")
    model.reopen(copy)
    order = model.orders.pop()
    model.order(starts=order.starts, ends=order.ends, sbc_sessions=30)
    assert model.held("B1") == 40
    model.check()


def test_a_unit_that_the_backup_does_not_know_is_waited_for(model: Model) -> None:
    copy = model.backup()
    model.add("c", "C1")
    model.allocate("c", sbc_sessions=10)
    model.poll("C1")
    model.reopen(copy)
    model.manager.sweep()
    model.clock.advance(1)
    model.poll("A1")
    assert state(model)["waiting_for"] == ["C1"]
    with pytest.raises(LicenseError):
        model.allocate("b", sbc_sessions=10)
    model.clock.advance(LEASE + LEASE_MARGIN)
    model.tick(model.devices["C1"])
    model.allocate("b", sbc_sessions=10)


def test_a_key_enrolled_after_the_backup_does_not_give_way_to_the_old_one(model: Model) -> None:
    copy = model.backup()
    old = model.devices["A1"]
    model.enrol("A1", "default")
    model.poll("A1")
    model.reopen(copy)
    answer = model.ask(old)
    assert answer.refusal is not None
    assert answer.refusal.code == "unit_locked"


def test_a_unit_that_calls_again_and_again_while_the_journal_fails_is_no_clone(
    model: Model,
) -> None:
    device, killed = model.devices["A1"], CallpoolError("grant_journal_unusable", "killed")
    for _ in range(4):
        with (
            patch.object(model.manager.grants, "written", side_effect=killed),
            pytest.raises(CallpoolError),
        ):
            model.call(device)
        model.reopen()
    assert model.call(device).refusal is None
    assert model.call(device).refusal is None


@pytest.mark.parametrize("told", [False, True])
def test_a_unit_that_was_reset_while_it_was_not_listed_is_no_clone_once_enrolled_anew(
    model: Model, told: bool
) -> None:
    device = model.devices["A1"]
    model.change(lambda c: inventory.remove_device(c, "a"))
    model.ask(device)
    model.lose(device)
    model.reset(device, told=told)
    model.reopen()
    if not told:  # the share is held until the lease has ended
        with pytest.raises(LicenseError) as early:
            model.change(lambda c: inventory.add_device(c, "a", ["A1"], "default", "live"))
        assert early.value.code == "serial_still_holds"
        model.clock.advance(LEASE + LEASE_MARGIN)
        model.manager.sweep()
    model.add("a", "A1")
    model.allocate("a", sbc_sessions=10)
    assert model.poll("A1") is not None
    assert model.may_use(model.devices["A1"], "sbc_sessions") == 10


def test_a_grant_does_not_leave_while_the_journal_cannot_be_written(model: Model) -> None:
    model.manager.layout.grants.unlink()
    model.manager.layout.grants.mkdir()
    with pytest.raises(CallpoolError) as error:
        model.allocate("b", sbc_sessions=5)
    assert error.value.code == "grant_journal_unusable"
    with pytest.raises(CallpoolError):
        model.poll("B1")
    assert model.may_use(model.devices["B1"], "sbc_sessions") == 0
    model.manager.layout.grants.rmdir()
    model.poll("B1")
    assert model.may_use(model.devices["B1"], "sbc_sessions") == 5
    last, latest, _ = GrantJournal(model.manager.layout.grants).read()
    assert last > 0
    assert latest["B1"].holdings[0][4] == 5


def unit(serial: str, version: int) -> UnitState:
    return UnitState(
        serial=serial,
        kid=None,
        version=version,
        content="[]",
        sent=0,
        floor=0,
        leased=False,
        report=None,
        grants=(),
        holdings=(),
    )


def never(_last: int) -> list[Entry]:
    raise AssertionError


def test_a_torn_line_is_forgotten_and_a_gap_is_filled_with_everything(tmp_path: Path) -> None:
    file = tmp_path / "second" / "journal"
    first = GrantJournal(file)
    first.append(1, Entry(number=1, at=0.0, units=(unit("A", 1),)), never)
    with file.open("ab") as handle:
        handle.write(b'{"number": 2, "at')
    again = GrantJournal(file)
    assert again.read() == (1, {"A": unit("A", 1)}, True)
    whole = Entry(number=3, at=0.0, units=(unit("A", 2), unit("B", 1)))
    again.append(3, None, lambda _last: [whole])
    again.append(3, None, never)
    assert first.read() == (3, {"A": unit("A", 2), "B": unit("B", 1)}, True)


def test_a_long_journal_is_rewritten_with_the_latest_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = GrantJournal(tmp_path / "journal")
    for number in range(1, 20):
        entry = Entry(number=number, at=0.0, units=(unit("A", number),))
        journal.append(number, entry, never)
    monkeypatch.setattr("callpool.manager.grant_journal.COMPACT_ABOVE", 100)
    size = journal.file.stat().st_size
    GrantJournal(journal.file).compact()
    assert journal.file.stat().st_size < size / 5
    assert journal.read() == (19, {"A": unit("A", 19)}, True)
