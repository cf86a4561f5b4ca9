"""Free ports, found at run time."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import tempfile
import time
from pathlib import Path
from typing import Final

from callpool.licensing.errors import CallpoolError

#: Below the kernel's own range for outgoing connections, so that none of those takes it between
#: the look and the use.
_RANGE: Final = range(15000, 32000)
_TRIES: Final = 200
#: Seconds for which nobody else is told of a port: whoever asked is to take it meanwhile.
_KEPT: Final = 300.0


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free now on the address `host`, for TCP and UDP alike.

    No process of this user is told of the same port in the next five minutes: labs that are
    brought up beside each other do not meet.
    Raises CallpoolError `no_free_port`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.SystemRandom().sample(_RANGE, _TRIES):
        if not _ours(port):
            continue
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(family, kind) as probe:
                    probe.bind((host, port))
        except OSError:
            continue
        return port
    raise CallpoolError("no_free_port", f"No free port was found on {host}.")


def _ours(port: int) -> bool:
    """Note that a port has been told; return False where another was told of it just now."""
    try:
        directory = Path(tempfile.gettempdir()) / f"callpool-ports-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        note = directory / str(port)
        with contextlib.suppress(FileNotFoundError):
            if time.time() - note.stat().st_mtime < _KEPT:
                return False
            note.unlink()
        os.close(os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    except OSError:  # a full or foreign directory: the look at the port itself has to do
        return True
    return True
