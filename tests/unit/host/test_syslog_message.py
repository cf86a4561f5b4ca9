"""RFC 5424, byte by byte."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.host.syslog.message import DATAGRAM, LEVELS, SD_ID, Level, SyslogMessage, encode
from callpool.host.syslog.target import FACILITIES, SyslogTarget
from callpool.licensing.alarm_table import Severity
from callpool.licensing.errors import CallpoolError

LOCAL0 = FACILITIES.index("local0")
MESSAGE = SyslogMessage(
    at=1_800_000_000.25,
    severity=Level.ALERT,
    hostname="sbc-a",
    app="callpool-device",
    msgid="RAISE-ALARM",
    data={SD_ID: {"serial": "SN-a", "empty": ""}},
    text="Plain text.",
)


def encoded(most: int = DATAGRAM, **changes: object) -> bytes:
    return encode(msgspec.structs.replace(MESSAGE, **changes), LOCAL0, most=most)


def test_every_field_stands_in_its_place() -> None:
    assert encoded() == (
        b"<129>1 2027-01-15T08:00:00.250000Z sbc-a callpool-device - RAISE-ALARM "
        b'[callpool@32473 serial="SN-a"] Plain text.'
    )


def test_what_is_not_known_is_a_dash() -> None:
    assert encoded(hostname="", msgid="", data={}, text="") == (
        b"<129>1 2027-01-15T08:00:00.250000Z - callpool-device - - -"
    )


def test_text_beyond_ascii_has_the_mark_and_plain_text_has_none() -> None:
    assert encoded(text="gerät").endswith(b"] \xef\xbb\xbfger\xc3\xa4t")
    assert b"\xef\xbb\xbf" not in encoded()


def test_quotes_backslashes_and_brackets_are_escaped() -> None:
    data = {SD_ID: {"a": 'say "x\\y]" now'}}
    assert rb'[callpool@32473 a="say \"x\\y\]\" now"]' in encoded(data=data)


def test_no_field_can_break_out_of_its_place() -> None:
    raw = encoded(
        hostname="a b\nc", msgid="x" * 40, text="one\r\ntwo\x00",
        data={'bad]" id': {'na me="': "line\nbreak"}},
    )  # fmt: skip
    assert b" a_b_c callpool-device - " + b"x" * 32 + b" " in raw
    assert b'[bad___id na_me__="line break"] one  two ' in raw


def test_only_the_text_is_cut_short_and_never_inside_a_character() -> None:
    raw = encoded(text="ä" * 5000, most=501)
    assert len(raw) <= 501
    assert raw.partition(b"\xef\xbb\xbf")[2].decode().strip("ä") == ""
    assert b'serial="SN-a"]' in encoded(most=10)


@given(st.text(), st.text())
def test_whatever_is_told_is_one_line_of_utf_8(value: str, text: str) -> None:
    raw = encoded(data={SD_ID: {"v": value}}, text=text)
    assert len(raw) <= DATAGRAM or not text
    assert not set(raw) & set(range(32))
    raw.decode()


def test_an_alarms_severity_is_told_as_rfc_5674_has_it() -> None:
    assert {s.name: int(LEVELS[s]) for s in Severity} == {
        "CRITICAL": 1, "MAJOR": 2, "MINOR": 3, "WARNING": 4, "INDETERMINATE": 5, "CLEARED": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"address": "nowhere"}, "host:port"),
        ({"address": "127.0.0.1:0"}, "needs a port"),
        ({"address": "h:1", "facility": "local9"}, "a facility is one of"),
        ({"address": "h:1", "transport": "tls", "key": "k.pem"}, "go together"),
        ({"address": "h:1", "transport": "tcp", "ca_file": "ca.pem"}, "for the transport tls"),
    ],
)
def test_a_target_that_cannot_be_is_refused_in_one_sentence(
    fields: dict[str, str], says: str
) -> None:
    with pytest.raises((CallpoolError, msgspec.ValidationError), match=says):
        msgspec.convert(fields, SyslogTarget)
