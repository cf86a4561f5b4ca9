"""Writes the command reference of `docs/shell.md` from the command table.

`python -m callpool.device.faces.shell.reference docs/shell.md` rewrites what stands between the
page's marks; a test fails when the page is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from callpool.device.faces.shell.table import COMMANDS

BEGIN: Final = "<!-- generated: commands -->"
END: Final = "<!-- end -->"


def reference() -> str:
    """Return the command table as Markdown."""
    lines = ["| command | what it does | group |", "| --- | --- | --- |"]
    for row in COMMANDS:
        words = row.words.replace("|", "\\|")
        lines.append(f"| `{words}` | {row.help} | {row.group} |")
    return "\n".join(lines)


def fresh(page: str) -> str:
    """Return `page` with the reference as it is now; raises ValueError where the marks are not."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise ValueError("The page has no marks for the command reference.")
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(fresh(file.read_text()))
