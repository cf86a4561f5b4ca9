"""The manager's alarms: one alarm whichever ways it is heard by, bounded, seen, expected."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poolmodel import START, Model

from callpool.device.alarm_feed import AlarmFeed
from callpool.licensing.alarm_feed import (
    HA_SWITCH_OVER,
    HITLESS_RUN,
    HITLESS_STATUS,
    Heard,
    Verdict,
)
from callpool.licensing.alarm_table import POOL_INFRASTRUCTURE, VENDOR_TRAPS, Severity
from callpool.licensing.alarms import AlarmLog, Event
from callpool.licensing.errors import LicenseError
from callpool.manager import alarm_views, alarms, inventory
from callpool.manager.alarm_report import heard_from, take_report
from callpool.manager.alarm_views import ActiveQuery, AlarmQuery
from callpool.manager.alarms import PROTOCOL, TRAP, take
from callpool.wire.messages import AlarmMessage, AlarmsMessage


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.tenant("other")
    made.add("a", "A1")
    made.add("b", "B1", tenant="other")
    yield made
    made.close()


def raised(number: int = 1, severity: Severity = Severity.MAJOR, **more: Any) -> Heard:
    values = {
        "oid": POOL_INFRASTRUCTURE, "severity": severity, "short": "short", "text": "text",
        "at": START + number, "unique": number, **more,
    }  # fmt: skip
    return Heard(**values)


def trap(model: Model, *heard: Heard, serial: str = "A1", source: str = TRAP) -> list[Verdict]:
    return model.change(lambda c: [take(c, serial, h, source) for h in heard])


def shown(model: Model, **asked: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = model.manager.database.read(
        lambda tx: alarm_views.active(tx, ActiveQuery(**asked))
    )["alarms"]
    return found


def course(model: Model, serial: str = "A1", **asked: Any) -> list[tuple[str, str]]:
    """(transition, severity), the oldest first."""
    asked = {"limit": 1_000, **asked}
    events = model.manager.database.read(lambda tx: alarm_views.history(tx, AlarmQuery(**asked)))[
        "events"
    ]
    return [(e["transition"], e["severity"]) for e in events[::-1] if e["serial"] == serial]


def report(model: Model, message: AlarmsMessage | None, serial: str = "A1") -> int | None:
    def work(change: Any) -> int | None:
        unit = change.tx.row("SELECT * FROM unit WHERE serial = :serial", serial=serial)
        return take_report(change, unit, message)

    return model.change(work)


def test_what_was_taken_once_is_not_taken_again_by_any_way(model: Model) -> None:
    first, cleared = raised(1), raised(2, Severity.CLEARED)
    assert trap(model, first, first) == [Verdict.RAISED, Verdict.NOTHING]
    assert trap(model, first, source=PROTOCOL) == [Verdict.NOTHING]
    assert shown(model)[0]["heard"] == ["protocol", "trap"]
    assert trap(model, cleared, source=PROTOCOL) == [Verdict.CLEARED]
    assert trap(model, cleared, first) == [Verdict.NOTHING, Verdict.NOTHING]
    assert shown(model) == []
    assert course(model) == [("raised", "major"), ("cleared", "cleared")]


def test_an_event_that_comes_late_is_history_only(model: Model) -> None:
    trap(model, raised(2, Severity.CRITICAL))
    assert trap(model, raised(1)) == [Verdict.LATE]
    assert shown(model)[0]["severity"] == "critical"
    assert course(model) == [("raised", "critical"), ("late", "major")]


def test_alarms_about_different_things_of_a_unit_are_different_alarms(model: Model) -> None:
    trap(model, raised(1, about="Module#1"), raised(2, about="Module#2"))
    trap(model, raised(3, Severity.CLEARED, about="Module#1"))
    assert [a["about"] for a in shown(model)] == ["Module#2"]


def test_no_unit_can_fill_the_tables_or_push_out_anothers_history(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "MOST_ACTIVE", 12)
    monkeypatch.setattr(alarms, "HISTORY_UNIT", 40)
    trap(model, raised(1), serial="B1")
    many = [raised(n, oid=f"{VENDOR_TRAPS}.{n}") for n in range(200, 220)]
    trap(model, *many)
    assert len(shown(model, device="a", limit=1_000)) == 12
    flapping = [
        raised(n, Severity.MAJOR if n % 2 else Severity.CLEARED, oid=f"{VENDOR_TRAPS}.200")
        for n in range(1_000, 1_100)
    ]
    trap(model, *flapping)
    count = "SELECT count(*) FROM alarm_event WHERE serial = :serial"
    read = model.manager.database.read
    assert read(lambda tx: tx.value(count, serial="A1")) == 40
    assert course(model, "B1", device="b") == [("raised", "major")]


def test_what_is_too_long_or_cannot_be_is_cut_to_what_can(model: Model) -> None:
    trap(model, raised(1, text="x" * 5_000 + "\n", short="\x00\x1b[31m", about="y" * 300, at=1e300))
    (alarm,) = shown(model)
    assert len(alarm["text"]) == 500
    assert len(alarm["about"]) == 100
    assert alarm["told_at"] == START


def test_an_alarm_is_acknowledged_by_name_and_anew_once_it_is_graver(model: Model) -> None:
    trap(model, raised(1, Severity.MINOR))
    number = shown(model)[0]["id"]
    model.change(lambda c: alarms.acknowledge(c, number, "on it"))
    (alarm,) = shown(model, acknowledged="true")
    assert (alarm["acknowledged_by"], alarm["note"]) == ("tester", "on it")
    assert shown(model, acknowledged="false") == []
    trap(model, raised(2, Severity.WARNING))
    assert len(shown(model, acknowledged="true")) == 1
    trap(model, raised(3, Severity.CRITICAL))
    assert len(shown(model, acknowledged="false")) == 1
    assert ("acknowledged", "minor") in course(model)
    with pytest.raises(LicenseError) as refused:
        model.change(lambda c: alarms.acknowledge(c, number + 1, ""))
    assert refused.value.code == "unknown_alarm"
    with pytest.raises(LicenseError) as refused:
        model.change(lambda c: alarms.acknowledge(c, number, "x" * 501))
    assert refused.value.code == "bad_request"


def device_id(model: Model, name: str = "a") -> int:
    found = model.change(lambda c: inventory.device_by_name(c, name)["device_id"])
    return int(found)


def test_what_is_expected_is_marked_and_unexpected_once_its_time_is_over(model: Model) -> None:
    device = device_id(model)
    model.change(lambda c: alarms.expect(c, device, HITLESS_RUN, until=c.now + 60, why="run 1"))
    trap(model, raised(1, oid=HA_SWITCH_OVER), raised(2))
    trap(model, raised(3, Severity.INDETERMINATE, oid=HITLESS_STATUS))
    trap(model, raised(1, oid=HA_SWITCH_OVER), serial="B1")
    assert [(a["serial"], a["expected"]) for a in shown(model, expected="true")] == [
        ("A1", "run 1")
    ]
    assert course(model, expected="true") == [("raised", "major"), ("event", "indeterminate")]
    assert len(shown(model, expected="false")) == 2
    read = model.manager.database.read
    assert not read(lambda tx: alarms.expected_is_over(tx, model.clock.wall))
    model.clock.advance(60)
    assert read(lambda tx: alarms.expected_is_over(tx, model.clock.wall))
    model.change(alarms.end_expected)
    assert not read(lambda tx: alarms.expected_is_over(tx, model.clock.wall))
    assert shown(model, expected="true") == []
    assert course(model)[-1] == ("unexpected", "major")
    # After its time, and for good: what comes now is an alarm as any other.
    trap(model, raised(8, Severity.CLEARED, oid=HA_SWITCH_OVER), raised(9, oid=HA_SWITCH_OVER))
    assert len(shown(model, device="a", expected="false")) == 2


def test_an_expected_alarm_that_is_cleared_in_time_leaves_nothing(model: Model) -> None:
    device = device_id(model)
    model.change(lambda c: alarms.expect(c, device, HITLESS_RUN, until=c.now + 60, why="run"))
    trap(model, raised(1, oid=HA_SWITCH_OVER), raised(2, Severity.CLEARED, oid=HA_SWITCH_OVER))
    model.clock.advance(61)
    model.change(alarms.end_expected)
    assert shown(model) == []
    assert course(model, expected="true") == [("raised", "major"), ("cleared", "cleared")]
    assert course(model, expected="false") == []


def test_what_is_asked_for_is_filtered_and_paged(model: Model) -> None:
    trap(model, *(raised(n, oid=f"{VENDOR_TRAPS}.{n}") for n in range(200, 205)))
    trap(model, raised(1, Severity.WARNING), serial="B1")
    assert [a["device"] for a in shown(model, tenant="other")] == ["b"]
    assert len(shown(model, severity="minor")) == 5
    seen, cursor = [], ""
    for _ in range(4):
        query = AlarmQuery(limit=2, cursor=cursor)
        page = model.manager.database.read(partial(alarm_views.history, query=query))
        seen += [e["id"] for e in page["events"]]
        if page["next"] is None:
            break
        cursor = page["next"]
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 6
    with pytest.raises(LicenseError, match="no tenant"):
        shown(model, tenant="nobody")


# -- the device protocol


def message(sequence: int, severity: int = 4, **more: Any) -> AlarmMessage:
    values: dict[str, Any] = {
        "sequence": sequence, "at": START + sequence, "oid": POOL_INFRASTRUCTURE,
        "severity": severity, "codes": ("contact_lost",), "text": "told", **more,
    }  # fmt: skip
    return AlarmMessage(**values)


@pytest.mark.parametrize(
    "bad",
    [
        message(1, oid="1.2.3"),
        message(1, oid=f"{VENDOR_TRAPS}.x"),
        message(1, oid="1.3.6.1.4.1.32473.1.0.105"),  # the manager's own
        message(1, severity=6),
        message(1, codes=()),
        message(1, at=float("nan")),
    ],
)
def test_what_a_device_cannot_have_raised_is_passed_over(model: Model, bad: AlarmMessage) -> None:
    assert report(model, AlarmsMessage(log="l", sequence=1, events=(bad,), active=(bad,))) == 1
    assert shown(model) == []


def test_a_log_without_a_name_is_not_taken(model: Model) -> None:
    assert report(model, None) is None
    assert report(model, AlarmsMessage(log="", sequence=1, events=(message(1),))) is None
    assert report(model, AlarmsMessage(log="x" * 65, sequence=1)) is None


def test_a_contact_that_a_notification_has_overtaken_undoes_nothing(model: Model) -> None:
    active = message(1)
    before = AlarmsMessage(log="l", sequence=1, events=(active,), active=(active,))
    report(model, before)
    # Signed before event 2 and 3, taken after their notifications.
    other = raised(3, oid=f"{VENDOR_TRAPS}.107")
    trap(model, raised(2, Severity.CLEARED), other)
    report(model, before)
    assert [a["oid"] for a in shown(model)] == [f"{VENDOR_TRAPS}.107"]
    report(model, AlarmsMessage(log="l", sequence=4))
    assert shown(model) == []


def test_alarms_of_another_maker_are_not_cleared_by_a_log_that_cannot_hold_them(
    model: Model,
) -> None:
    trap(model, raised(1, oid=f"{VENDOR_TRAPS}.33", about="Module#1"))
    report(model, AlarmsMessage(log="l", sequence=0))
    assert len(shown(model)) == 1


conditions = st.frozensets(
    st.sampled_from(["contact_lost", "lease_warning", "restart_pending", "gate_down"])
)
#: What becomes of the trap of an event: lost, told at once, told twice, told later.
fate = st.sampled_from(["lost", "told", "twice", "later"])


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(conditions, st.lists(fate, min_size=8, max_size=8), st.booleans()), max_size=6
    )
)
def test_whatever_is_lost_doubled_or_late_both_sides_agree_after_a_contact(
    turns: list[tuple[frozenset[str], list[str], bool]],
) -> None:
    model = made()
    serial = f"H{model.clock.boottime:.0f}"
    model.clock.advance(1_000)
    model.add(serial.lower(), serial)
    log, feed, later = AlarmLog(log="log"), AlarmFeed(), list[Event]()
    feed.read = lambda: log
    at = model.clock.wall

    def hear(event: Event) -> None:
        heard = heard_from(event)  # as SNMP tells it: tenths of seconds, short texts
        cut = msgspec.structs.replace(heard, at=int(heard.at * 10) / 10, text=heard.text[:100])
        trap(model, cut, serial=serial)

    def contact() -> None:
        feed.taken(report(model, feed.message(0.0), serial))

    for found, fates, contacted in turns:
        at += 7.77
        log, told = log.observe([(code, f"{code} is told") for code in sorted(found)], at)
        for event, what in zip(told, fates, strict=False):
            if what == "later":
                later.append(event)
            for _ in range({"told": 1, "twice": 2}.get(what, 0)):
                hear(event)
        if contacted:
            contact()
    for event in reversed(later):
        hear(event)
    contact()  # learns how far the manager is
    contact()
    mine = {a["oid"]: a for a in shown(model, limit=1_000) if a["serial"] == serial}
    assert {oid: a["severity"] for oid, a in mine.items()} == {
        e.oid: e.severity.name.lower() for e in log.active
    }
    events = [
        e
        for e in model.manager.database.read(
            lambda tx: alarm_views.history(tx, AlarmQuery(limit=1_000))
        )["events"][::-1]
        if e["serial"] == serial
    ]
    up: set[str] = set()
    for e in events:
        if e["transition"] == "late":
            continue
        assert (e["oid"] in up) is (e["transition"] != "raised"), "raised once, cleared once"
        up = up - {e["oid"]} if e["transition"] == "cleared" else up | {e["oid"]}
    assert up == mine.keys()


_made: list[Model] = []


def made() -> Model:
    """One model for all examples: each has a unit of its own."""
    if not _made:
        _made.append(Model())
    return _made[0]


@pytest.fixture(autouse=True, scope="module")
def ended() -> Iterator[None]:
    yield
    while _made:
        _made.pop().close()
