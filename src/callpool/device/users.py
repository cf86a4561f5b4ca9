"""Users of the shell and of the pages: one store, one way to sign in.

The store is part of the configuration that the core holds (`config.py`). A face asks the core for
the one user at its door, and does the costly part, argon2, in its own process: one at a time and
off its event loop, so that a flood of guesses takes neither the core's time nor every processor.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from callpool.device.control import ask_patiently
from callpool.device.errors import DeviceError

#: The shortest and the longest password, in characters.
SHORTEST, LONGEST = 8, 128
#: The most users, and the most public keys of one.
MAX_USERS, MAX_KEYS = 64, 8
#: Sign-ins that may wait for their turn at argon2; one more is refused.
MAX_WAITING: Final = 32
#: Seconds that the core may take to answer.
PATIENCE: Final = 5.0

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,31}")
_KEY = re.compile(r"[a-z0-9@.-]{4,64} [A-Za-z0-9+/]{32,2000}={0,2}( [ -~]{0,100})?")


class Group(StrEnum):
    """What a user may do; each may what the one before it may."""

    #: Show only.
    OPERATOR = "operator"
    #: Fetch files as well.
    FILES = "pfs-privusers"
    #: Everything.
    ADMINISTRATOR = "administrator"

    def may(self, wanted: Group) -> bool:
        """Tell whether this group may what is open to `wanted`."""
        order = list(Group)
        return order.index(self) >= order.index(wanted)


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One user."""

    name: str
    group: Group = Group.OPERATOR
    #: The password's argon2 hash, a secret; empty for a user who has none.
    password: str = ""
    #: OpenSSH public keys, one line each.
    keys: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Show no hash."""
        return f"User({self.name}, {self.group})"


class SignedAt(msgspec.Struct, frozen=True, kw_only=True):
    """What the core says of a name at a door."""

    #: False: too many have failed from this address, and the password is not even looked at.
    allowed: bool
    user: User | None = None


def check_name(name: str) -> str:
    """Return a user's name; raises DeviceError `bad_user_name`."""
    if not _NAME.fullmatch(name):
        raise DeviceError(
            "bad_user_name",
            "A user's name is a letter, then letters, digits, dots, dashes and underscores, "
            "32 characters at most.",
        )
    return name


def check_key(line: str) -> str:
    """Return a public key's line, tidied; raises DeviceError `bad_public_key`.

    Only its form: whoever takes a key from a person has it read by the SSH library first.
    """
    tidy = " ".join(line.split())
    if not _KEY.fullmatch(tidy):
        raise DeviceError(
            "bad_public_key",
            "A public key is one line as in OpenSSH's .pub files: type, base64, comment.",
        )
    return tidy


def hash_password(password: str) -> str:
    """Return the argon2 hash of a new password; takes some 0.1 s and 64 MiB.

    Raises DeviceError `bad_password` (never with the password).
    """
    if not SHORTEST <= len(password) <= LONGEST or not password.isprintable():
        raise DeviceError(
            "bad_password", f"A password has {SHORTEST} to {LONGEST} printable characters."
        )
    return PasswordHasher().hash(password)


def is_hash(text: str) -> bool:
    """Tell whether `text` is an argon2 hash: what the core takes instead of a password."""
    return text.startswith("$argon2id$") and len(text) < 256 and text.isascii()


@cache
def _nobody() -> str:
    """Return a hash that nothing matches: a name that does not exist takes as long as one does."""
    return PasswordHasher().hash("nobody: \N{BLACK SQUARE}")


def _matches(kept: str, password: str) -> bool:
    try:
        return PasswordHasher().verify(kept or _nobody(), password) and bool(kept)
    except (VerificationError, InvalidHashError):
        return False


class SignIn:
    """The way in of one face."""

    def __init__(self, socket_file: Path, via: str) -> None:
        """Ask the core at `socket_file`; `via` (ssh, pages) is what the journal says."""
        self._file, self._via = socket_file, via
        self._argon2 = ThreadPoolExecutor(1, "argon2")
        # Threads of its own: commands that take their time must not keep others out.
        self._asking = ThreadPoolExecutor(2, "sign-in")
        self._waiting = 0

    async def verify(self, name: str, password: str, source: str) -> User | None:
        """Return the user whose name and password these are, None for no such pair.

        `source` is the address that it came from. Both outcomes are journalled and counted by the
        core, for all faces together. Raises DeviceError `too_many_failures` or `sign_in_busy`
        (nothing was looked at), and CallpoolError where the core does not answer.
        """
        if self._waiting >= MAX_WAITING:
            raise DeviceError("sign_in_busy", "Too many sign in at once; try again.")
        self._waiting += 1
        try:
            at = await self._at_door(name, source)
            if not at.allowed:
                raise DeviceError(
                    "too_many_failures",
                    "Too many sign-ins have failed from this address; try again in a minute.",
                )
            kept = at.user.password if at.user else ""
            loop = asyncio.get_running_loop()
            ok = await loop.run_in_executor(self._argon2, _matches, kept, password[: LONGEST + 1])
        finally:
            self._waiting -= 1
        await self._report(name, source, "password", ok=ok)
        return at.user if ok else None

    async def user(self, name: str) -> User | None:
        """Return the user as it is now, None where there is none; raises CallpoolError."""
        return (await self._at_door(name, "")).user

    async def by_key(self, name: str, source: str) -> None:
        """Tell the core that `name` has signed in by a public key; raises CallpoolError."""
        await self._report(name, source, "public key", ok=True)

    async def _at_door(self, name: str, source: str) -> SignedAt:
        return msgspec.convert(await self._ask("sign_in", name=name, source=source), SignedAt)

    async def _report(self, name: str, source: str, how: str, *, ok: bool) -> None:
        await self._ask("signed_in", name=name, source=source, via=self._via, how=how, ok=ok)

    async def _ask(self, do: str, **fields: Any) -> Any:
        asking = partial(ask_patiently, self._file, do, timeout=PATIENCE, **fields)
        return await asyncio.get_running_loop().run_in_executor(self._asking, asking)
