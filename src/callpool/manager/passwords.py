"""Operators' passwords: argon2, one at a time, off the event loop and off the pool's threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from callpool.licensing.errors import CallpoolError, LicenseError

#: Characters of a password, fewest and most.
SHORTEST: Final = 12
LONGEST: Final = 256
#: Sign-ins that wait for their turn, at most: a flood of guesses must not fill the memory.
MOST_WAITING: Final = 64

_HASHER: Final = PasswordHasher()
# A thread of its own: a flood of guesses must not take every core, nor everybody else's threads.
_ALONE: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="argon2")
#: Verified where there is no such operator, so that the answer takes as long: the hash of 32 random
#: bytes that nobody kept. Made here, it would cost each command a quarter of a second.
NOBODY: Final = (
    "$argon2id$v=19$m=65536,t=3,p=4$rSlHq2xXtWrS4Guar"
    "1ea/g$xaOQNwQHJndj/DB9HYkXAlsnw5Q+cKf6ZUsIGjEybkw"
)


def hashed_password(password: str) -> str:
    """Return a password's argon2 hash; takes tens of milliseconds."""
    return _HASHER.hash(password)


async def hashed_aside(password: str) -> str:
    """Return the same, computed off the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_ALONE, hashed_password, password)


def check_password(password: str, username: str) -> str:
    """Return a new password that is good enough; raises LicenseError `weak_password`."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise LicenseError("weak_password", f"A password has {SHORTEST} to {LONGEST} characters.")
    if username.lower() in password.lower() or len(set(password)) < 5:
        raise LicenseError(
            "weak_password",
            "A password does not contain the operator's name, and has five different characters.",
        )
    return password


def _matches(kept: str, password: str) -> bool:
    try:
        return _HASHER.verify(kept, password)
    except (VerificationError, InvalidHashError):
        return False


class Verifier:
    """Verifies passwords in turn, of which a bounded number wait."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn; raises CallpoolError `too_many_sign_ins` where too many wait."""
        if self._waiting >= MOST_WAITING:
            raise CallpoolError(
                "too_many_sign_ins", "Too many sign-ins at once; try again in a few seconds."
            )
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1

    async def matches(self, kept: str, password: str) -> bool:
        """Tell whether a password is the one whose hash is kept."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_ALONE, _matches, kept, password)
