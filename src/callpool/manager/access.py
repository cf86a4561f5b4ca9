"""Who is at the operators' door: passwords, sessions of browsers and scripts, API tokens.

What a caller brings (a cookie, a bearer token, HTTP Basic) becomes a `Principal`; what he may do is
`roles.py`. A script that sends HTTP Basic with each request pays for argon2 once: what was
verified is remembered under an HMAC, in memory only, while it is in use.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from callpool.licensing.errors import CallpoolError
from callpool.manager.audit import REFUSED
from callpool.manager.change import Acting, Change
from callpool.manager.operators import TOKEN_MARK
from callpool.manager.passwords import NOBODY, Verifier
from callpool.manager.roles import TENANT_OPERATOR, allowed
from callpool.manager.sign_in_limits import (
    ADDRESS_FAILURES,
    ADDRESS_SECONDS,
    NAME_FAILURES,
    NAME_SECONDS,
    Limits,
    too_many_for_name,
    too_many_from_address,
)
from callpool.manager.store.scope import WHOLE, Scope
from callpool.manager.store.tx import Row, Tx
from callpool.manager.web import in_thread
from callpool.wire.tokens import hashed

if TYPE_CHECKING:
    from callpool.manager.core import Manager

T = TypeVar("T")

BROWSER: Final = "browser"
BEARER: Final = "bearer"
PASSWORD: Final = "password"  # noqa: S105  a means, no secret
#: Seconds after which a session ends, however it is used, and when it is not used.
SESSION_SECONDS: Final = 12 * 3_600.0
IDLE_SECONDS: Final = {BROWSER: 30 * 60.0, BEARER: SESSION_SECONDS}
#: Sessions of one operator at once; the oldest ends.
MOST_SESSIONS: Final = 50
#: The browser's cookie: by its prefix a browser takes it only with Secure, for this host alone.
COOKIE: Final = "__Host-callpool"
#: The role of one who has not proved who he is.
STRANGER: Final = "stranger"
#: Seconds for which a verified password is remembered after its last use, and at all.
_REMEMBER: Final = 60.0
_REMEMBER_AT_ALL: Final = 3_600.0
_MOST_REMEMBERED: Final = 1_000
#: Seconds between two notes that a session or a token is in use.
_NOTE: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An operator at the door, and by what means he came."""

    username: str
    role: str
    #: `browser`, `bearer`, `password` or `token:NUMBER`.
    via: str
    #: The address he comes from.
    source: str
    #: An API token's scopes; None for no bound but the role's.
    scopes: tuple[str, ...] | None = None
    #: The hash of his session, empty where there is none.
    session: str = ""
    #: What a browser has to send back with every change, empty where it is no browser's session.
    csrf: str = ""
    #: When session or token end at the latest, seconds since 1970; 0 for neither.
    expires: float = 0.0

    def may(self, permission: str) -> bool:
        """Tell whether he may do what takes a permission."""
        return permission in allowed(self.role, self.scopes)

    @property
    def scope(self) -> Scope:
        """Whose things he sees."""
        return Scope(self.username) if self.role == TENANT_OPERATOR else WHOLE

    @property
    def acting(self) -> Acting:
        """In which role he changes things."""
        return Acting(role=self.role, via=self.via, scope=self.scope)


class Access:
    """The door of one manager process."""

    def __init__(self, manager: Manager, *, real_time: Callable[[], float] = time.monotonic):
        self.manager = manager
        self._real_time = real_time
        self._secret = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        self._limits = Limits(real_time)
        self._verifier = Verifier()

    async def caller(self, header: str, cookie: str, source: str) -> Principal:
        """Return who sends an Authorization header, or else a session's cookie.

        Raises CallpoolError `not_signed_in`, `bad_credentials`, `session_expired`,
        `token_refused`, `too_many_failures`, `too_many_sign_ins`.
        """
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer" and value:
            token = value.strip()
            if token.startswith(TOKEN_MARK):
                return await in_thread(lambda: self.by_api_token(token, source))
            return await in_thread(lambda: self.by_session(token, source, BEARER))
        if scheme.lower() == "basic":
            username, password = _basic(value)
            if username:
                return await self.by_password(username, password, source)
        elif not header and cookie:
            return await in_thread(lambda: self.by_session(cookie, source, BROWSER))
        raise CallpoolError("not_signed_in", "Sign in: send a bearer token or a session's cookie.")

    async def by_password(
        self, username: str, password: str, source: str, *, via: str = PASSWORD
    ) -> Principal:
        """Return the operator with this name and password; each sign-in is journalled.

        Raises CallpoolError `bad_credentials`, `too_many_failures`, `too_many_sign_ins`.
        """
        row = await in_thread(
            lambda: self.manager.database.read(
                lambda tx: tx.row("SELECT * FROM operator WHERE username = :u", u=username)
            )
        )
        kept = NOBODY if row is None or row["disabled"] else row["password"]
        said = f"{username}\0{password}\0{kept}".encode(errors="surrogatepass")
        memory = hmac.digest(self._secret, said, hashlib.sha256)
        if via == PASSWORD and row is not None and self._remembers(memory):
            return Principal(username=username, role=row["role"], via=via, source=source)
        async with self._verifier.turn():
            # Only now: whoever waited in the queue meanwhile counts.
            self._limits.check(username, source)
            if not self.manager.database.is_sqlite:
                await in_thread(lambda: self._check_elsewhere(username, source))
            good = await self._verifier.matches(kept, password) and kept != NOBODY
            blocked = not good and self._limits.failed(username, source)
        if not good or row is None:
            await in_thread(lambda: self._refused(row, source, blocked))
            raise CallpoolError("bad_credentials", "The user name or the password is wrong.")
        self._limits.succeeded(username, source)
        found = Principal(username=username, role=row["role"], via=via, source=source)
        if via == PASSWORD:
            now = self._real_time()
            self._remembered[memory] = (now + _REMEMBER, now + _REMEMBER_AT_ALL)
            while len(self._remembered) > _MOST_REMEMBERED:
                self._remembered.popitem(last=False)
            await in_thread(lambda: self._change(found, lambda c: _signed_in(c, username)))
        return found

    def _check_elsewhere(self, username: str, source: str) -> None:
        """Count what failed at other managers too, as the journal has it.

        Raises CallpoolError `too_many_failures`.
        """
        now = self.manager.clock.now().wall

        def count(tx: Tx, column: str, value: str, seconds: float) -> int:
            return int(
                tx.value(
                    "SELECT count(*) FROM (SELECT at, who, source FROM journal"  # noqa: S608  our own words
                    " WHERE cause = 'sign_in_failed' ORDER BY entry DESC LIMIT 1000) AS failed"
                    f" WHERE {column} = :value AND at > :since AND at <= :now",
                    value=value,
                    since=now - seconds,
                    now=now,
                )
            )

        def work(tx: Tx) -> None:
            if count(tx, "source", source, ADDRESS_SECONDS) >= ADDRESS_FAILURES:
                raise too_many_from_address()
            if count(tx, "who", username, NAME_SECONDS) >= NAME_FAILURES and not tx.value(
                "SELECT 1 FROM journal WHERE who = :who AND cause = 'signed_in'"
                " AND source = :source LIMIT 1",
                who=username,
                source=source,
            ):
                raise too_many_for_name()

        self.manager.database.read(work)

    def _remembers(self, memory: bytes) -> bool:
        now = self._real_time()
        until, at_all = self._remembered.get(memory, (0.0, 0.0))
        if min(until, at_all) <= now:
            self._remembered.pop(memory, None)
            return False
        self._remembered[memory] = (now + _REMEMBER, at_all)
        self._remembered.move_to_end(memory)
        return True

    def _refused(self, row: Row | None, source: str, blocked: bool) -> None:
        def work(change: Change) -> None:
            change.journal("sign_in_failed", outcome=REFUSED)
            if blocked:
                change.journal("sign_in_blocked", outcome=REFUSED)

        # A name that there is not may be a password in the wrong field: it is not written down.
        who = row["username"] if row else "unknown"
        self.manager.change(who, source, work, acting=Acting(role=STRANGER, via=PASSWORD))

    async def sign_in(
        self, username: str, password: str, source: str, kind: str
    ) -> tuple[str, Principal]:
        """Open a session of a browser or for bearers; returns its token and who it is.

        Raises as `by_password`.
        """
        found = await self.by_password(username, password, source, via=kind)
        return await in_thread(lambda: self._open(found))

    def _open(self, found: Principal) -> tuple[str, Principal]:
        token = secrets.token_urlsafe(32)

        def work(change: Change) -> float:
            expires = change.now + SESSION_SECONDS
            change.tx.run("DELETE FROM session WHERE expires <= :now", now=change.now)
            change.tx.run(
                "DELETE FROM session WHERE username = :user AND hash NOT IN (SELECT hash FROM"
                " session WHERE username = :user ORDER BY made_at DESC LIMIT :most)",
                user=found.username,
                most=MOST_SESSIONS - 1,
            )
            change.tx.run(
                "INSERT INTO session (hash, username, kind, source, made_at, seen_at, expires)"
                " VALUES (:hash, :user, :kind, :source, :now, :now, :expires)",
                hash=hashed(token),
                user=found.username,
                kind=found.via,
                source=found.source,
                now=change.now,
                expires=expires,
            )
            _signed_in(change, found.username)
            return expires

        expires = self._change(found, work)
        return token, self._of_session(found, token, expires)

    def _of_session(self, found: Principal, token: str, expires: float) -> Principal:
        return Principal(
            username=found.username,
            role=found.role,
            via=found.via,
            source=found.source,
            session=hashed(token),
            csrf=csrf_of(token) if found.via == BROWSER else "",
            expires=expires,
        )

    def by_session(self, token: str, source: str, kind: str) -> Principal:
        """Return the operator of a session; raises CallpoolError `session_expired`."""
        now = self.manager.clock.now().wall
        row = self.manager.database.read(lambda tx: _session(tx, hashed(token), kind))
        if row is None or row["expires"] <= now or row["seen_at"] + IDLE_SECONDS[kind] <= now:
            raise CallpoolError("session_expired", "The session is over; sign in again.")
        if now - row["seen_at"] >= _NOTE:
            self._note("UPDATE session SET seen_at = :now WHERE hash = :key", hashed(token), now)
        found = Principal(username=row["username"], role=row["role"], via=kind, source=source)
        return self._of_session(found, token, row["expires"])

    def by_api_token(self, token: str, source: str) -> Principal:
        """Return the operator of an API token; raises CallpoolError `token_refused`."""
        now = self.manager.clock.now().wall
        row = self.manager.database.read(
            lambda tx: tx.row(
                "SELECT t.*, o.role FROM api_token t JOIN operator o ON o.username = t.username"
                " WHERE t.hash = :hash AND NOT t.revoked AND t.expires > :now AND NOT o.disabled",
                hash=hashed(token),
                now=now,
            )
        )
        if row is None:
            raise CallpoolError("token_refused", "The API token is not good, or not any more.")
        if row["last_used"] is None or now - row["last_used"] >= _NOTE:
            self._note(
                "UPDATE api_token SET last_used = :now WHERE token_id = :key", row["token_id"], now
            )
        return Principal(
            username=row["username"],
            role=row["role"],
            via=f"token:{row['token_id']}",
            source=source,
            scopes=tuple(row["scopes"].split()),
            expires=row["expires"],
        )

    def still(self, principal: Principal) -> bool:
        """Tell whether who opened a long answer, such as a stream, may still have it."""
        if not principal.session:
            return True
        now = self.manager.clock.now().wall
        row = self.manager.database.read(lambda tx: _session(tx, principal.session, principal.via))
        return row is not None and row["expires"] > now and row["role"] == principal.role

    def close_session(self, principal: Principal, session: str) -> None:
        """End a session, by its hash."""

        def work(change: Change) -> None:
            change.tx.run("DELETE FROM session WHERE hash = :hash", hash=session)
            change.journal("signed_out")

        self._change(principal, work)

    def refused(self, principal: Principal, *, method: str, path: str, needs: str) -> None:
        """Write down that somebody asked for what he may not."""
        self._change(
            principal,
            lambda c: c.journal(
                "permission_refused", outcome=REFUSED, method=method, path=path[:200], needs=needs
            ),
        )

    def _change(self, who: Principal, work: Callable[[Change], T]) -> T:
        return self.manager.change(who.username, who.source, work, acting=who.acting)

    def _note(self, statement: str, key: object, now: float) -> None:
        self.manager.database.write(lambda tx: tx.run(statement, key=key, now=now))


def csrf_of(token: str) -> str:
    """Return what a browser sends back with a change, of its session's cookie."""
    return hmac.new(b"callpool-csrf", token.encode(), hashlib.sha256).hexdigest()


def _session(tx: Tx, key: str, kind: str) -> Row | None:
    return tx.row(
        "SELECT s.*, o.role FROM session s JOIN operator o ON o.username = s.username"
        " WHERE s.hash = :hash AND s.kind = :kind AND NOT o.disabled",
        hash=key,
        kind=kind,
    )


def _signed_in(change: Change, username: str) -> None:
    change.tx.run(
        "UPDATE operator SET last_sign_in = :now WHERE username = :name",
        now=change.now,
        name=username,
    )
    change.journal("signed_in")


def _basic(value: str) -> tuple[str, str]:
    try:
        said = base64.b64decode(value, validate=True).decode()
    except ValueError:  # not base64, or not UTF-8 within
        return "", ""
    username, colon, password = said.partition(":")
    return (username, password) if colon else ("", "")
