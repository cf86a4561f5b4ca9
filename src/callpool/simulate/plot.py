"""Draws a simulation: states, calls and contacts over time, as one SVG without a library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from callpool.licensing.smart import State
from callpool.simulate.script import Script
from callpool.simulate.smart import Line

_DAY: Final = 86400.0
#: The plot's area in pixels: left edge, width, height of one row.
_LEFT, _WIDTH, _ROW = 170, 960, 26
#: States from the worst for calls to the best, top to bottom as people read them.
_ROWS: Final = (
    State.UNCONFIGURED,
    State.EVAL_EXPIRED,
    State.UNIDENTIFIED,
    State.REGISTERED,
    State.AUTHORIZED,
    State.OUT_OF_COMPLIANCE,
    State.AUTHORIZATION_EXPIRED,
)


def plot(lines: Sequence[Line], script: Script) -> str:
    """Return the SVG of a simulation's `lines`."""
    end = script.until_days * _DAY
    rows = {state.value: index for index, state in enumerate(_ROWS)}
    top = 48
    calls_y, contacts_y = top + len(_ROWS) * _ROW + 14, top + len(_ROWS) * _ROW + 52
    height = contacts_y + 66

    def x(seconds: float) -> float:
        return round(_LEFT + _WIDTH * min(seconds, end) / end, 2)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 30} {height}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>Smart licensing over {script.until_days:g} days</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{script.configured} calls/s configured, '
        f"{script.purchased} purchased, call policy {escape(script.policy)}</text>",
    ]
    for state, row in rows.items():
        y = top + row * _ROW
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 17}" text-anchor="end">{state}</text>')
        parts.append(
            f'<rect x="{_LEFT}" y="{y + 2}" width="{_WIDTH}" height="{_ROW - 4}" fill="#f3f4f6"/>'
        )
    for label, y in (("calls", calls_y), ("contacts", contacts_y)):
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 15}" text-anchor="end">{label}</text>')
    for begin, until, line in _phases(lines, end):
        width = max(0.75, x(until) - x(begin))
        fill = "#b45309" if line.listening else "#1d4ed8"
        y = top + rows[line.state] * _ROW + 2
        parts.append(
            f'<rect x="{x(begin)}" y="{y}" width="{width:.2f}" height="{_ROW - 4}" fill="{fill}">'
            f"<title>{line.state} from day {begin / _DAY:.3f} to {until / _DAY:.3f}</title></rect>"
        )
        parts.append(
            f'<rect x="{x(begin)}" y="{calls_y}" width="{width:.2f}" height="20" '
            f'fill="{"#15803d" if line.calls == "allow" else "#b91c1c"}"/>'
        )
    # Contacts closer than half a pixel are one stroke: ten years of retries stay a small file.
    seen: set[int] = set()
    for line in lines:
        stroke = round(x(line.at_seconds) * 2)
        if line.contact and stroke not in seen:
            seen.add(stroke)
            parts.append(
                f'<path d="M{stroke / 2} {contacts_y}v20" stroke="#111827" stroke-width="0.7"/>'
            )
    for index in range(11):
        at = end * index / 10
        parts.append(
            f'<text x="{x(at)}" y="{contacts_y + 40}" text-anchor="middle">{at / _DAY:.4g}</text>'
        )
    parts.append(
        f'<text x="{_LEFT + _WIDTH}" y="{contacts_y + 58}" text-anchor="end">days; states in '
        "notification listen mode are brown; calls admitted green, refused red</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def _phases(lines: Sequence[Line], end: float) -> list[tuple[float, float, Line]]:
    """Return (begin, end, line) for each stretch without a change of what is drawn."""
    phases: list[tuple[float, float, Line]] = []
    for line in lines:
        if phases:
            begin, _, held = phases[-1]
            if (held.state, held.calls, held.listening) == (line.state, line.calls, line.listening):
                continue
            phases[-1] = (begin, line.at_seconds, held)
        phases.append((line.at_seconds, end, line))
    return phases
