"""What `show alarms` says."""

from __future__ import annotations

from callpool.device.alarm_book import AlarmReport
from callpool.device.faces.shell.license_text import when
from callpool.licensing.alarm_table import DEFINITIONS
from callpool.licensing.alarms import Event


def active(report: AlarmReport) -> list[str]:
    """Return the active alarms, each with what to do."""
    lines = []
    for event in report.active:
        lines.append(_line(event))
        if event.code in DEFINITIONS:
            lines.append(f"        To do: {DEFINITIONS[event.code].next_step}")
    return lines or ["No alarm is active."]


def history(report: AlarmReport) -> list[str]:
    """Return every raise, change and clear, the newest first."""
    return [_line(e) for e in reversed(report.history)] or ["No alarm has been raised yet."]


def _line(event: Event) -> str:
    severity = event.severity.name.lower()
    return f"{event.sequence:6}  {when(event.at)}  {severity:8}  {event.text} [{event.code}]"
