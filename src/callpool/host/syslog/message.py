"""One syslog message as RFC 5424 has it.

Python's `logging.handlers.SysLogHandler` speaks RFC 3164 and knows no structured data.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final

import msgspec

from callpool.licensing import alarm_table

#: Our structured data's SD-ID: the enterprise number that RFC 5612 keeps for documentation.
SD_ID: Final = "callpool@32473"
#: What goes over UDP at most, in bytes: what a receiver should take (RFC 5426, 3.2), and over a
#: stream (RFC 5425, 4.3.1).
DATAGRAM: Final = 2048
STREAM: Final = 8192

_BOM: Final = b"\xef\xbb\xbf"


class Level(IntEnum):
    """SEVERITY of RFC 5424, 6.2.1."""

    EMERGENCY = 0
    ALERT = 1
    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFORMATIONAL = 6
    DEBUG = 7


#: How an alarm's severity is told (RFC 5674, table 1).
LEVELS: Final[Mapping[alarm_table.Severity, Level]] = {
    alarm_table.Severity.CRITICAL: Level.ALERT,
    alarm_table.Severity.MAJOR: Level.CRITICAL,
    alarm_table.Severity.MINOR: Level.ERROR,
    alarm_table.Severity.WARNING: Level.WARNING,
    alarm_table.Severity.INDETERMINATE: Level.NOTICE,
    alarm_table.Severity.CLEARED: Level.NOTICE,
}


class SyslogMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message, before the target's facility is known."""

    #: Trusted time, seconds since 1970.
    at: float
    severity: Level
    #: The sender's name; empty for none.
    hostname: str
    app: str
    #: The kind of message, such as RAISE-ALARM; empty for none.
    msgid: str
    #: SD-ID -> parameter -> value. An empty value is left out.
    data: Mapping[str, Mapping[str, str]] = {}
    text: str = ""


def encode(message: SyslogMessage, facility: int, *, most: int) -> bytes:
    """Return the message in at most `most` bytes; only its text is ever cut short."""
    head = " ".join(
        (
            f"<{facility * 8 + message.severity}>1",
            timestamp(message.at),
            _word(message.hostname, 255),
            _word(message.app, 48),
            "-",
            _word(message.msgid, 32),
            _structured(message.data),
        )
    ).encode()
    text = _one_line(message.text)
    if not text:
        return head
    # The mark is for what is not plain ASCII only: many receivers would show it.
    body = text.encode() if text.isascii() else _BOM + text.encode()
    room = max(0, most - len(head) - 1)
    if len(body) > room:
        body = body[:room].decode(errors="ignore").encode()
    return head + b" " + body


def timestamp(at: float) -> str:
    """Return a time (seconds since 1970) as TIMESTAMP, UTC, microseconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _word(text: str, longest: int) -> str:
    """Return a header field: printable US-ASCII without spaces, a dash for nothing."""
    return "".join(c if "!" <= c <= "~" else "_" for c in text)[:longest] or "-"


def _name(text: str) -> str:
    """Return an SD-NAME: as a header field, and without what ends one."""
    return "".join("_" if c in '=]"' else c for c in _word(text, 32))


def _structured(data: Mapping[str, Mapping[str, str]]) -> str:
    elements = []
    for sd_id, parameters in data.items():
        told = "".join(f' {_name(k)}="{_escaped(v)}"' for k, v in parameters.items() if v)
        elements.append(f"[{_name(sd_id)}{told}]")
    return "".join(elements) or "-"


def _escaped(value: str) -> str:
    plain = _one_line(value)
    return plain.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


def _one_line(text: str) -> str:
    """Return text without control characters and lone surrogates."""
    plain = "".join(" " if ord(c) < 32 or ord(c) == 127 else c for c in text)
    return plain.encode(errors="replace").decode()
