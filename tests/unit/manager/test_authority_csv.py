"""The event log as CSV: what a spreadsheet would run, it only shows."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from callpool.manager.authority_csv import COLUMNS, cell, event_lines, heading


def an_event(**over: Any) -> dict[str, Any]:
    values = dict.fromkeys(COLUMNS[2:], "x")
    return {"id": 7, "at": 1_800_000_000.9, **values, **over}


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "|calc", "%0A"],
)
def test_what_a_spreadsheet_would_take_for_a_formula_has_a_quote_before_it(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "PI-000001", "a=b", "1 day", "acme"])
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert cell(text) == text
    assert cell(None) == ""


def test_a_line_reads_back_whatever_is_in_it() -> None:
    nasty = 'say "hi", then\n=cmd;é'
    text = heading() + event_lines([an_event(message=nasty, tag=None, who="=who")])
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert tuple(row) == COLUMNS
    assert (row["id"], row["time"]) == ("7", "2027-01-15T08:00:00+00:00")
    assert (row["message"], row["tag"], row["who"]) == (nasty, "", "'=who")
