"""The pages' door: who is there, what he may, and the way in and out."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from litestar import Request

from callpool.device.config_book import ConfigReport
from callpool.device.control import ask
from callpool.device.errors import DeviceError
from callpool.device.faces.reader import PATIENCE
from callpool.device.faces.sessions import Notice, Session, Sessions, cookie_name, genuine
from callpool.device.users import Group, SignIn, User
from callpool.licensing.errors import CallpoolError

T = TypeVar("T")
AnyRequest = Request[Any, Any, Any]

#: Commands of the core that all pages together ask at once; it serves 16 clients in all.
MAX_ASKING: Final = 4
#: Seconds for which the core's word on a user and on the configuration is believed.
_FRESH: Final = 1.0


class NotSignedIn(CallpoolError):
    """Nobody is signed in: a page leads to the way in."""

    def __init__(self) -> None:
        """Make the error."""
        super().__init__("not_signed_in", "Sign in first.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks for a page."""

    user: User
    session: Session
    cookie: str

    @property
    def may_change(self) -> bool:
        """Whether this user may change anything."""
        return self.user.group.may(Group.ADMINISTRATOR)


class Door:
    """The door of one device's pages."""

    def __init__(self, control: Path, serial: str) -> None:
        """Ask the core at the socket `control`."""
        self.control = control
        self.cookie = cookie_name(serial)
        self.sessions = Sessions(time.monotonic)
        self._signing = SignIn(control, "pages")
        self._asking = asyncio.Semaphore(MAX_ASKING)
        self._config: ConfigReport | None = None
        self._config_at = 0.0
        #: The core's word on users: when it was given, and what it is.
        self._users: dict[str, tuple[float, User | None]] = {}

    async def config(self) -> ConfigReport:
        """Return the device's configuration without secrets; raises CallpoolError."""
        if self._config is None or time.monotonic() - self._config_at > _FRESH:
            self._config = msgspec.convert(await self.tell("config"), ConfigReport)
            self._config_at = time.monotonic()
        return self._config

    async def tell(self, do: str, *, patience: float = PATIENCE, **fields: Any) -> Any:
        """Send the core one command; raises CallpoolError with the core's own code."""
        if do == "config":
            self._config = None
        async with self._asking:
            return await _patiently(
                lambda: asyncio.to_thread(ask, self.control, do, timeout=patience, **fields)
            )

    async def _user(self, name: str, *, fresh: bool) -> User | None:
        now = time.monotonic()
        kept = self._users.get(name)
        if fresh or kept is None or now - kept[0] > _FRESH:
            async with self._asking:
                user = await _patiently(lambda: self._signing.user(name))
            self._users = {n: k for n, k in self._users.items() if now - k[0] <= _FRESH}
            self._users[name] = kept = (now, user)
        return kept[1]

    async def visitor(
        self, request: AnyRequest, *, use: bool = True, fresh: bool = False
    ) -> Visitor:
        """Return who is signed in; raises NotSignedIn, CallpoolError where the core is away.

        The user is as it was at most a second ago, with `fresh` as it is now. With `use` the
        session counts as used.
        """
        cookie = request.cookies.get(self.cookie, "")
        idle = (await self.config()).idle_minutes * 60.0
        session = self.sessions.find(cookie, idle, use=use) if cookie else None
        user = await self._user(session.name, fresh=fresh) if session else None
        if session is None or user is None:
            raise NotSignedIn
        return Visitor(user=user, session=session, cookie=cookie)

    async def changer(self, request: AnyRequest, form: Any) -> Visitor:
        """Return who sends a form.

        Raises NotSignedIn, DeviceError `not_permitted`, `stale_form`.
        """
        visitor = await self.visitor(request, fresh=True)
        if not genuine(visitor.session, text(form, "csrf")):
            raise DeviceError(
                "stale_form", "This form is not of this session; load the page anew and try again."
            )
        if not visitor.may_change:
            raise DeviceError("not_permitted", "Only administrators may change anything here.")
        return visitor

    async def sign_in(self, name: str, password: str, source: str) -> str | None:
        """Return a new session's cookie, None where name or password are wrong.

        Raises DeviceError `too_many_failures`, `sign_in_busy`, CallpoolError.
        """
        user = await self._signing.verify(name[:64], password, source)
        return None if user is None else self.sessions.open(user.name, source)

    async def by_basic(self, request: AnyRequest) -> None:
        """Let a script in that sends HTTP Basic credentials; raises NotSignedIn, DeviceError."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        try:
            said = base64.b64decode(value, validate=True).decode()
        except ValueError:
            said = ""
        name, colon, password = said.partition(":")
        if scheme.lower() != "basic" or not colon:
            raise NotSignedIn
        if await self._signing.verify(name[:64], password, source_of(request)) is None:
            raise DeviceError("bad_credentials", "The user name or the password is wrong.")


async def _patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Do `work`; where the core has too many clients at once, a few times again."""
    for _ in range(20):
        try:
            return await work()
        except DeviceError as error:
            if error.code != "control_busy":
                raise
        await asyncio.sleep(0.05)
    return await work()


def text(form: Any, name: str) -> str:
    """Return a form's field as text, empty where it is none."""
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def source_of(request: AnyRequest) -> str:
    """Return the address that a request comes from."""
    return request.client.host if request.client else ""


def refused(visitor: Visitor, form: str, error: CallpoolError, **typed: str) -> None:
    """Keep a refusal for the next page, with what was typed; never with a secret."""
    visitor.session.notice = Notice(
        form=form, sentence=error.sentence, code=error.code, typed=typed
    )


def done(visitor: Visitor, form: str, sentence: str) -> None:
    """Keep what was done for the next page."""
    visitor.session.notice = Notice(form=form, sentence=sentence)
