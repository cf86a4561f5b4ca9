"""Free ports, found at run time."""

from __future__ import annotations

import random
import socket
from typing import Final

from callpool.licensing.errors import CallpoolError

#: Below the kernel's own range for outgoing connections, so that none of those takes it between
#: the look and the use.
_RANGE: Final = range(15000, 32000)
_TRIES: Final = 200


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free now on the address `host`, for TCP and UDP alike.

    Raises CallpoolError `no_free_port`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.SystemRandom().sample(_RANGE, _TRIES):
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(family, kind) as probe:
                    probe.bind((host, port))
        except OSError:
            continue
        return port
    raise CallpoolError("no_free_port", f"No free port was found on {host}.")
