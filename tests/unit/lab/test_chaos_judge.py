"""The judge of chaos finds what is wrong, and what is right it leaves alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from callpool.lab.chaos.judge import Records, findings
from callpool.lab.chaos.schedule import KINDS, MANAGERS, Fault, schedule
from callpool.lab.chaos.witness import Book, Call, Seen, calls_of, cap_in_force, never_above

GOOD = Call(call_id="1", begun=1.0, established=1.1, bye=5.1, answer=200, bye_answer=200)


def looks(*caps: int) -> list[Seen]:
    return [Seen(begin=float(n), end=n + 0.1, cap=cap) for n, cap in enumerate(caps)]


def records(**changes: object) -> Records:
    book = Book(allocations={"a": [(1.0, 1.1, 7, True, False)]}, tenants=["t"])
    good = Records(
        bought=10, caps={"a": looks(7, 7), "b": looks(3, 3)}, calls={"a": [GOOD]}, book=book,
        allocations={"a": 7}, actual={"a": 7}, counted={"a": 0}, tenants_missing=(), held=10,
        journals={}, converged=1.0, planned={"cut_link": 3}, happened={"cut_link": 2},
    )  # fmt: skip
    return replace(good, **changes)  # type: ignore[arg-type]


def test_a_run_in_which_all_went_well_has_no_findings() -> None:
    assert findings(records()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"caps": {"a": looks(8, 8), "b": looks(3, 3)}}, "caps of 11 in force"),
        ({"caps": {"a": looks(8), "b": looks(2, 2)}}, "saw too little of a"),
        ({"held": 11}, "11 are held in the database"),
        ({"calls": {"a": [replace(GOOD, bye_answer=481)]}}, "answered by 481"),
        ({"calls": {"a": [replace(GOOD, bye_answer=0)]}}, "answered by none"),
        ({"calls": {"a": [replace(GOOD, cut=True)]}}, "ended by the far side"),
        ({"counted": {"a": 1}}, "a counts 1 calls at the end"),
        ({"tenants_missing": ("t",)}, "tenants t"),
        ({"allocations": {"a": 6}, "actual": {"a": 6}}, "a has 6, it can only be one of [7]"),
        ({"converged": None}, "did not converge"),
        ({"planned": {}}, "Nothing was to go wrong"),
        ({"happened": {"cut_link": 0}}, "cut_link was to happen 3 times and never did"),
        ({"happened": {"cut_link": 1}}, "Only 1 of 3 faults really happened"),
        ({"calls": {"a": []}}, "No call of a was ever established"),
        ({"book": Book(allocations={"a": []})}, "No allocation to a was ever acknowledged"),
    ],
)
def test_each_thing_that_goes_wrong_is_found(changes: dict[str, object], said: str) -> None:
    found = findings(records(**changes))
    assert [sentence for sentence in found if said in sentence], found


def test_caps_that_hand_over_between_two_looks_are_not_held_against_anybody() -> None:
    given = never_above([looks(10, 0, 0), looks(0, 10, 10)], 10)
    assert given == (10, 0.0)


def test_a_call_that_got_no_final_answer_may_still_be_counted() -> None:
    unknown = Call(call_id="2", begun=2.0)
    assert findings(records(calls={"a": [GOOD, unknown]}, counted={"a": 1})) == []


def test_a_change_that_nobody_answered_may_have_come_to_be_and_an_acknowledged_one_has() -> None:
    asked = [(1.0, 1.1, 7, True, False), (2.0, 8.0, 3, False, False)]
    for has, right in ((7, True), (3, True), (5, False)):
        made = records(book=Book(allocations={"a": asked}), allocations={"a": has})
        assert (findings(made) == []) is right


def test_the_step_in_force_is_told_from_a_policy_by_both_clocks() -> None:
    policy = "100;500;50;1;20;-1;-1;;503;0;/0;0;0;1;5;-1;-1;;503;0;"
    assert cap_in_force(policy, 100.4, 49) == 20
    assert cap_in_force(policy, 100.6, 49) == 5
    assert cap_in_force(policy, 90.0, 50) == 5
    assert cap_in_force("0;0;0;0;20;-1;-1;no_license;503;0;x", 1.0, 1) == 0
    assert cap_in_force("0;0;0;1;-1;-1;-1;;503;0;", 1.0, 1) > 1000


def test_calls_are_read_out_of_a_callers_trace() -> None:
    trace = [
        ("1.0", "S", "c1", "CSeq: 1 INVITE", "INVITE sip:1000@x SIP/2.0"),
        ("1.1", "R", "c1", "CSeq: 1 INVITE", "SIP/2.0 180 Ringing"),
        ("1.2", "R", "c1", "CSeq: 1 INVITE", "SIP/2.0 200 OK"),
        ("5.2", "S", "c1", "CSeq: 9 BYE", "BYE sip:1000@x SIP/2.0"),
        ("5.3", "R", "c1", "CSeq: 9 BYE", "SIP/2.0 200 OK"),
        ("2.0", "S", "c2", "CSeq: 1 INVITE", "INVITE sip:1000@x SIP/2.0"),
        ("2.1", "R", "c2", "CSeq: 1 INVITE", "SIP/2.0 503 Service Unavailable"),
    ]
    lines = ["\t".join(("day", "time", *line)) for line in trace]
    first, second = calls_of(lines)
    assert (first.established, first.bye, first.bye_answer) == (1.2, 5.2, 200)
    assert (second.answer, second.established) == (503, 0.0)


def test_a_seed_plays_the_same_faults_and_another_plays_others() -> None:
    def faults(seed: int) -> list[Fault]:
        return schedule(seed, 600, managers=("m1", "m2"), devices=("a", "b"), database=True)

    assert faults(3) == faults(3)
    assert faults(3) != faults(4)


@pytest.mark.parametrize("seed", range(20))
def test_in_ten_minutes_everything_goes_wrong_again_and_again(seed: int) -> None:
    made = schedule(seed, 600, managers=("m1", "m2"), devices=("a", "b"), database=True)
    often = Counter(fault.kind for fault in made)
    assert set(often) == set(KINDS)
    assert min(often.values()) > 3
    clocks = {f.target for f in made if f.kind == "set_clock"}
    assert clocks == {"a", "b", MANAGERS}, "the managers' clock is set wrong too"
    assert min(f.seconds for f in made if f.kind == "set_clock") < 0
