"""The page on smart licensing says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from callpool.licensing.smart import RULES, State
from callpool.simulate.smart_docs import diagram, fresh, transitions

PAGE = Path(__file__).parents[3] / "docs" / "smart-licensing.md"


def test_the_page_is_not_stale() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert fresh(page) == page, "run: python -m callpool.simulate.smart_docs " + str(PAGE)


def test_a_page_without_a_part_is_refused() -> None:
    with pytest.raises(ValueError, match="no part"):
        fresh("nothing here")


def test_the_diagram_shows_every_state_and_the_table_every_row() -> None:
    assert all(f" {state}" in diagram() for state in State)
    assert transitions().count("\n") == len(RULES) + 1
