"""Operators: passwords by argon2, sessions by bearer token, failed sign-ins limited.

A script that sends HTTP Basic with each request pays for argon2 once a minute: what was
verified is remembered under an HMAC, in memory only.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from callpool.licensing.errors import CallpoolError
from callpool.manager.change import Change

if TYPE_CHECKING:
    from callpool.manager.core import Manager

#: Seconds for which a session is good.
SESSION_SECONDS: Final = 12 * 3_600.0
#: Seconds for which a verified password is remembered.
_REMEMBER: Final = 60.0
#: Failed sign-ins from one address in `_WINDOW` seconds before more are refused. Names are not
#: counted: a stranger must not be able to shut an operator out.
MAX_FAILURES: Final = 10
_WINDOW: Final = 60.0

_HASHER: Final = PasswordHasher()


def add_operator(change: Change, username: str, password: str) -> None:
    """Add an operator; the password is kept as an argon2 hash."""
    change.tx.run(
        "INSERT INTO operator (username, password) VALUES (:username, :password)",
        username=username,
        password=_HASHER.hash(password),
    )
    change.journal("operator_added", username=username)


class Access:
    """Who is at the operators' door."""

    def __init__(self, manager: Manager, *, real_time: Callable[[], float] = time.monotonic):
        self._manager = manager
        self._real_time = real_time
        self._secret = secrets.token_bytes(32)
        self._verified: dict[bytes, float] = {}
        self._failures: dict[str, deque[float]] = {}
        # One argon2 at a time: a flood of guesses must not take every core.
        self._lock = threading.Lock()
        self._nobody = _HASHER.hash(secrets.token_urlsafe(8))

    def by_password(self, username: str, password: str, source: str) -> str:
        """Return the operator's name.

        Raises CallpoolError `bad_credentials`, or `too_many_failures` after MAX_FAILURES from
        one source within a minute.
        """
        row = self._manager.database.read(
            lambda tx: tx.row("SELECT password FROM operator WHERE username = :u", u=username)
        )
        kept = row["password"] if row else self._nobody
        said = f"{username}\0{password}\0{kept}".encode()
        memory = hmac.digest(self._secret, said, hashlib.sha256)
        if self._verified.get(memory, 0.0) > self._real_time():
            return username
        with self._lock:
            if self._verified.get(memory, 0.0) > self._real_time():
                return username
            if len(self._recent(source)) >= MAX_FAILURES:
                raise CallpoolError(
                    "too_many_failures", "Too many failed sign-ins; try again in a minute."
                )
            try:
                _HASHER.verify(kept, password)
                good = row is not None
            except (VerificationError, InvalidHashError):
                good = False
            if good:
                now = self._real_time()
                self._verified = {k: t for k, t in self._verified.items() if t > now}
                self._verified[memory] = now + _REMEMBER
                return username
            self._failed(source, username)
        raise CallpoolError("bad_credentials", "The user name or the password is wrong.")

    def _recent(self, source: str) -> deque[float]:
        if len(self._failures) > 10_000:
            self._failures.clear()
        found = self._failures.setdefault(source, deque(maxlen=MAX_FAILURES))
        while found and found[0] < self._real_time() - _WINDOW:
            found.popleft()
        return found

    def _failed(self, source: str, username: str) -> None:
        self._recent(source).append(self._real_time())
        self._manager.change(username[:64], source, lambda change: change.journal("sign_in_failed"))

    def open_session(self, username: str, source: str) -> tuple[str, float]:
        """Return a new bearer token and when it expires (manager's time)."""
        token = secrets.token_urlsafe(32)

        def work(change: Change) -> float:
            expires = change.now + SESSION_SECONDS
            change.tx.run("DELETE FROM session WHERE expires <= :now", now=change.now)
            change.tx.run(
                "INSERT INTO session (hash, username, expires) VALUES (:hash, :user, :expires)",
                hash=_hash(token),
                user=username,
                expires=expires,
            )
            change.journal("signed_in")
            return expires

        return token, self._manager.change(username, source, work)

    def by_token(self, token: str) -> str:
        """Return the operator of a session; raises CallpoolError `session_expired`."""
        now = self._manager.clock.now().wall
        row = self._manager.database.read(
            lambda tx: tx.row(
                "SELECT username FROM session WHERE hash = :hash AND expires > :now",
                hash=_hash(token),
                now=now,
            )
        )
        if row is None:
            raise CallpoolError("session_expired", "The session is over; sign in again.")
        return str(row["username"])

    def close_session(self, token: str, username: str, source: str) -> None:
        """End a session."""

        def work(change: Change) -> None:
            change.tx.run("DELETE FROM session WHERE hash = :hash", hash=_hash(token))
            change.journal("signed_out")

        self._manager.change(username, source, work)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
