"""One alarm heard by several ways: what an event is."""

from __future__ import annotations

import pytest

from callpool.licensing.alarm_feed import (
    BOARD_STARTED,
    HITLESS_STATUS,
    NO_NUMBER,
    Heard,
    Known,
    Last,
    Verdict,
    is_late,
    is_managers,
    judge,
)
from callpool.licensing.alarm_table import (
    ALARM_NAMES,
    DEFINITIONS,
    OWN_TRAPS,
    POOL_INFRASTRUCTURE,
    POOL_OVER_ALLOCATION,
    Severity,
)
from callpool.licensing.alarm_words import LAST_UNIQUE, name_of
from callpool.licensing.manager_alarm_table import (
    ALL_DEFINITIONS,
    MANAGER_ALARM_NAMES,
    MANAGER_DEFINITIONS,
)

MAJOR, CLEARED, CRITICAL = Severity.MAJOR, Severity.CLEARED, Severity.CRITICAL


def heard(
    severity: Severity = MAJOR,
    *,
    code: str = "contact_lost",
    text: str = "told",
    oid: str = POOL_INFRASTRUCTURE,
    number: int = 5,
    at: float = 100.0,
) -> Heard:
    codes = (code,) if code else ()
    return Heard(
        oid=oid, severity=severity, short=text, text=text, codes=codes, at=at, unique=number
    )


ACTIVE = Known(severity=MAJOR, code="contact_lost", text="told")


@pytest.mark.parametrize(
    ("active", "event", "verdict"),
    [
        (None, heard(), Verdict.RAISED),
        (None, heard(CLEARED), Verdict.NOTHING),
        (ACTIVE, heard(), Verdict.NOTHING),
        (ACTIVE, heard(text="told otherwise"), Verdict.NOTHING),  # a detail is not told again
        (ACTIVE, heard(CRITICAL), Verdict.CHANGED),
        (ACTIVE, heard(code="lease_warning"), Verdict.CHANGED),
        (ACTIVE, heard(CLEARED), Verdict.CLEARED),
        (None, heard(oid=HITLESS_STATUS), Verdict.EVENT),
        (ACTIVE, heard(CLEARED, oid=BOARD_STARTED), Verdict.EVENT),
    ],
)
def test_what_an_event_is(active: Known | None, event: Heard, verdict: Verdict) -> None:
    assert judge(active, None, event) is verdict


def test_a_sentence_that_is_told_anew_is_a_change_but_not_where_it_was_only_cut() -> None:
    long = "x" * 90
    known = Known(severity=MAJOR, code="over_allocated", text=long)
    again = heard(code="over_allocated", oid=POOL_OVER_ALLOCATION, text=long[:80])
    assert judge(known, None, again) is Verdict.NOTHING
    other = heard(code="over_allocated", oid=POOL_OVER_ALLOCATION, text="y")
    assert judge(known, None, other) is Verdict.CHANGED
    # Another maker's alarm has no codes: its text is all there is.
    known = Known(severity=MAJOR, code="", text="one")
    assert judge(known, None, heard(code="", text="two")) is Verdict.CHANGED


@pytest.mark.parametrize(
    ("number", "at", "late"),
    [
        (4, 99.0, True),
        (4, 101.0, False),  # counted anew after a restart
        (6, 99.0, False),  # its clock was set back
        (5, 99.0, False),
        (NO_NUMBER, 99.0, False),
        (LAST_UNIQUE, 99.0, True),  # the number has wrapped since
    ],
)
def test_an_event_is_late_by_its_number_and_by_its_time(number: int, at: float, late: bool) -> None:
    assert is_late(Last(unique=5, at=100.0), number, at) is late
    event = heard(number=number, at=at)
    assert (judge(ACTIVE, Last(unique=5, at=100.0), event) is Verdict.LATE) is late


def test_the_managers_own_alarms_stand_apart_from_those_of_devices() -> None:
    assert not MANAGER_DEFINITIONS.keys() & DEFINITIONS.keys()
    assert ALL_DEFINITIONS.keys() == MANAGER_DEFINITIONS.keys() | DEFINITIONS.keys()
    own = {d.oid for d in MANAGER_DEFINITIONS.values()}
    assert own == MANAGER_ALARM_NAMES.keys()
    assert not own & ALARM_NAMES.keys()
    assert all(is_managers(oid) for oid in own)
    assert not any(is_managers(d.oid) for d in DEFINITIONS.values())
    assert is_managers(f"{OWN_TRAPS}.101")
    assert not is_managers(f"{OWN_TRAPS}.100")
    assert name_of(POOL_INFRASTRUCTURE) == "acLicensePoolInfraAlarm"
    assert name_of("1.2.3") == "1.2.3"
    for found in MANAGER_DEFINITIONS.values():
        assert found.text.count("{}") <= 1
        assert found.next_step
        assert found.severity > Severity.CLEARED
