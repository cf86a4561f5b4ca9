"""Follows `sml.log`: every line once, over restarts and while the log is turned over."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from callpool.device.smart_log import KEEP

#: Bytes that one look reads at most.
MOST: Final = 64 * 1024

_LINE: Final = re.compile(
    r'(?P<at>\S+Z) (?P<severity>[A-Z]+) (?P<name>\w+) cause=(?P<cause>\S*) next="(?P<next>[^"]*)"'
    r'(?: text="(?P<text>[^"]*)")?\n'
)


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the log: a file, known by its number whatever it is called, and a byte in it."""

    inode: int
    offset: int


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One notice, and the place behind it."""

    at: float
    severity: str
    name: str
    cause: str
    next: str
    text: str
    behind: Position


def read(log: Path, behind: Position | None) -> tuple[LogLine, ...]:
    """Return the notices that follow a place, at most MOST bytes of them; None: all there are.

    Where the place is no longer there, what follows begins with the oldest part that is.
    """
    parts = [(f.stat().st_ino, f) for f in _parts(log)]
    numbers = [inode for inode, _ in parts]
    if behind is not None and behind.inode in numbers:
        parts = parts[numbers.index(behind.inode) :]
    found: list[LogLine] = []
    for inode, file in parts:
        same = behind is not None and behind.inode == inode
        found += _lines(file, inode, behind.offset if behind is not None and same else 0)
        if found:
            break  # the next part at the next look
    return tuple(found)


def _parts(log: Path) -> list[Path]:
    """Return the log's files, the oldest first."""
    older = (log.with_name(f"{log.name}.{number}") for number in range(KEEP, 0, -1))
    return [file for file in (*older, log) if file.exists()]


def _lines(file: Path, inode: int, offset: int) -> list[LogLine]:
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_ino != inode:
            return []  # turned over in this very moment
        if offset > opened.seek(0, 2):
            offset = 0  # another file under an old number
        opened.seek(offset)
        whole, newline, _ = opened.read(MOST).rpartition(b"\n")
    found = []
    for line in (whole + newline).splitlines(keepends=True):
        offset += len(line)
        match = _LINE.fullmatch(line.decode(errors="replace"))
        if match is None:
            continue  # torn by a full disk
        found.append(
            LogLine(
                at=datetime.fromisoformat(match["at"]).timestamp(),
                severity=match["severity"].lower(),
                name=match["name"],
                cause=match["cause"],
                next=match["next"],
                text=match["text"] or "",
                behind=Position(inode=inode, offset=offset),
            )
        )
    return found
