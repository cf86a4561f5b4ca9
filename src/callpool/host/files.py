"""Files that are whole or not there: atomic, synced, private where they hold secrets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(file: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace `file` by `content`, atomically, on disk before this returns.

    A failure at any instant leaves the old file or the new one, never a mixture.
    Raises OSError (disk full, read-only, input/output error); the old file stands then.
    """
    write_whole(file, content, mode=mode, durable=True)
    sync_directory(file.parent)


def write_whole(file: Path, content: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
    """Replace `file` by `content`, atomically, whoever else writes it at the same moment.

    Raises OSError; the old file stands then.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            os.fchmod(handle.fileno(), mode)
            handle.write(content)
            if durable:
                handle.flush()
                os.fsync(handle.fileno())
        os.replace(name, file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def locked(file: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold `flock` on `file`, which is made where it is missing. `how` is fcntl's LOCK_...

    Given back in words: closing alone leaves it with a child that another thread has just forked,
    until that child executes its program.
    Raises OSError, BlockingIOError where `how` does not wait and another holds it.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, how)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)
