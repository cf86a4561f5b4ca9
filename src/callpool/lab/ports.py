"""Free loopback ports, found at run time."""

from __future__ import annotations

import random
import socket
from typing import Final

from callpool.licensing.errors import CallpoolError

#: Below the kernel's own range for outgoing connections, so that none of those takes it between
#: the look and the use.
_RANGE: Final = range(15000, 32000)
_TRIES: Final = 200


def free_port() -> int:
    """Return a port that is free on 127.0.0.1 for TCP and UDP.

    Raises CallpoolError `no_free_port`.
    """
    for port in random.SystemRandom().sample(_RANGE, _TRIES):
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port
    raise CallpoolError("no_free_port", "No free port was found on 127.0.0.1.")
