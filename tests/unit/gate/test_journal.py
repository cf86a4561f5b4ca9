"""The call book's file on a disk that fills up: behind for a while, never wrong afterwards."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from callpool.device.gate.calls import CallBook
from callpool.device.gate.journal import Journal, Moment


class Disk:
    """A disk that takes `room` bytes more, then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 30
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, data[: self.room])
        self.room -= written
        return written


def read(path: Path) -> tuple[dict[str, int], bool]:
    book, journal = CallBook(30), Journal(path)
    journal.load(book)
    return dict(book.calls), journal.clean


@pytest.mark.parametrize("room", [0, 1, 5, 9, 14])
def test_a_full_disk_stops_nobody_and_the_file_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    disk = Disk(monkeypatch)
    book, journal = CallBook(30), Journal(tmp_path / "calls.journal")
    journal.open(book)
    book.calls["one"] = 64
    journal.append(["A 64 one"], book)
    disk.room = room
    book.calls["two"] = 64
    journal.append(["A 64 two", "E one"], book)
    del book.calls["one"]
    calls, clean = read(journal.path)
    assert not clean, "what it lacks counts as uncertain after a crash"
    assert "one" in calls, "what is known to be up is not given away"
    journal.mark(Moment(tick=7), book)
    assert [p.name for p in tmp_path.iterdir()] == ["calls.journal"]
    disk.room = 1 << 20
    journal.mark(Moment(tick=8), book)
    assert read(journal.path) == ({"two": 64}, False)
    book.calls["three"] = 128
    journal.append(["A 128 three"], book)
    journal.close(book, clean=True)
    assert read(journal.path) == ({"two": 64, "three": 128}, True)
