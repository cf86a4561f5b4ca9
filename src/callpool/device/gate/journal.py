"""The call book on disk: `calls.journal`, and what else a gate must know after a crash.

Lines are written per batch (a killed process loses none), synced once a second (a power cut
loses a second, and what is lost counts as uncertain), compacted when they are many. The file
is locked while a driver lives, so that the pre-start command of an external Kamailio can tell
whether somebody was listening.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from callpool.device.gate.calls import CallBook
from callpool.device.gate.render import write_private

_COMPACT_BYTES: Final = 4 << 20


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Kamailio's tick and counters at one moment of the core's clocks."""

    tick: int = 1
    wall: float = 0.0
    boottime: float = 0.0
    boot_id: str = ""
    admitted: int = 0
    refused: dict[str, int] = {}


class GateState(msgspec.Struct, frozen=True, kw_only=True):
    """`gate.json`: which Kamailio is ours and how it reaches us."""

    #: Pid and start time of the main process of our child; 0 when there is none.
    pid: int = 0
    started: int = 0
    gen: int = 0
    core_port: int = 0
    #: The shared token of the datagrams.
    token: str = ""

    @classmethod
    def load(cls, directory: Path) -> GateState:
        """Read it; an absent or spoilt file is an empty state."""
        try:
            return msgspec.json.decode((directory / "gate.json").read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return cls()

    def save(self, directory: Path) -> None:
        """Write it, whole or not at all. Raises OSError."""
        write_private(directory / "gate.json", msgspec.json.encode(self).decode())


class Journal:
    """The book's file."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        self.path = path
        #: Where the last driver left Kamailio's tick.
        self.moment = Moment()
        #: Whether nothing can have happened since the last line: no file yet, or a clean stop.
        self.clean = True
        #: Whether the disk has refused lines: the file is behind the book until it is written anew.
        self.behind = False
        self._fd = -1
        self._size = 0

    def load(self, book: CallBook) -> None:
        """Replay the file into `book`; lines torn by a crash are passed over."""
        self.clean = True
        try:
            # Not as text: a lone carriage return would end a line there.
            text = self.path.read_bytes().decode(errors="surrogateescape")
        except FileNotFoundError:
            return
        # What follows the last line's end is no line: a crash or a full disk has torn it.
        *lines, torn = text.split("\n")
        for line in lines:
            self.clean = line == "Q"
            if line.startswith("T "):
                with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
                    self.moment = msgspec.json.decode(line[2:], type=Moment)
            elif line != "Q":
                book.replay(line)
        self.clean = self.clean and not torn

    def open(self, book: CallBook) -> None:
        """Take the lock and write the file anew from `book`. Raises OSError."""
        self._compact(book)

    def locked_elsewhere(self) -> bool:
        """Tell whether a living driver holds the file."""
        try:
            fd = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(fd, fcntl.LOCK_UN)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def append(self, lines: Iterable[str], book: CallBook) -> None:
        """Write lines in one call; compacts first when the file has grown.

        A full disk puts the file behind the book and never stops who reads the events: without
        its last line a file is not clean, so what it lacks counts as uncertain after a crash.
        """
        data = "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")
        if not data or self._fd < 0 or self.behind:
            return
        try:
            if self._size > _COMPACT_BYTES:
                self._compact(book)  # the book holds what the lines say
                return
            written = os.write(self._fd, data)
        except OSError:
            self.behind = True
        else:
            self._size += written
            self.behind = written < len(data)

    def mark(self, moment: Moment, book: CallBook) -> None:
        """Note Kamailio's tick and counters at this moment; catch up where the file is behind."""
        self.moment = moment
        if self.behind and self._fd >= 0:
            with contextlib.suppress(OSError):
                self._compact(book)
        self.append([f"T {msgspec.json.encode(moment).decode()}"], book)

    def sync(self) -> None:
        """Make the file durable (blocks; call it from a thread). Raises OSError."""
        if self._fd >= 0:
            os.fdatasync(self._fd)

    def close(self, book: CallBook, *, clean: bool) -> None:
        """Close the file; `clean` says that Kamailio was ended and nothing was missed."""
        if self._fd < 0:
            return
        if clean:
            self.append(["Q"], book)
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # a child just forked may have it as well
        os.close(self._fd)
        self._fd = -1

    def _compact(self, book: CallBook) -> None:
        fresh = self.path.with_name(self.path.name + ".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        lines = [*book.snapshot(), f"T {msgspec.json.encode(self.moment).decode()}"]
        data = "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")
        try:
            while data:
                data = data[os.write(fd, data) :]
            os.fsync(fd)
            fresh.replace(self.path)
        except OSError:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        self.behind = False
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        # Counted from here: a large book must not be compacted at every line.
        self._size = 0
