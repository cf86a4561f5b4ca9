"""A small typed runner for SIPp, with scenarios of our own.

SIPp's built-in scenarios ignore Record-Route and send 180 and 200 back to back; these do not.
"""

from callpool.host.sipp.runner import (
    Sipp,
    SippError,
    SippResult,
    answerer,
    caller,
    register,
    run,
)

__all__ = [
    "Sipp",
    "SippError",
    "SippResult",
    "answerer",
    "caller",
    "register",
    "run",
]
