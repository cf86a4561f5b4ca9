"""The manager's own alarms: raised and cleared from the state alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from poolmodel import DAY, LEASE, START, Model

from callpool.licensing.alarm_table import POOL_INFRASTRUCTURE, Severity
from callpool.licensing.alarms import Event
from callpool.manager import alarm_views, alarms, inventory, own_alarms, requests
from callpool.manager.alarm_report import heard_from
from callpool.manager.alarm_views import ActiveQuery
from callpool.manager.authority_alerts import EXPIRED, MINOR, clear_alert, raise_alert
from callpool.manager.own_alarms import OwnAlarms, machine_conditions
from callpool.manager.restored import Restored, keep


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=20, far_end_users=20)
    made.add("a", "A1")
    made.poll("A1")
    yield made
    made.close()


def look(model: Model) -> set[tuple[str, str, str]]:
    """(serial, gravest condition, severity) of what is active after a look."""
    own = OwnAlarms(model.manager)
    own._began = 0.0  # long since
    own.look(0.0)
    active = model.manager.database.read(
        lambda tx: alarm_views.active(tx, ActiveQuery(limit=1_000))
    )["alarms"]
    return {(a["serial"], a["codes"][0], a["severity"]) for a in active}


HEARD = heard_from(
    Event(
        sequence=1,
        at=START,
        oid=POOL_INFRASTRUCTURE,
        severity=Severity.MAJOR,
        codes=("contact_lost",),
        text="told",
    )
)


def test_a_healthy_manager_has_no_alarm_and_writes_nothing(model: Model) -> None:
    assert look(model) == set()
    before = model.manager.database.read(lambda tx: tx.value("SELECT max(entry) FROM journal"))
    own = OwnAlarms(model.manager)
    assert not own.look(0.0)
    after = model.manager.database.read(lambda tx: tx.value("SELECT max(entry) FROM journal"))
    assert before == after


def test_a_silent_device_is_alarmed_graver_before_its_lease_ends_and_cleared_by_a_contact(
    model: Model,
) -> None:
    model.clock.advance(300 + 2 * 900 - 1)
    assert look(model) == set()
    model.clock.advance(2)
    assert look(model) == {("A1", "device_silent", "major")}
    assert not OwnAlarms(model.manager).look(0.0), "told once"
    model.clock.advance(LEASE - DAY - 2101 + 1)
    assert look(model) == {("A1", "unit_lease_ends", "critical")}
    model.poll("A1")
    assert look(model) == set()


def test_a_manager_that_was_down_lets_its_devices_call_before_they_count_as_silent(
    model: Model,
) -> None:
    def codes_after(own: OwnAlarms) -> list[str]:
        own.look(0.0)
        found = model.manager.database.read(lambda tx: alarm_views.active(tx, ActiveQuery()))
        return [a["codes"][0] for a in found["alarms"]]

    model.clock.advance(3_000)
    anew = OwnAlarms(model.manager)
    assert codes_after(anew) == []
    model.clock.advance(300 + 2 * 900)
    assert codes_after(anew) == ["device_silent"]
    # What was alarmed before stays so over another restart, until it calls.
    assert codes_after(OwnAlarms(model.manager)) == ["device_silent"]
    model.poll("A1")
    assert codes_after(OwnAlarms(model.manager)) == []


def test_where_many_fall_silent_at_once_no_transaction_is_long(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_alarms, "AT_ONCE", 3)
    for number in range(8):
        model.add(f"m{number}", f"M{number}")
        model.poll(f"M{number}")
    model.clock.advance(3_000)
    sizes = []
    change = model.manager.change

    def counted(who: str, source: str, work: Any) -> Any:
        before = count(model)
        done = change(who, source, work)
        sizes.append(count(model) - before)
        return done

    monkeypatch.setattr(model.manager, "change", counted)
    look(model)
    assert sizes == [3, 3, 3]


def count(model: Model) -> int:
    read = model.manager.database.read
    return int(read(lambda tx: tx.value("SELECT count(*) FROM alarm_event")))


def test_a_removed_device_leaves_no_alarm(model: Model) -> None:
    model.clock.advance(3_000)
    model.change(lambda c: alarms.take(c, "A1", HEARD, alarms.PROTOCOL))
    assert {code for _, code, _ in look(model)} == {"device_silent", "contact_lost"}
    model.change(lambda c: inventory.remove_device(c, "a"))
    assert look(model) == set()


def test_a_locked_unit_is_alarmed_until_it_is_unlocked(model: Model) -> None:
    model.change(lambda c: c.tx.run("UPDATE unit SET locked = 'stale_contact'"))
    assert look(model) == {("A1", "unit_locked", "critical")}
    model.change(lambda c: inventory.unlock(c, "A1"))
    assert look(model) == set()


def test_an_orders_end_is_told_ahead_nearer_and_after(model: Model) -> None:
    def at(day: float) -> set[tuple[str, str, str]]:
        model.clock.wall = START + day * DAY
        return {a for a in look(model) if "order" in a[1]}

    assert at(369) == set()
    assert at(371) == {("", "order_ends", "warning")}
    assert at(394) == {("", "order_ends_soon", "major")}
    assert at(401) == {("", "order_ended", "critical")}
    assert at(431) == set()


def test_a_request_that_waits_for_an_hour_is_alarmed(model: Model) -> None:
    model.add("b", "B1")
    model.allocate("a", sbc_sessions=20)

    def ask(change: Any) -> None:
        device = inventory.device_by_name(change, "b")
        requests.allocate_or_wait(change, device, {"sbc_sessions": 5})

    model.change(ask)
    model.poll("A1")
    assert look(model) == set()
    model.clock.advance(3_601)
    assert ("B1", "request_waits", "warning") in look(model)
    model.change(lambda c: requests.cancel(c, inventory.device_by_name(c, "b")))
    assert not [a for a in look(model) if a[1] == "request_waits"]


def test_the_restored_state_is_alarmed_while_it_lasts(model: Model) -> None:
    state = Restored(since=START, elapsed=0.0, until=START + 9e9, reason="test", agreed=False)
    model.manager.database.write(lambda tx: keep(tx, state))
    assert ("", "manager_restored", "critical") in look(model)
    model.manager.database.write(lambda tx: keep(tx, None))
    assert look(model) == set()


def test_open_alerts_of_the_authority_are_alarms_too(model: Model) -> None:
    def open_alert(change: Any) -> None:
        change.tx.run("INSERT INTO smart_account (account_id, name, made_at) VALUES (1, 'x', 0)")
        change.tx.run(
            "INSERT INTO virtual_account (va_id, account_id, name, made_at) VALUES (1, 1, 'd', 0)"
        )
        raise_alert(change, EXPIRED, "PO-9", "Order PO-9 has ended.", va=1, severity=MINOR)

    model.change(open_alert)
    assert look(model) == {("", "authority_alert_minor", "minor")}
    model.change(lambda c: clear_alert(c, EXPIRED, "PO-9"))
    assert look(model) == set()


def test_a_target_that_fails_for_half_a_minute_is_alarmed(model: Model) -> None:
    model.manager.database.write(
        lambda tx: tx.run(
            "INSERT INTO alarm_target (name, told, failing_since, failure)"
            " VALUES ('snmp inform 192.0.2.1:162', 3, :now, 'No answer.')",
            now=START,
        )
    )
    assert look(model) == set()
    model.clock.advance(30)
    assert look(model) == {("", "target_down", "major")}
    model.manager.database.write(lambda tx: tx.run("UPDATE alarm_target SET failing_since = NULL"))
    assert look(model) == set()


def test_what_was_expected_is_looked_after_too(model: Model) -> None:
    device = model.change(lambda c: inventory.device_by_name(c, "a")["device_id"])
    model.change(
        lambda c: alarms.expect(c, device, [HEARD.oid], until=c.now + 60, why="maintenance")
    )
    model.change(lambda c: alarms.take(c, "A1", HEARD, alarms.PROTOCOL))
    look(model)
    model.clock.advance(61)
    look(model)
    (alarm,) = model.manager.database.read(lambda tx: alarm_views.active(tx, ActiveQuery()))[
        "alarms"
    ]
    assert alarm["expected"] == ""


def codes(model: Model, now: float) -> list[tuple[str, str]]:
    found = machine_conditions(model.manager.layout, model.manager.settings, now)
    return sorted((c.about, c.code) for c in found)


def test_certificates_disks_and_the_journal_are_looked_at(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC).timestamp()
    assert codes(model, now) == []
    assert codes(model, now + 390 * DAY) == [("certificate tls.pem", "certificate_ends")]
    assert codes(model, now + 400 * DAY) == [("certificate tls.pem", "certificate_ended")]
    full = SimpleNamespace(f_bavail=10, f_frsize=4096, f_blocks=1_000_000)
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    assert [c for _, c in codes(model, now)] == ["disk_low", "disk_low"]
    monkeypatch.undo()
    journal = Path(model.manager.layout.grant_journal(model.manager.settings))
    shutil.move(journal, journal.with_suffix(".kept"))
    journal.mkdir()
    assert codes(model, now) == [("grant journal", "grant_journal_unusable")]
    journal.rmdir()
    shutil.move(journal.with_suffix(".kept"), journal)
    assert codes(model, now) == []


def test_a_journal_that_could_not_be_written_is_alarmed_and_the_alarm_stands(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.manager.journal_trouble = "The disk is full."
    assert look(model) == {("", "grant_journal_unusable", "critical")}
    assert model.manager.journal_trouble == "", "this change could be written"
    assert look(model) == set()
