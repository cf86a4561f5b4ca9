"""What a manager reads of a notification before and after it is verified, and how much."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.host.snmp.limit import MOST_SOURCES, Limiter, Rate
from callpool.host.snmp.trap import (
    ACTIVE,
    COLD_START,
    PREFIX,
    TRAP_OID,
    Plain,
    canonical,
    oid_of,
    read,
    read_table,
)
from callpool.host.snmp.usm import is_v3, sender
from callpool.licensing.alarm_feed import NO_NUMBER
from callpool.licensing.alarm_table import POOL_INFRASTRUCTURE, EventType, Severity

NOW = 1_800_000_000.0
VALUES: dict[int, Plain] = {
    1: 105, 2: b"Lost.", 3: b"Board#1", 4: 4, 5: 31_999, 6: 1, 7: 68, 8: b"contact_lost",
    9: b"The last contact failed.", 10: b"Check it.",
    11: bytes((7, 0xEA, 11, 25, 12, 30, 15, 5)) + b"+\0\0", 12: 4, 16: b"S1",
}  # fmt: skip


def binds(
    oid: tuple[int, ...] = (*PREFIX, 2, 0, 106),
    values: dict[int, Plain] | None = None,
    arc: tuple[int, ...] = PREFIX,
    **over: Any,
) -> list[tuple[tuple[int, ...], Plain]]:
    found = dict(VALUES if values is None else values) | {int(k[1:]): v for k, v in over.items()}
    return [(TRAP_OID, oid), *(((*arc, 1, n, 0), v) for n, v in found.items())]


def test_the_16_variables_are_read() -> None:
    told = read(binds(), (PREFIX,), NOW)
    assert told is not None
    assert told.serial == "S1"
    heard = told.heard
    assert heard is not None
    assert (heard.oid, heard.about, heard.severity) == (
        POOL_INFRASTRUCTURE, "Board#1", Severity.MAJOR
    )  # fmt: skip
    assert heard.codes == ("contact_lost",)
    assert heard.text == "The last contact failed."
    assert heard.short == "Lost."
    assert (heard.event_type, heard.cause) == (EventType.COMMUNICATIONS, 68)
    assert heard.unique == 31_999
    assert heard.at == 1_795_609_815.5  # 2026-11-25 12:30:15.5 UTC


def test_a_changed_prefix_and_variables_without_their_last_arc_are_read() -> None:
    other = (1, 3, 6, 1, 4, 1, 4711, 1)
    assert canonical((*other, 2, 0, 33), ()).endswith(".33")
    short = [(TRAP_OID, (*other, 2, 0, 106)), *(((*other, 1, n), v) for n, v in VALUES.items())]
    told = read(short, (PREFIX,), NOW)
    assert told is not None
    assert told.serial == "S1"
    assert told.heard is not None
    assert told.heard.oid == POOL_INFRASTRUCTURE
    mixed = read(binds((*other, 2, 0, 106)), (PREFIX,), NOW)  # variables by the usual prefix
    assert mixed is not None
    assert mixed.serial == "S1"


@pytest.mark.parametrize(
    "oid",
    [
        (1, 3, 6, 1, 6, 3, 1, 1, 5, 3),  # linkDown
        (1, 3, 6, 1, 4, 1, 9, 9, 831, 0, 1),
        (1, 3, 6, 1, 4, 1, 32473, 1, 0, 101),  # the manager's own
        (*PREFIX, 2, 0, 0),
        (*PREFIX, 2, 0, 99_999),
        (),
    ],
)
def test_what_is_no_alarm_of_a_device_is_none(oid: tuple[int, ...]) -> None:
    assert read(binds(oid), (PREFIX,), NOW) is None


def test_a_cold_start_names_nobody() -> None:
    told = read([(TRAP_OID, COLD_START)], (PREFIX,), NOW)
    assert told is not None
    assert told.cold_start
    assert (told.serial, told.heard) == ("", None)


@pytest.mark.parametrize("severity", [None, 6, -1, b"4"])
def test_without_a_severity_it_is_nothing(severity: Plain) -> None:
    assert read(binds(_4=severity), (PREFIX,), NOW) is None


@pytest.mark.parametrize("at", [None, b"", b"1234567", bytes(8), b"\x07\xea" + b"\xff" * 9, 3])
def test_a_time_that_is_none_is_now(at: Plain) -> None:
    told = read(binds(_11=at), (PREFIX,), NOW)
    assert told is not None
    assert told.heard is not None
    assert told.heard.at == NOW


def test_another_makers_texts_stay_texts() -> None:
    told = read(binds(_8=b"Additional", _5=None, _2=b"\x1b[31m\xff bad"), (PREFIX,), NOW)
    assert told is not None
    assert told.heard is not None
    assert told.heard.codes == ()
    assert told.heard.unique == NO_NUMBER
    assert "\x1b" not in told.heard.text


plain = st.one_of(
    st.none(), st.integers(-(2**40), 2**70), st.binary(max_size=40),
    st.lists(st.integers(0, 2**32), max_size=14).map(tuple),
)  # fmt: skip
names = st.lists(st.integers(0, 2**32), max_size=14).map(tuple)


@given(
    st.lists(st.tuples(st.one_of(names, st.just(TRAP_OID)), plain), max_size=20),
    st.dictionaries(st.integers(1, 16), plain),
)
def test_nothing_that_is_sent_raises(
    anything: list[tuple[tuple[int, ...], Plain]], values: dict[int, Plain]
) -> None:
    read(anything, (PREFIX,), NOW)
    read(binds(values=values), (PREFIX,), NOW)
    columns = [3, 4, 6, 7, 8, 1]
    rows = {(*ACTIVE, c, n): v for n, v in values.items() for c in columns}
    read_table(rows | {ACTIVE: 1, (*ACTIVE, 3): 2}, (PREFIX,), NOW)


def test_the_rows_of_an_active_table_are_read() -> None:
    trap = oid_of(POOL_INFRASTRUCTURE)
    row: dict[int, Plain] = {
        1: 32_007, 3: trap, 4: VALUES[11], 5: 105, 6: b"Lost.", 7: b"system0Mo", 8: 4, 9: 1,
        10: 68, 11: b"contact_lost", 12: b"Sentence.", 13: b"",
    }  # fmt: skip
    table = {(*ACTIVE, c, 32_007): v for c, v in row.items()}
    table |= {(*ACTIVE, 3, 2): (1, 3, 6), (*ACTIVE, 8, 2): 4}  # not ours
    (heard,) = read_table(table, (PREFIX,), NOW)
    assert heard.oid == POOL_INFRASTRUCTURE
    assert heard.text == "Sentence."
    assert heard.unique == 6, "the number as a notification tells it"


# -- before it is verified


def ber(tag: int, content: bytes) -> bytes:
    length = bytes((len(content),)) if len(content) < 128 else b"\x82" + struct.pack(
        ">H", len(content)
    )  # fmt: skip
    return bytes((tag,)) + length + content


def message(*, version: int = 3, engine: bytes = b"\x80engine", user: bytes = b"noc") -> bytes:
    security = ber(0x30, ber(0x04, engine) + ber(0x02, b"\x07") + ber(0x02, b"\x01\x00")
                   + ber(0x04, user) + ber(0x04, b"digest") + ber(0x04, b"salt"))  # fmt: skip
    header = ber(0x30, ber(0x02, b"\x01") + ber(0x02, b"\x05\xdc") + ber(0x04, b"\x03"))
    return ber(0x30, ber(0x02, bytes((version,))) + header + ber(0x04, security)
               + ber(0x04, bytes(300)))  # fmt: skip


def test_the_sender_is_read_before_it_is_verified() -> None:
    told = sender(message())
    assert (told.engine, told.boots, told.time, told.user) == (b"\x80engine", 7, 256, "noc")
    assert is_v3(message())
    assert not is_v3(message(version=1))
    assert not is_v3(b"")


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_damaged_message_is_refused_or_read_and_nothing_else(at: int, new: bytes) -> None:
    whole = message()
    for damaged in (whole[:at], whole[:at] + new + whole[at + len(new) :], new):
        is_v3(damaged)
        try:
            sender(damaged)
        except ValueError:
            continue


# -- how much


def test_one_source_cannot_use_up_what_all_have_and_all_is_bounded() -> None:
    limiter = Limiter(Rate(burst=10, second=1), Rate(burst=15, second=5))
    assert sum(limiter.allows("a", 0.0) for _ in range(100)) == 10
    assert sum(limiter.allows("b", 0.0) for _ in range(100)) == 5
    assert sum(limiter.allows("c", 0.0) for _ in range(100)) == 0
    assert sum(limiter.allows("a", 2.0) for _ in range(100)) == 2
    assert sum(limiter.allows("c", 2.0) for _ in range(100)) == 8
    assert sum(limiter.allows("a", 1_000.0) for _ in range(100)) == 10


def test_sources_are_forgotten_in_order_of_their_silence() -> None:
    limiter = Limiter(Rate(burst=1, second=0), Rate(burst=1e9, second=0))
    assert limiter.allows("first", 0.0)
    assert not limiter.allows("first", 0.0)
    for number in range(MOST_SOURCES):
        assert limiter.allows(f"source {number}", 0.0)
    assert limiter.allows("first", 0.0), "a bound on memory, not on justice"
    assert not limiter.allows(f"source {MOST_SOURCES - 1}", 0.0)
