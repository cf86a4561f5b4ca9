from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.licensing.alarm_table import (
    CLONE_LOCKED,
    CONTACT_LOST,
    DEFINITIONS,
    LEASE_WARNING_CODE,
    OVER_ALLOCATED,
    POOL_INFRASTRUCTURE,
    VENDOR_TRAPS,
    Severity,
)
from callpool.licensing.alarms import HISTORY, AlarmLog, nearly_used

LOST = (CONTACT_LOST, "The last contact failed: a.")
WARNED = (LEASE_WARNING_CODE, "The lease ends in 23 h.")


def test_an_alarm_is_told_once_and_cleared_once() -> None:
    log, told = AlarmLog().observe([LOST], 10.0)
    assert [(e.sequence, e.oid, e.severity, e.at) for e in told] == [
        (1, POOL_INFRASTRUCTURE, Severity.MAJOR, 10.0)
    ]
    # The same again, and with another detail: nothing new.
    assert log.observe([LOST], 11.0) == (log, ())
    assert log.observe([(CONTACT_LOST, "The last contact failed: b.")], 12.0) == (log, ())
    log, told = log.observe([], 13.0)
    assert [(e.sequence, e.oid, e.severity) for e in told] == [
        (2, POOL_INFRASTRUCTURE, Severity.CLEARED)
    ]
    assert told[0].text == LOST[1]
    assert not log.active
    assert len(log.history) == 2
    assert log.observe([], 14.0) == (log, ())


def test_conditions_of_one_notification_are_one_alarm_and_its_gravest_is_told() -> None:
    log, _ = AlarmLog().observe([LOST], 1.0)
    log, told = log.observe([LOST, WARNED], 2.0)
    assert [(e.severity, e.codes) for e in told] == [
        (Severity.CRITICAL, (LEASE_WARNING_CODE, CONTACT_LOST))
    ]
    assert len(log.active) == 1
    # The graver one goes: the other is told again, and nothing is cleared while it holds.
    log, told = log.observe([LOST], 3.0)
    assert [(e.severity, e.code) for e in told] == [(Severity.MAJOR, CONTACT_LOST)]
    log, told = log.observe([], 4.0)
    assert [e.severity for e in told] == [Severity.CLEARED]


def test_a_new_stage_of_the_same_alarm_is_told() -> None:
    log, _ = AlarmLog().observe([(OVER_ALLOCATED, "5 will not be applied.")], 1.0)
    log, told = log.observe([(OVER_ALLOCATED, "5 are not used.")], 2.0)
    assert [(e.sequence, e.text) for e in told] == [(2, "5 are not used.")]
    assert [e.sequence for e in log.active] == [2]


def test_what_survives_a_restart_is_neither_told_again_nor_forgotten() -> None:
    log, _ = AlarmLog().observe([LOST, (CLONE_LOCKED, "x")], 1.0)
    again = msgspec.json.decode(msgspec.json.encode(log), type=AlarmLog)
    assert again == log
    assert again.holds(CONTACT_LOST)
    log, told = again.observe([LOST], 2.0)
    assert [(e.sequence, e.severity, e.code) for e in told] == [(3, Severity.CLEARED, CLONE_LOCKED)]


@given(st.lists(st.sets(st.sampled_from(sorted(DEFINITIONS))), max_size=60))
def test_history_replayed_is_always_what_is_active(rounds: list[set[str]]) -> None:
    log = AlarmLog()
    told_in_all: list[int] = []
    standing: dict[str, Severity] = {}
    for at, codes in enumerate(rounds):
        log, told = log.observe([(c, c) for c in sorted(codes)], float(at))
        told_in_all += [e.sequence for e in told]
        for event in told:
            assert standing.get(event.oid, Severity.CLEARED) is not Severity.CLEARED or (
                event.severity is not Severity.CLEARED
            ), "only what was raised is cleared"
            standing[event.oid] = event.severity
        wanted: dict[str, Severity] = {}
        for code in codes:
            found = DEFINITIONS[code]
            wanted[found.oid] = max(found.severity, wanted.get(found.oid, found.severity))
        assert {e.oid: e.severity for e in log.active} == wanted
        assert {k: v for k, v in standing.items() if v} == wanted
        assert len(log.history) <= HISTORY
    assert told_in_all == list(range(1, len(told_in_all) + 1))


def test_the_history_is_bounded_and_loses_its_oldest() -> None:
    log = AlarmLog()
    for at in range(HISTORY):
        log, _ = log.observe([LOST] if at % 2 == 0 else [], float(at))
        log, _ = log.observe([] if at % 2 == 0 else [LOST], float(at))
    assert len(log.history) == HISTORY
    assert log.history[-1].sequence == log.sequence
    assert log.history[0].sequence == log.sequence - HISTORY + 1


@pytest.mark.parametrize(
    ("used", "cap", "was", "held"),
    [
        (94, 100, False, False),
        (95, 100, False, True),
        (81, 100, True, True),
        (80, 100, True, False),
        (81, 100, False, False),
        (0, 0, True, False),
        (3, 0, False, True),
        (3, 3, False, True),
    ],
)
def test_a_threshold_is_raised_at_95_percent_and_cleared_at_80(
    used: int, cap: int, was: bool, held: bool
) -> None:
    assert nearly_used(used, cap, was=was) is held


def test_the_table_is_whole() -> None:
    assert len({d.oid for d in DEFINITIONS.values()}) < 120, "the vendor's size of the active table"
    for code, found in DEFINITIONS.items():
        assert Severity.CLEARED < found.severity <= Severity.CRITICAL, code
        assert found.text.count("{}") <= 1, code
        assert found.next_step.endswith("."), code
        assert len(found.next_step) <= 100, f"{code}: it goes into AdditionalInfo, 100 octets"
        assert 0 <= found.cause <= 74, code
    # The seed's three, by number.
    vendor = {d.oid.removeprefix(f"{VENDOR_TRAPS}.") for d in DEFINITIONS.values()}
    assert {"106", "107", "125"} <= vendor
