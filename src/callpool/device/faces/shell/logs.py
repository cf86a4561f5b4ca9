"""sml.log and its older parts, read so that nothing planted beside them leads elsewhere."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final

from callpool.device.smart_log import KEEP

#: The log and its older parts, the newest first.
NAMES: Final = ("sml.log", *(f"sml.log.{number}" for number in range(1, KEEP + 1)))
#: Bytes that a tail reads at most.
TAIL_BYTES: Final = 512 * 1024
#: Seconds between two looks for a new line.
LOOK_EVERY: Final = 0.3


def open_plain(root: Path, name: str) -> int:
    """Open one file in the device's directory for reading and return its descriptor.

    Raises OSError: FileNotFoundError too for what is no plain file with one name, a link above
    all. The name is one of ours, never a client's path.
    """
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        raise FileNotFoundError(name) from error
    finally:
        os.close(directory)
    # A second name would be a hard link: of what, nobody can tell.
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise FileNotFoundError(name)
    return descriptor


def tail(root: Path, count: int, names: tuple[str, ...] = NAMES) -> list[str]:
    """Return the last `count` lines of the log, the oldest first; fewer where there are fewer."""
    lines: list[str] = []
    for name in names:
        if len(lines) >= count:
            break
        try:
            descriptor = open_plain(root, name)
        except OSError:
            continue
        with os.fdopen(descriptor, "rb") as source:
            size = os.fstat(descriptor).st_size
            start = max(0, size - TAIL_BYTES)
            source.seek(start)
            text = source.read(TAIL_BYTES).decode(errors="replace")
        lines = text.splitlines()[1 if start else 0 :] + lines
    return lines[-count:] if count else []


async def follow(root: Path) -> AsyncIterator[str]:
    """Yield each line that is written from now on, an empty one now and then; never ends.

    A log that is turned over is read to its end first.
    """
    source, at_end = _open(root), True
    if source is not None:
        source.seek(0, os.SEEK_END)
    pending = b""
    try:
        while True:
            if source is None:
                source = await asyncio.to_thread(_open, root)
            data = b"" if source is None else await asyncio.to_thread(source.read, 65536)
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
            if data:
                continue
            if source is not None and at_end and _turned_over(root, source.fileno()):
                # Once more to the end of the old part: a line may have come since it was read.
                at_end = False
                continue
            if not at_end and source is not None:
                source.close()
                source, at_end = None, True
                continue
            yield ""
            await asyncio.sleep(LOOK_EVERY)
    finally:
        if source is not None:
            source.close()


def _open(root: Path) -> BinaryIO | None:
    try:
        return os.fdopen(open_plain(root, NAMES[0]), "rb")
    except OSError:
        return None


def _turned_over(root: Path, descriptor: int) -> bool:
    """Tell whether sml.log is another file by now."""
    try:
        now = os.stat(root / NAMES[0], follow_symlinks=False)
    except OSError:
        return False
    mine = os.fstat(descriptor)
    return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)
