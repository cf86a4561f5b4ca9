"""Where a page says which test shows something, that test is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(test_[a-z0-9_]+)`")
DEFINED = re.compile(r"^\s*(?:async )?def (test_[a-z0-9_]+)\(", re.MULTILINE)


def defined() -> set[str]:
    return {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in DEFINED.findall(file.read_text())
    }


def test_every_test_that_a_page_names_exists() -> None:
    pages = sorted((ROOT / "docs").rglob("*.md"))
    named = {(page.name, name) for page in pages for name in NAMED.findall(page.read_text())}
    assert len([name for page, name in named if page == "security.md"]) > 60
    known = defined()
    assert {(page, name) for page, name in named if name not in known} == set()


def test_the_page_on_security_names_a_test_for_every_attack() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "security.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| who |", "| what |", "| --- "))
    ]
    assert len(rows) > 35
    assert [row for row in rows if not NAMED.search(row)] == []
