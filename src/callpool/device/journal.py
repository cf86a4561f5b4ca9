"""The device's journal: every change with cause, time and who asked, one JSON line each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import structlog

#: The journal is turned over at this many bytes; one older part is kept.
MAX_BYTES: Final = 4 * 1024 * 1024


class FileJournal:
    """The journal in a file, and in the log of the process."""

    def __init__(self, file: Path) -> None:
        """Write to `file`."""
        self._file = file
        self._log = structlog.get_logger("callpool.device")

    def note(self, event: str, *, at: float, **details: Any) -> None:
        """Note one change; a full disk costs the line, never the device."""
        self._log.info(event, **details)
        line = msgspec.json.encode({"at": round(at, 3), "event": event, **details}) + b"\n"
        try:
            if self._file.exists() and self._file.stat().st_size > MAX_BYTES:
                self._file.replace(self._file.with_suffix(".1.jsonl"))
            with self._file.open("a+b") as out:
                if out.tell() and not _ends_a_line(out):
                    line = b"\n" + line
                out.write(line)
        except OSError as error:
            self._log.warning("journal_write_failed", error=str(error))


def _ends_a_line(file: IO[bytes]) -> bool:
    """Tell whether the last line is whole: a full disk or a power cut leaves a part of one."""
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
