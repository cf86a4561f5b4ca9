"""The grant journal: what each unit may hold, kept a second time in a file beside the database.

An append-only file of JSON lines, each one change of the database, numbered in their order: the
whole state of every unit that the change touched. A line is on disk after its change is
committed and before the change's answer leaves. So a database that is behind its journal was
restored from a backup, and the journal knows every grant that ever left.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from callpool.host.files import locked, sync_directory, write_durably
from callpool.licensing.errors import CallpoolError

#: A file longer than this (bytes) is rewritten at the start, with the latest states only.
COMPACT_ABOVE: Final = 32 * 1024 * 1024


class UnitState(msgspec.Struct, frozen=True, kw_only=True):
    """What the database knows of one unit's grants."""

    serial: str
    #: The key that it is enrolled with.
    kid: str | None
    #: The latest grant's version and its slices, as the database keeps them.
    version: int
    content: str
    #: The last version put into a reply; the oldest that may still be in force.
    sent: int
    floor: int
    #: Whether any grant sent may still be in force.
    leased: bool
    #: The last report, as the database keeps it.
    report: str | None
    #: (version, slices) of the grants that may be in force.
    grants: tuple[tuple[int, str], ...]
    #: (license type, order, since, granted, held).
    holdings: tuple[tuple[str, str, float, int, int], ...]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One change."""

    #: Rises by one with each change.
    number: int
    #: The manager's time, seconds since 1970.
    at: float
    units: tuple[UnitState, ...]


class GrantJournal:
    """The file; safe to use from many threads and processes."""

    def __init__(self, file: Path) -> None:
        """Use `file`, which is made with its first entry."""
        self.file = file
        self._lock = threading.Lock()
        self._inode, self._offset, self._last = 0, 0, 0
        self._latest: dict[str, UnitState] = {}
        self._whole = True

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Open the file for this thread of this process alone; raises CallpoolError."""
        try:
            with self._lock:
                if not self.file.exists():
                    self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with locked(self.file.with_name(f"{self.file.name}.lock")):
                    made = not self.file.exists()
                    handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                    try:
                        if made:
                            sync_directory(self.file.parent)
                        yield handle
                    finally:
                        os.close(handle)
        except OSError as error:
            raise CallpoolError(
                "grant_journal_unusable",
                f"The grant journal {self.file} cannot be used: {error.strerror}. No grant leaves "
                "until it can.",
            ) from error

    def _catch_up(self, handle: int) -> None:
        """Read what was appended since the last look."""
        found = os.fstat(handle)
        if found.st_ino != self._inode or found.st_size < self._offset:
            self._inode, self._offset, self._last = found.st_ino, 0, 0
            self._latest, self._whole = {}, True
        if found.st_size == self._offset:
            return
        raw = os.pread(handle, found.st_size - self._offset, self._offset)
        end = raw.rfind(b"\n") + 1  # a line without its end was never answered for
        for line in raw[:end].splitlines():
            try:
                entry = msgspec.json.decode(line, type=Entry)
            except msgspec.DecodeError:
                self._whole = False
                continue
            # Two processes may append in another order than they committed in: an entry that
            # is older than what is known of a unit tells nothing new of it.
            if entry.number >= self._last:
                self._latest |= {unit.serial: unit for unit in entry.units}
                self._last = entry.number
        self._offset += end

    def read(self) -> tuple[int, dict[str, UnitState], bool]:
        """Return the last entry's number, the latest state of each unit, and whether all is whole.

        Raises CallpoolError `grant_journal_unusable`.
        """
        with self._alone() as handle:
            self._catch_up(handle)
            return self._last, dict(self._latest), self._whole

    @property
    def last(self) -> int:
        """Return the number of the last entry that this process has seen."""
        return self._last

    def append(
        self, number: int, entry: Entry | None, missing: Callable[[int], Sequence[Entry]]
    ) -> None:
        """Make the file answer for change `number`, whose own `entry` may be empty.

        Where changes before it are not there (a crash, a lost file, another process that is about
        to write, a manager on another machine), what `missing` returns of those after a number,
        or of everything, is written instead. Raises CallpoolError `grant_journal_unusable`.
        """
        with self._alone() as handle:
            self._catch_up(handle)
            if self._last >= number and entry is None:
                return
            entries = missing(self._last) if entry is None or self._last < number - 1 else (entry,)
            # What a crash left of a line was never answered for.
            os.ftruncate(handle, self._offset)
            raw = b"".join(msgspec.json.encode(e) + b"\n" for e in entries)
            written = os.write(handle, raw)
            if written < len(raw):
                raise OSError(28, "the disk is full")
            os.fsync(handle)
            self._catch_up(handle)

    def compact(self) -> None:
        """Rewrite a long file with the latest states; raises CallpoolError."""
        with self._alone() as handle:
            self._catch_up(handle)
            if self._offset < COMPACT_ABOVE or not self._whole:
                return
            entry = Entry(number=self._last, at=0.0, units=tuple(self._latest.values()))
            write_durably(self.file, msgspec.json.encode(entry) + b"\n")


__all__ = ["Entry", "GrantJournal", "UnitState"]
