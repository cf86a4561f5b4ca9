"""Labs for the tests of the laws, and outside witnesses.

What the answerers' traces and the devices' journals prove afterwards.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from callpool.lab.answerer import changes, most
from callpool.lab.chaos.witness import steps
from callpool.lab.fleet import Builder, Plan, down, up
from callpool.lab.handle import LabHandle

__all__ = ["LabMaker", "calls_up", "enforced", "make_lab", "most", "one_lab"]

LabMaker = Callable[[Plan], LabHandle]


@contextmanager
def one_lab(plan: Plan, make: type[Builder] = Builder) -> Iterator[LabHandle]:
    """Bring a lab up for as long as it is needed; `make` builds another kind of lab."""
    # A short path: Unix sockets' names have 108 bytes.
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    try:
        up(directory, plan, lambda _: None, make)
        yield LabHandle(directory)
    finally:
        if (directory / "lab.json").exists():
            down(directory)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def make_lab() -> Iterator[LabMaker]:
    """Bring labs up for one test; whatever the test did to them, they are down after it."""
    made: list[Path] = []

    def make(plan: Plan) -> LabHandle:
        # A short path: Unix sockets' names have 108 bytes.
        directory = Path(tempfile.mkdtemp(prefix="cp-"))
        made.append(directory)
        up(directory, plan, lambda _: None)
        return LabHandle(directory)

    try:
        yield make
    finally:
        for directory in made:
            if (directory / "lab.json").exists():
                down(directory)
            shutil.rmtree(directory, ignore_errors=True)


def calls_up(lab: LabHandle, names: Iterable[str]) -> list[tuple[float, int]]:
    """Return (time, +1 or -1) for the calls at the answerers of several devices."""
    traces = (lab.trace(name).read_text(errors="replace").splitlines() for name in names)
    return [change for lines in traces for change in changes(lines)]


def enforced(lab: LabHandle, name: str, license_type: str) -> list[tuple[float, int]]:
    """Return (time, change) of what a device enforced, by its journal."""
    journal = Path(lab.device(name).directory) / "journal.jsonl"
    return list(steps(map(json.loads, journal.read_text().splitlines()), license_type))
