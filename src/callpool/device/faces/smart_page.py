"""The Smart Licensing page: the state in words, the diagram, every timer, the log's end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from callpool.device.faces.diagram import arrows, draw
from callpool.device.smart_status import SmartStatus, to_do
from callpool.device.status import Status
from callpool.licensing.smart import State

#: How much of the log is shown: lines, and bytes that are read for them.
LINES: Final = 20
_TAIL: Final = 16 * 1024

#: What it means to be in a state.
_WORDS: Final[Mapping[State, str]] = {
    State.UNCONFIGURED: "Smart licensing is off.",
    State.UNIDENTIFIED: "The device is being evaluated; it is not registered.",
    State.REGISTERED: "The device is registered; its first authorization is pending.",
    State.EVAL_EXPIRED: "The evaluation period has ended.",
    State.AUTHORIZED: "The device is registered and authorized.",
    State.OUT_OF_COMPLIANCE: "More is configured in the account than purchased, or the authority "
    "has refused too often.",
    State.AUTHORIZATION_EXPIRED: "The authorization has not been renewed for 90 days.",
    State.TRANSIENT: "The device is leaving its authority.",
}


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of sml.log."""

    time: str
    severity: str
    name: str
    rest: str


class SmartView(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows beside the status itself."""

    state: State
    #: One sentence on the state, and one on calls and why.
    words: str
    calls: str
    #: What a person has to do; empty for nothing.
    to_do: str
    #: good, warn or bad: how grave it is.
    tone: str
    #: SVG, built of the table's own names and numbers alone.
    diagram: str
    #: What can happen next: event and the state that it leads to.
    ways: tuple[tuple[str, str], ...]
    log: tuple[LogLine, ...]


def view(status: Status, smart: SmartStatus, log: Path) -> SmartView:
    """Return what the page shows of `smart`; reads the end of the file `log`."""
    state = State(smart.state)
    calls, tone = _calls(status, smart, state)
    return SmartView(
        state=state,
        words=_WORDS[state],
        calls=calls,
        to_do=to_do(smart),
        tone=tone,
        diagram=draw(state, smart.call_policy),
        ways=tuple(
            (event.replace("_", " "), target.value)
            for (source, target), events in arrows().items()
            if source is state
            for event in events
        ),
        log=tail(log),
    )


def _calls(status: Status, smart: SmartStatus, state: State) -> tuple[str, str]:
    """Return whether calls are admitted and why, in one sentence, and how grave that is."""
    if state is State.UNCONFIGURED and (status.managed == "fixed" or status.local_key):
        return f"Calls follow the other mode: {status.mode}.", "good"
    if smart.refusal:
        return (
            f"New calls are refused: {smart.refusal_text}. Calls that are up go on.",
            "bad",
        )
    limit = f"Calls are admitted, up to {smart.limit} a second"
    if smart.listening:
        return f"{limit}; notification listen mode tells of the failure.", "warn"
    return f"{limit}: call policy {smart.call_policy}.", "warn" if smart.evaluating else "good"


def tail(log: Path) -> tuple[LogLine, ...]:
    """Return the last lines of `log`, the newest first; none where it cannot be read."""
    try:
        with log.open("rb") as source:
            source.seek(0, 2)
            start = max(0, source.tell() - _TAIL)
            source.seek(start)
            text = source.read().decode(errors="replace")
    except OSError:
        return ()
    lines = text.splitlines()[1 if start else 0 :][-LINES:]
    found = []
    for line in reversed(lines):
        time, severity, name, rest = (line.split(" ", 3) + [""] * 4)[:4]
        found.append(LogLine(time=time, severity=severity, name=name, rest=rest))
    return tuple(found)
