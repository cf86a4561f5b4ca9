"""The call book: datagrams in any order, lost or repeated, give the same book."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from callpool.device.gate.calls import CallBook, Contact, after


def book() -> CallBook:
    made = CallBook()
    made.begin(7, 0)
    return made


def admitted(seq: int, call: str) -> str:
    return f"7 {seq} A 0 1 {seq} {call}"


def ended(seq: int, call: str) -> str:
    return f"7 {seq} E end {seq} {call}"


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.randoms())
def test_the_order_of_arrival_does_not_matter(calls: list[str], rng: random.Random) -> None:
    live: set[str] = set()
    told = []
    for number, call in enumerate(calls, 1):
        told.append(ended(number, call) if call in live else admitted(number, call))
        live ^= {call}
    rng.shuffle(told)
    b = book()
    for datagram in told:
        assert b.receive(datagram)
    assert set(b.calls) == live
    assert not b.gap


def test_a_lost_datagram_is_a_gap_until_a_sync_closes_it() -> None:
    b = book()
    b.receive(admitted(1, "a"))
    b.receive(admitted(3, "c"))
    assert b.gap
    assert b.seen == 3
    b.receive("7 3 B s1 50")
    b.receive("7 0 K s1\n64 a\n128 b\n192 c")
    b.receive(ended(4, "a"))  # while the dump was on its way
    b.receive("7 4 Z s1 3 0 3 0 0")
    assert set(b.calls) == {"b", "c"}
    assert b.done == b.seen == 4
    assert b.synced == "s1"


def test_a_dump_with_a_lost_part_is_not_believed() -> None:
    b = book()
    b.receive(admitted(1, "a"))
    b.receive("7 1 B s1 50")
    b.receive("7 1 Z s1 2 0 2 0 0")
    assert set(b.calls) == {"a"}
    assert b.synced == ""


def test_an_earlier_kamailio_is_not_heard() -> None:
    b = book()
    assert not b.receive("6 1 A 0 1 1 old")
    assert b.calls == {}


@given(st.text(max_size=60))
def test_no_datagram_breaks_the_book(text: str) -> None:
    b = book()
    b.receive(text)
    b.receive("7 1 " + text)


def test_numbers_go_round_after_2_to_the_32() -> None:
    assert after(0, 0xFFFFFFFF) == 1
    assert after(0xFFFFFFFF, 0) == -1
    b = book()
    b.done = b.seen = 0x7FFFFFFF
    b.receive("7 -2147483648 A 0 1 1 over")
    assert not b.gap
    assert "over" in b.calls


def test_the_journal_gives_the_same_book_back() -> None:
    b = book()
    contact = Contact(ruid="r", address="sip:a@192.0.2.1", expires=99)
    b.receive(admitted(1, "a b;c"))
    b.receive("7 2 U 1 1 u@d\n" + contact.line())
    b.receive(admitted(3, "gone"))
    b.receive(ended(4, "gone"))
    again = CallBook()
    for line in b.lines():
        again.replay(line)
    assert (again.calls, again.users) == (b.calls, b.users)
    third = CallBook()
    for line in b.snapshot():
        third.replay(line)
    assert (third.calls, third.users, third.done) == (b.calls, b.users, 4)


@given(st.text(max_size=60))
def test_a_torn_journal_line_is_passed_over(text: str) -> None:
    CallBook().replay(text)
