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
from callpool.lab.fleet import Plan, down, up
from callpool.lab.handle import LabHandle

__all__ = ["LabMaker", "calls_up", "enforced", "make_lab", "most", "one_lab"]

LabMaker = Callable[[Plan], LabHandle]


@contextmanager
def one_lab(plan: Plan) -> Iterator[LabHandle]:
    """Bring a lab up for as long as it is needed."""
    # A short path: Unix sockets' names have 108 bytes.
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    try:
        up(directory, plan, lambda _: None)
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
    steps: list[tuple[float, int]] = []
    was = 0
    for line in (Path(lab.device(name).directory) / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] in ("enforced", "started"):
            now = int(event["actual"].get(license_type, 0))
            steps.append((float(event["at"]), now - was))
            was = now
    return steps
