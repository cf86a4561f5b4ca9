"""The core's side of configuration: running and startup, and who has failed to sign in.

The running configuration lives in the core's memory. So it outlives a restart of the faces, and a
device that restarts begins with the startup configuration, `config.json` (mode 0600).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from callpool.device.config import Change, Config, SetIdle, keeps_way_in, shown
from callpool.device.errors import DeviceError
from callpool.device.users import SignedAt
from callpool.host.files import write_durably

#: Failed sign-ins from one address within so many seconds before more are refused. Names are not
#: counted: a stranger must not be able to shut a user out.
MAX_FAILURES: Final = 10
WINDOW: Final = 60.0
#: Addresses that are remembered; the one that failed longest ago is forgotten first.
MAX_SOURCES: Final = 1024
#: Failures that are journalled within `WINDOW`; the rest are counted.
MAX_NOTES: Final = 60

#: Notes a change: event and details.
Note = Callable[..., None]


class ConfigReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the core tells of its configuration, without secrets."""

    #: Both as commands.
    running: tuple[str, ...]
    startup: tuple[str, ...]
    #: Whether they differ: what a restart of the device would lose.
    unsaved: bool
    idle_minutes: int


class ConfigBook:
    """Keeps the configuration of one device."""

    def __init__(self, file: Path, note: Note) -> None:
        """Keep the startup configuration in `file`; `start` reads it."""
        self._file, self._note = file, note
        self._running = self._startup = Config()
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Read the startup configuration; one that cannot be read is set aside, and it is noted.

        Calls come first: the device starts, without users.
        """
        try:
            raw = await asyncio.to_thread(self._file.read_bytes)
            self._startup = msgspec.json.decode(raw, type=Config)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            self._note("config_unreadable", text=str(error)[:200])
            aside = self._file.with_suffix(".unreadable")
            await asyncio.to_thread(_move, self._file, aside)
        self._running = self._startup

    @property
    def running(self) -> Config:
        """What counts now."""
        return self._running

    @property
    def unsaved(self) -> bool:
        """Whether a restart of the device would lose something."""
        return self._running != self._startup

    def report(self) -> ConfigReport:
        """Return both configurations for people."""
        return ConfigReport(
            running=shown(self._running),
            startup=shown(self._startup),
            unsaved=self.unsaved,
            idle_minutes=self._running.idle_minutes,
        )

    async def change(self, change: Change, *, who: str, durable: bool = False) -> None:
        """Change what counts now, and with `durable` (the host's own commands) what is written.

        Raises DeviceError as the change does, `last_administrator` where nobody would be left who
        may change anything (not with `durable`: the host is the way back in), or
        `config_write_failed`; nothing has changed then.
        """
        async with self._lock:
            running = change.apply(self._running)
            if durable:
                # Each on its own: what others have not written stays unwritten.
                await self._write(mirrored(self._startup, running, change))
            elif not keeps_way_in(self._running, running):
                raise DeviceError(
                    "last_administrator",
                    "No administrator would be left who can sign in; make another one first.",
                )
            self._running = running
            self._note("configured", cause="asked", who=who, change=change.line, durable=durable)

    async def save(self, *, who: str) -> None:
        """Make the running configuration the startup one; raises DeviceError."""
        async with self._lock:
            await self._write(self._running)
            self._note("configuration_written", cause="asked", who=who)

    async def _write(self, config: Config) -> None:
        try:
            await asyncio.to_thread(write_durably, self._file, encoded(config))
        except OSError as error:
            raise DeviceError(
                "config_write_failed",
                f"The configuration cannot be written ({error.strerror}); nothing has changed.",
            ) from error
        self._startup = config

    def forget(self) -> None:
        """Drop all of it, after a factory reset has removed the file."""
        self._running = self._startup = Config()
        self._note("configuration_dropped", cause="reset")


def encoded(config: Config) -> bytes:
    """Return a configuration as `config.json` holds it."""
    return msgspec.json.format(msgspec.json.encode(config)) + b"\n"


def mirrored(startup: Config, running: Config, change: Change) -> Config:
    """Return `startup` with what `change` was about as it is in `running`."""
    if isinstance(change, SetIdle):
        return msgspec.structs.replace(startup, idle_minutes=running.idle_minutes)
    others = [u for u in startup.users if u.name != change.name]
    now = running.user(change.name)
    users = sorted([*others, *([now] if now else [])], key=lambda u: u.name)
    return msgspec.structs.replace(startup, users=tuple(users))


def _move(file: Path, aside: Path) -> None:
    try:
        file.replace(aside)
    except OSError:
        return


class Doorkeeper:
    """Counts sign-ins that failed, for shell and pages together, in the core's memory."""

    def __init__(self, book: ConfigBook, note: Note, time: Callable[[], float]) -> None:
        """Judge by the users of `book`; `time` is monotonic, in seconds."""
        self._book, self._note, self._time = book, note, time
        self._failures: dict[str, deque[float]] = {}
        self._noted: deque[float] = deque(maxlen=MAX_NOTES)
        self._unnoted = 0

    def at_door(self, name: str, source: str) -> SignedAt:
        """Return whether `source` may try, and the user called `name`."""
        if source and len(self._recent(source)) >= MAX_FAILURES:
            return SignedAt(allowed=False)
        return SignedAt(allowed=True, user=self._book.running.user(name))

    def signed_in(self, *, name: str, source: str, via: str, how: str, ok: bool) -> None:
        """Journal a sign-in; count it where it failed."""
        told = {"who": _plain(name), "source": _plain(source), "via": via, "how": how}
        if ok:
            self._note("signed_in", **told)
            return
        recent = self._recent(source)
        recent.append(self._time())
        self._failures.pop(source, None)
        self._failures[source] = recent
        while len(self._failures) > MAX_SOURCES:
            del self._failures[next(iter(self._failures))]
        now = self._time()
        if len(self._noted) == MAX_NOTES and now - self._noted[0] < WINDOW:
            self._unnoted += 1
            return
        self._noted.append(now)
        self._note("sign_in_failed", **told, not_journalled=self._unnoted)
        self._unnoted = 0

    def _recent(self, source: str) -> deque[float]:
        failures = self._failures.get(source, deque(maxlen=MAX_FAILURES))
        now = self._time()
        while failures and now - failures[0] > WINDOW:
            failures.popleft()
        return failures


def _plain(text: str) -> str:
    """Return what a stranger sent, fit for a journal."""
    return "".join(c if c.isprintable() else "?" for c in text[:64])


def change_from(request: dict[str, Any]) -> Change:
    """Read a change from a request of the control socket; raises DeviceError `bad_request`."""
    try:
        change: Change = msgspec.convert(request.get("change"), type=Change)
    except msgspec.ValidationError as error:
        raise DeviceError("bad_request", f"This is no change of configuration: {error}.") from error
    return change
