"""The state diagram as SVG, drawn from the table of transitions with one state marked.

The states stand on an ellipse, so that no arrow passes through a third. Only the arrows that
leave the marked state carry their events: those are what can happen next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Final

from callpool.licensing.smart import RULES, State
from callpool.licensing.smart_policy import call_policy

#: In the order of a device's life, clockwise from the left; transient lies between the rest.
_RING: Final = (
    State.UNCONFIGURED,
    State.UNIDENTIFIED,
    State.REGISTERED,
    State.AUTHORIZED,
    State.OUT_OF_COMPLIANCE,
    State.AUTHORIZATION_EXPIRED,
    State.TRANSIENT,
    State.EVAL_EXPIRED,
)
_WIDTH, _HEIGHT = 1000.0, 680.0
_BOX: Final = (178.0, 46.0)
#: States in which failures are told of while calls go on.
_LISTENING: Final = frozenset({State.OUT_OF_COMPLIANCE, State.AUTHORIZATION_EXPIRED})

#: Room for one letter of an event, and for one line of them.
_LETTER, _LINE = 7.6, 15.0

_Point = tuple[float, float]
#: Left, top, right, bottom.
_Area = tuple[float, float, float, float]


def arrows() -> Mapping[tuple[State, State], tuple[str, ...]]:
    """Return the events that lead from one state to another, by (from, to)."""
    found: dict[tuple[State, State], tuple[str, ...]] = {}
    for rule in RULES:
        if rule.source is not rule.target:
            key = rule.source, rule.target
            names = found.get(key, ())
            if rule.event.value not in names:
                found[key] = (*names, rule.event.value)
    return found


def draw(current: State, policy: str) -> str:
    """Return the diagram as SVG with `current` marked; colours as the call policy says.

    Raises LicenseError `unknown_call_policy`.
    """
    places = _places()
    half_width, half_height = _BOX[0] / 2, _BOX[1] / 2
    taken = [
        (x - half_width, y - half_height, x + half_width, y + half_height)
        for x, y in places.values()
    ]
    quiet, loud = [], []
    for (source, target), events in arrows().items():
        start, middle, end = _curve(places[source], places[target])
        path = (
            f'd="M{start[0]:.0f} {start[1]:.0f}Q{middle[0]:.0f} {middle[1]:.0f} '
            f'{end[0]:.0f} {end[1]:.0f}"'
        )
        if source is current:
            loud.append(f'<path class="arrow next" marker-end="url(#tip-next)" {path}/>')
            loud.append(_label(start, middle, end, events, taken))
        else:
            quiet.append(f'<path class="arrow" marker-end="url(#tip)" {path}/>')
    boxes = [_box(state, places[state], current, policy) for state in _RING]
    return "".join(
        [
            f'<svg class="diagram" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
            f'aria-label="State diagram; the device is in {escape(current.value)}"><defs>',
            _tip("tip", "tip"),
            _tip("tip-next", "tip next"),
            "</defs>",
            *quiet,
            *(part for part in loud if part.startswith("<path")),
            *boxes,
            *(part for part in loud if part.startswith("<text")),
            "</svg>",
        ]
    )


def _places() -> Mapping[State, _Point]:
    across, down = _WIDTH / 2 - _BOX[0] / 2 - 8, _HEIGHT / 2 - _BOX[1] / 2 - 8
    found: dict[State, _Point] = {}
    for index, state in enumerate(_RING):
        turn = math.pi + 2 * math.pi * index / len(_RING)
        found[state] = (
            _WIDTH / 2 + across * math.cos(turn),
            _HEIGHT / 2 + down * math.sin(turn),
        )
    return found


def _curve(source: _Point, target: _Point) -> tuple[_Point, _Point, _Point]:
    """Return start, control point and end: a bow to its left, so that two ways lie apart."""
    dx, dy = target[0] - source[0], target[1] - source[1]
    bow = 0.14
    middle = (
        (source[0] + target[0]) / 2 + dy * bow,
        (source[1] + target[1]) / 2 - dx * bow,
    )
    return _edge(source, middle, 2.0), middle, _edge(target, middle, 7.0)


def _edge(box: _Point, towards: _Point, gap: float) -> _Point:
    """Return where the line from the middle of a box leaves it, `gap` beyond its border."""
    dx, dy = towards[0] - box[0], towards[1] - box[1]
    half_width, half_height = _BOX[0] / 2 + gap, _BOX[1] / 2 + gap
    share = min(
        half_width / abs(dx) if dx else math.inf,
        half_height / abs(dy) if dy else math.inf,
    )
    return box[0] + dx * share, box[1] + dy * share


def _label(
    start: _Point, middle: _Point, end: _Point, events: tuple[str, ...], taken: list[_Area]
) -> str:
    """Return the arrow's events, where on it they cover nothing that is in `taken`."""
    width = max(len(name) for name in events) * _LETTER
    height = _LINE * len(events)
    tried: list[tuple[float, float, _Area]] = []
    for at in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8):
        x = (1 - at) ** 2 * start[0] + 2 * at * (1 - at) * middle[0] + at**2 * end[0]
        y = (1 - at) ** 2 * start[1] + 2 * at * (1 - at) * middle[1] + at**2 * end[1]
        tried.append((x, y, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)))
    free = (t for t in tried if not any(_overlap(t[2], other) for other in taken))
    x, y, area = next(free, tried[0])
    taken.append(area)
    lines = "".join(
        f'<tspan x="{x:.0f}" dy="{_LINE if i else 0:.0f}">{escape(_plain(name))}</tspan>'
        for i, name in enumerate(events)
    )
    return f'<text class="event" x="{x:.0f}" y="{area[1] + _LINE - 4:.0f}">{lines}</text>'


def _overlap(a: _Area, b: _Area) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _box(state: State, at: _Point, current: State, policy: str) -> str:
    kind = "between"
    if state is not State.TRANSIENT:
        refused = call_policy(policy)[state]
        kind = "refuses" if refused else "listens" if state in _LISTENING else "admits"
    marked = " current" if state is current else ""
    x, y = at[0] - _BOX[0] / 2, at[1] - _BOX[1] / 2
    return (
        f'<g class="state {kind}{marked}"><rect x="{x:.0f}" y="{y:.0f}" width="{_BOX[0]:.0f}" '
        f'height="{_BOX[1]:.0f}" rx="8"/><text x="{at[0]:.0f}" y="{at[1] + 5:.0f}">'
        f"{escape(state.value)}</text></g>"
    )


def _tip(name: str, kind: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path class="{kind}" d="M0 0L8 4L0 8z"/></marker>'
    )
