"""What the unit layer shares: its files lie in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module", autouse=True)
def files_in_memory() -> Iterator[None]:
    """Keep temporary files in memory.

    These tests kill processes, never the machine, so what was written needs no disk to be read
    again; waiting for one thousands of times is most of what a small machine would do.
    """
    if not MEMORY.is_dir():
        yield
        return
    before, tempfile.tempdir = tempfile.tempdir, str(MEMORY)
    yield
    tempfile.tempdir = before
