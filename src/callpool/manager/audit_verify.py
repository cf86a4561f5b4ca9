"""Verify the audit log: every line against the one before, its end against the signed heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from callpool.licensing.errors import LicenseError, TrustError
from callpool.manager.audit import ACCEPTED, LOST, line_hash
from callpool.manager.audit_heads import Head, holds, read_head
from callpool.manager.change import Change
from callpool.manager.core import Manager
from callpool.manager.store.tx import Row

#: Findings that are told one by one; of more it is told how many.
MOST_FINDINGS: Final = 100
_PAGE: Final = 5_000


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was written."""

    #: `altered`, `missing`, `truncated`, `lost` (it was noticed while the manager ran) or `head`.
    kind: str
    #: The line where it shows.
    entry: int
    sentence: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    #: Whether nothing is wrong, but for what was accepted.
    whole: bool
    #: How many lines there are, the first one's number, the last one's and its hash.
    lines: int
    first: int
    last: int
    hash: str
    findings: list[Finding]
    more_findings: int
    #: Lost lines that an administrator has accepted, with his reason.
    accepted: list[Finding]
    #: The head that the end was held against; None where there is none.
    head: Head | None
    #: Lines after that head: that some of them were cut off could not be shown.
    after_head: int


def verify(manager: Manager, heads: Iterable[str] = ()) -> Verdict:
    """Verify the log, also against signed `heads` that were kept elsewhere."""
    found: list[Finding] = []
    lost: dict[int, Finding] = {}
    accepted: dict[int, str] = {}
    count, first, number, before = 0, 0, 0, ""
    for line in _lines(manager):
        count += 1
        first = first or line["entry"]
        if line["entry"] != number + 1:
            found.append(_missing(number, line["entry"]))
        if line_hash(before, line) != line["hash"] and line["entry"] == number + 1:
            found.append(
                Finding(
                    kind="altered",
                    entry=line["entry"],
                    sentence=f"Line {line['entry']} is not what was written after line {number}.",
                )
            )
        number, before = line["entry"], line["hash"]
        if line["cause"] == LOST:
            lost[number] = _lost(line)
        elif line["cause"] == ACCEPTED:
            detail = msgspec.json.decode(line["detail"])
            accepted[detail["line"]] = detail["reason"]
    head, at_end = _against_heads(manager, heads)
    found += at_end
    found += [f for entry, f in lost.items() if entry not in accepted]
    return Verdict(
        whole=not found,
        lines=count,
        first=first,
        last=number,
        hash=before,
        findings=found[:MOST_FINDINGS],
        more_findings=max(0, len(found) - MOST_FINDINGS),
        accepted=[
            msgspec.structs.replace(f, sentence=f"{f.sentence} Accepted: {accepted[entry]}")
            for entry, f in lost.items()
            if entry in accepted
        ],
        head=head,
        after_head=max(0, number - head.number) if head else number,
    )


def accept(change: Change, line: int, reason: str) -> None:
    """Accept that lines were lost, as line `line` tells, such as by a restored backup.

    Raises LicenseError `unknown_line`, `bad_request`.
    """
    if not reason.strip():
        raise LicenseError("bad_request", "Say why the loss is accepted.")
    if not change.tx.row(
        "SELECT 1 FROM journal WHERE entry = :line AND cause = :lost", line=line, lost=LOST
    ):
        raise LicenseError("unknown_line", f"Line {line} tells of no lost lines.")
    change.journal(ACCEPTED, line=line, reason=reason)


def _lines(manager: Manager) -> Iterator[Row]:
    after = -(2**62)
    while True:
        page = manager.database.read(
            lambda tx, after=after: tx.rows(  # type: ignore[misc]
                "SELECT * FROM journal WHERE entry > :after ORDER BY entry LIMIT :page",
                after=after,
                page=_PAGE,
            )
        )
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1]["entry"]


def _missing(before: int, entry: int) -> Finding:
    gone = f"Lines {before + 1} to {entry - 1} are" if entry > before + 2 else (
        f"Line {before + 1} is"
    )  # fmt: skip
    if entry <= before:  # a line with a number that cannot be
        gone = f"A line is numbered {entry}; it or another is"
    return Finding(kind="missing", entry=entry, sentence=f"{gone} missing.")


def _lost(line: Row) -> Finding:
    detail = msgspec.json.decode(line["detail"])
    return Finding(
        kind="lost",
        entry=line["entry"],
        sentence=f"Line {line['entry']} tells that lines were lost: the log had line "
        f"{detail['number']} before, with another hash or at all.",
    )


def _against_heads(manager: Manager, more: Iterable[str]) -> tuple[Head | None, list[Finding]]:
    found: list[Finding] = []
    kept: Head | None = None
    own = manager.heads.envelope()
    if not own:
        found.append(
            Finding(
                kind="head",
                entry=0,
                sentence=f"There is no signed head in {manager.heads.file}: lines cut off at the "
                "end do not show. A manager that runs makes one.",
            )
        )
    for name, envelope in [(str(manager.heads.file), own)] * bool(own) + [
        ("a head that was given", text) for text in more
    ]:
        try:
            head = read_head(envelope, manager.identity)
        except TrustError as error:
            found.append(Finding(kind="head", entry=0, sentence=f"{name}: {error.sentence}"))
            continue
        if head.product_key != manager.product_key():
            found.append(
                Finding(kind="head", entry=0, sentence=f"{name} is of another manager's log.")
            )
            continue
        if kept is None or head.number > kept.number:
            kept = head
        if not holds(manager, head):
            found.append(
                Finding(
                    kind="truncated",
                    entry=head.number,
                    sentence=f"{name} knows line {head.number}, which is not there as it was "
                    "signed: the end was cut off, or written anew.",
                )
            )
    return kept, found
