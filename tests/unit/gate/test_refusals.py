"""True refusals told apart from repeats of the same caller."""

from __future__ import annotations

from callpool.device.gate import refusals
from callpool.device.gate.calls import CallBook
from callpool.device.gate.refusals import Refusals

A, B = ("sip:a@x", "sip:1@x"), ("sip:b@x", "sip:1@x")


def counted(*told: tuple[tuple[str, str], int], reason: str = "session_limit") -> object:
    made = Refusals(30)
    for who, tick in told:
        made.told(reason, register=False, who=who, tick=tick)
    return made.counts()


def test_the_same_caller_within_30_seconds_is_a_repeat_and_puts_the_end_off() -> None:
    assert counted((A, 100), (A, 129)) == {"sbc_sessions": (1, 1)}
    assert counted((A, 100), (A, 130)) == {"sbc_sessions": (2, 0)}
    assert counted((A, 100), (A, 120), (A, 140), (A, 169)) == {"sbc_sessions": (1, 3)}


def test_another_caller_or_another_number_is_no_repeat() -> None:
    other = (A[0], "sip:2@x")
    assert counted((A, 100), (B, 101), (other, 102)) == {"sbc_sessions": (3, 0)}


def test_each_reason_counts_where_a_license_was_wanting_and_others_nowhere() -> None:
    assert counted((A, 1), reason="user_limit") == {"far_end_users": (1, 0)}
    assert counted((A, 1), reason="cps_limit") == {"cps": (1, 0)}
    assert counted((A, 1), reason="no_policy") == {}
    made = Refusals(30)
    made.told("no_license", register=True, who=A, tick=1)
    made.told("no_license", register=False, who=A, tick=1)
    assert made.counts() == {"far_end_users": (1, 0), "sbc_sessions": (1, 0)}


def test_a_flood_of_callers_is_forgotten_oldest_first() -> None:
    made = Refusals(30)
    for n in range(refusals.MOST + 10):
        made.told("session_limit", register=False, who=(f"sip:{n}@x", ""), tick=5)
    assert len(made._last) == refusals.MOST


def test_what_only_the_heartbeat_tells_of_counts_as_true_refusals() -> None:
    b = CallBook()
    b.begin(7, 0)
    b.receive("7 1 R session_limit INVITE 50 sip:a@x sip:1@x id1")
    b.receive("7 2 R session_limit INVITE 60 sip:a@x sip:1@x id2")
    b.receive("7 4 H 61 5 0 0 0 9 session_limit=4")
    assert b.turned_away.counts() == {"sbc_sessions": (3, 1)}
    b.receive("7 4 H 62 5 0 0 0 9 session_limit=4")
    assert b.turned_away.counts() == {"sbc_sessions": (3, 1)}


def test_the_highest_use_since_it_was_last_asked_is_not_lost_between_two_looks() -> None:
    b = CallBook()
    b.begin(7, 0)
    b.receive("7 1 A 0 1 1 a")
    b.receive("7 2 A 0 2 1 b")
    b.receive("7 3 E end 2 a")
    b.receive("7 4 E end 2 b")
    assert b.take_high() == (2, 0)
    assert b.take_high() == (0, 0)
