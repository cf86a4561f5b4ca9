"""Draws `docs/smart-licensing.md` from the code: the diagram and every table in it.

`python -m callpool.simulate.smart_docs docs/smart-licensing.md` rewrites what stands between
the page's marks; a test fails when the page is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from callpool.licensing import smart_numbers as numbers
from callpool.licensing import smart_timers as t
from callpool.licensing.admission import REASONS
from callpool.licensing.smart import ENFORCEMENT, RULES, STATES, Enforcement, Event, State, When
from callpool.licensing.smart_policy import CALL_POLICIES, CCCSP_15

#: What opens and closes a generated part of the page.
BEGIN: Final = "<!-- generated: {} -->"
END: Final = "<!-- end -->"


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def diagram() -> str:
    """Return the state diagram: every row of the table that leads to another state."""
    moves: dict[tuple[State, State], list[str]] = {}
    for rule in RULES:
        if rule.source is rule.target:
            continue
        when = f" [{rule.when}]" if rule.when not in (When.ALWAYS, When.IDENTIFIED) else ""
        label = f"{rule.event}{when}"
        known = moves.setdefault((rule.source, rule.target), [])
        if label not in known:
            known.append(label)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.UNCONFIGURED}"]
    for (source, target), labels in moves.items():
        lines.append(f"    {source} --> {target}: {', '.join(labels)}")
    return "\n".join([*lines, "```"])


def states() -> str:
    """Return what each state means under each call policy."""

    def calls(state: State, name: str) -> str:
        reason = CALL_POLICIES[name][state]
        return f"refused, `{reason}`" if reason else "admitted"

    return _table(
        ("state", *(f"calls, `{name}`" for name in CALL_POLICIES), "enforcement mode"),
        (
            (state, *(calls(state, name) for name in CALL_POLICIES), ENFORCEMENT[state])
            for state in STATES
        ),
    )


def transitions() -> str:
    """Return the whole table of transitions."""
    return _table(
        ("from", "event", "when", "to", "source"),
        (
            (r.source, f"`{r.event}`", r.when or "", r.target, f"{r.mark} {r.row or ''}".strip())
            for r in RULES
        ),
    )


def _span(seconds: float) -> str:
    for size, name in ((t.DAY, "day"), (t.HOUR, "hour"), (t.MINUTE, "minute")):
        if seconds >= size and seconds % size == 0:
            number = int(seconds // size)
            return f"{number} {name}{'s' if number != 1 else ''}"
    return f"{seconds:g} seconds"


def timers() -> str:
    """Return every duration."""
    warnings = ", ".join(_span(at) for at in t.WARNINGS if at >= 7 * t.DAY)
    rows: list[tuple[str, str]] = [
        ("Evaluation period, counted only while enabled with a count above 0", _span(t.EVALUATION)),
        ("Evaluation warnings, at so much left", f"{warnings}, then daily, hourly on the last"),
        ("Told again that it has ended, until registered", _span(t.EXPIRED_REMINDER)),
        ("Authorization renewed after", _span(t.AUTHORIZATION_RENEWAL)),
        ("Authorization ends after the last success", _span(t.AUTHORIZATION_VALID)),
        ("ID certificate renewed after", _span(t.CERTIFICATE_RENEWAL)),
        ("ID certificate good for", _span(t.CERTIFICATE_VALID)),
        ("Retry of a failed ID certificate renewal", _span(t.CERTIFICATE_RETRY)),
        (
            "Warnings that the ID certificate ends while its renewal fails, at so much left (D)",
            f"{', '.join(_span(at) for at in t.CERTIFICATE_WARNINGS if at >= 7 * t.DAY)}, "
            "then daily",
        ),
        ("Re-check while out of compliance and the cloud answers", _span(t.RECHECK)),
        (
            "Retry of a failed registration or authorization",
            f"{_span(t.RETRY)} for {_span(t.RETRY_BURST)}, then {_span(t.RETRY_LATER)}",
        ),
        ("Retry in AuthorizationExpired", _span(t.RETRY_LATER)),
        ("Signed refusals in a row that mean OutOfCompliance", str(t.REFUSAL_LIMIT)),
        ("Grace for a wall clock outside the ID certificate's dates", _span(t.CLOCK_GRACE)),
        ("A contact without an answer has failed after", _span(t.ANSWER_LIMIT)),
        ("Charged of the evaluation after a power cut", _span(t.EVALUATION_RESERVE)),
    ]
    return _table(("what", "how long"), rows)


def numberings() -> str:
    """Return the public numberings."""
    states = _table(
        ("state", "USP-MIB `cuspSmartAgentState`", "YANG `authorization-state`"),
        ((s, numbers.USP_AGENT_STATE[s], numbers.YANG_AUTHORIZATION.get(s, "–")) for s in State),
    )

    def of(mode: Enforcement, numbering: Mapping[Enforcement, int]) -> object:
        return numbering.get(mode, "–")

    modes = _table(
        ("enforcement mode", "USP-MIB `cuspLicenseState`", "SLA-MIB", "YANG"),
        (
            (
                mode,
                of(mode, numbers.USP_LICENSE_STATE),
                of(mode, numbers.SLA_ENFORCE_MODE),
                of(mode, numbers.YANG_ENFORCEMENT_MODE),
            )
            for mode in Enforcement
        ),
    )
    return f"{states}\n\n{modes}"


def causes() -> str:
    """Return the causes, as logs and simulations name them."""
    return ", ".join(f"`{event}`" for event in Event)


def reasons() -> str:
    """Return the reason codes of refusals."""
    used = sorted({r for table in CALL_POLICIES.values() for r in table.values() if r})
    default = set(CALL_POLICIES[CCCSP_15].values())
    return _table(
        ("reason", "sentence", "in the default policy"),
        ((f"`{r}`", REASONS[r], "yes" if r in default else "no") for r in used),
    )


#: Name of a part -> what stands in it.
PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "diagram": diagram,
    "states": states,
    "reasons": reasons,
    "transitions": transitions,
    "timers": timers,
    "causes": causes,
    "numberings": numberings,
}


def fresh(page: str) -> str:
    """Return `page` with every generated part drawn anew; raises ValueError where one lacks."""
    for name, part in PARTS.items():
        begin = BEGIN.format(name)
        before, _, rest = page.partition(begin)
        _, end, after = rest.partition(END)
        if not end:
            raise ValueError(f"the page has no part {name}")
        page = f"{before}{begin}\n{part()}\n{END}{after}"
    return page


def main() -> None:
    """Rewrite the page that is named."""
    file = Path(sys.argv[1])
    file.write_text(fresh(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
