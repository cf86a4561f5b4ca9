"""Alarms and notices as syslog messages.

An alarm has the vendor's form (C, facts on the pool 4.3: RAISE-ALARM; CLEAR-ALARM is recalled
there, and ours by decision) and, as structured data, RFC 5674's element beside our own.
"""

from __future__ import annotations

from typing import Final

from callpool.device.faces.syslog.smart_tail import LogLine
from callpool.host.syslog.message import LEVELS, SD_ID, Level, SyslogMessage
from callpool.licensing.alarm_table import CAUSES, Severity
from callpool.licensing.alarm_words import SOURCE, alarm_name, described, unique_number
from callpool.licensing.alarms import Event
from callpool.licensing.smart_mnemonics import mnemonic

APP: Final = "callpool-device"
RAISE: Final = "RAISE-ALARM"
CLEAR: Final = "CLEAR-ALARM"


def alarm_message(event: Event, *, serial: str, hostname: str) -> SyslogMessage:
    """Return a raise, a change or a clear as a message."""
    short, kind, cause, info = described(event)
    name, severity = alarm_name(event), event.severity.name.lower()
    what = CLEAR if event.severity is Severity.CLEARED else RAISE
    told = [
        f"{what}: {name}",
        f"Textual Description: {short}",
        f"Severity {severity}",
        f"Source {SOURCE}",
        f"Unique ID: {unique_number(event)}",
        *(f"Additional Info{number}: {text}" for number, text in enumerate(info, 1) if text),
    ]
    return SyslogMessage(
        at=event.at,
        severity=LEVELS[event.severity],
        hostname=hostname,
        app=APP,
        msgid=what,
        data={
            "alarm": {
                "resource": f"{serial}/{SOURCE}",
                "probableCause": CAUSES.get(cause, "other"),
                "perceivedSeverity": severity,
                "eventType": kind.label,
            },
            SD_ID: {
                "serial": serial,
                "name": name,
                "oid": event.oid,
                "code": event.code,
                "codes": ",".join(event.codes),
                "sequence": str(event.sequence),
            },
        },
        text="; ".join(told),
    )


def notice_message(line: LogLine, *, serial: str, hostname: str) -> SyslogMessage:
    """Return a notice of smart licensing as a message."""
    called = mnemonic(line.name, line.severity, line.text)
    text = f"{called}: {line.text or called.text}"
    return SyslogMessage(
        at=line.at,
        severity=Level(called.severity),
        hostname=hostname,
        app=APP,
        msgid=called.name,
        data={
            SD_ID: {
                "serial": serial,
                "notice": line.name,
                "cause": line.cause,
                "mnemonic": "public" if called.public else "own",
                "next": line.next,
            }
        },
        text=text,
    )
