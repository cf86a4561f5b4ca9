"""Who is signed in at the pages: sessions in memory, bounded, ended by time or by hand.

A restart of the faces ends them all. The cookie's name is the device's own: browsers share cookies
between the ports of one host, where several devices of a lab live.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

#: Seconds after which a session ends, however it is used.
LIFE: Final = 12 * 3600.0
#: Sessions at once; the one that was not used for the longest time ends first.
MAX_SESSIONS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What became of a form, shown once on the page that it led back to."""

    #: The form's name: the sentence stands beside it.
    form: str
    sentence: str
    #: The stable code of a refusal; empty where it was done.
    code: str = ""
    #: What was typed, to be shown again; never a secret.
    typed: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Session:
    """One browser that is signed in."""

    name: str
    source: str
    #: What its forms carry: a page of somebody else's cannot know it.
    csrf: str
    began: float
    used: float
    notice: Notice | None = None

    @property
    def who(self) -> str:
        """Return who asks, for the journal."""
        return f"{self.name} (pages from {self.source})"

    def take_notice(self) -> Notice | None:
        """Return what is to be told, once."""
        notice, self.notice = self.notice, None
        return notice


def cookie_name(serial: str) -> str:
    """Return the cookie's name; by its prefix a browser takes it with Secure only."""
    return f"__Host-callpool-{hashlib.sha256(serial.encode()).hexdigest()[:8]}"


class Sessions:
    """All sessions of one faces process."""

    def __init__(self, time: Callable[[], float]) -> None:
        """Judge age by `time`: monotonic, in seconds."""
        self._time = time
        self._held: dict[bytes, Session] = {}

    def open(self, name: str, source: str) -> str:
        """Begin a session; return its cookie."""
        now, cookie = self._time(), secrets.token_urlsafe(32)
        while len(self._held) >= MAX_SESSIONS:
            del self._held[min(self._held, key=lambda k: self._held[k].used)]
        self._held[_key(cookie)] = Session(
            name=name, source=source, csrf=secrets.token_urlsafe(24), began=now, used=now
        )
        return cookie

    def find(self, cookie: str, idle: float, *, use: bool = True) -> Session | None:
        """Return the session of a cookie, None where it is over; `idle` in seconds.

        With `use` it counts as used: a page that refreshes itself does not keep it alive.
        """
        key, now = _key(cookie), self._time()
        session = self._held.get(key)
        if session is None:
            return None
        if now - session.began > LIFE or now - session.used > idle:
            del self._held[key]
            return None
        if use:
            session.used = now
        return session

    def close(self, cookie: str) -> None:
        """End a session."""
        self._held.pop(_key(cookie), None)


def genuine(session: Session, said: str) -> bool:
    """Tell whether a form is of one of this session's own pages."""
    return hmac.compare_digest(said.encode(errors="replace"), session.csrf.encode())


def _key(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode(errors="replace")).digest()
