"""The device's alarm log: fed with what is wrong at each look, kept in a file of its own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from callpool.device import alarms as al
from callpool.device.active import active_alarms
from callpool.device.core import Core
from callpool.device.status import in_use
from callpool.host.files import write_durably
from callpool.licensing.alarms import AlarmLog, Event, nearly_used
from callpool.licensing.capacity import FAR_END_USERS, SBC_SESSIONS

#: Seconds between two looks: a raise and its clear within that time are not told.
LOOK_EVERY: Final = 0.25

#: The alarm of each license type whose use is watched.
_WATCHED: Final = {SBC_SESSIONS: al.SESSIONS_NEARLY_USED, FAR_END_USERS: al.USERS_NEARLY_USED}


class AlarmReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the core tells of its alarms. Times are seconds since 1970, by trusted time."""

    #: When this run of the core began: a new value is a restart.
    started: float
    #: Seconds since then.
    uptime: float
    #: The number of the last event.
    sequence: int
    active: tuple[Event, ...]
    history: tuple[Event, ...]
    #: When the last restart of this run was asked for, and when the last one was done; 0: never.
    restart_asked: float = 0.0
    restart_done: float = 0.0


class AlarmBook:
    """Keeps the alarm log of one device."""

    def __init__(self, file: Path, core: Core) -> None:
        """Keep the log of `core` in `file`; `start` reads it."""
        self._file, self._core = file, core
        self._log = AlarmLog(log=secrets.token_hex(8))
        self._written = self._log
        self._unsaved = False
        self._started = 0.0
        self._began = 0.0
        #: Called after an event, in the loop that looks.
        self.on_event: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Read the log; one that cannot be read is begun anew, and the journal says so."""
        now = self._core.now()
        self._started, self._began = self._core.time(now), now.boottime
        try:
            raw = await asyncio.to_thread(self._file.read_bytes)
            read = msgspec.json.decode(raw, type=AlarmLog)
            # The log of a release that gave it no name gets one; it is kept with the next event.
            self._log = msgspec.structs.replace(read, log=read.log or self._log.log)
            self._written = self._log
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            self._core.note("alarms_unreadable", text=str(error))
        if self._log.holds(al.LEASE_ENDED):
            # Nothing else remembers it: a restart does not bring the licenses back.
            self._core.fault(al.LEASE_ENDED)

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """See what is wrong now; write what has changed. A full disk is tried again next time."""
        core, now = self._core, self._core.now()
        self._watch_use()
        found = ((a.code, a.text) for a in active_alarms(core, now))
        self._log, told = self._log.observe(found, core.time(now))
        if not told and not self._unsaved:
            return
        try:
            await asyncio.to_thread(write_durably, self._file, msgspec.json.encode(self._log))
            self._unsaved = False
        except OSError as error:
            if not self._unsaved:
                core.note("alarms_not_saved", text=str(error))
            self._unsaved = True
        self._written = self._log
        if told:
            self.on_event()

    def _watch_use(self) -> None:
        core = self._core
        step = core.step(core.now())
        used = in_use(core.gate.usage())
        for kind, code in _WATCHED.items():
            cap = None if step is None or not step.admit else step.caps.get(kind)
            if cap is not None and nearly_used(used.get(kind), cap, was=self._log.holds(code)):
                core.fault(code, f"{used.get(kind)} of {cap} are in use.")
            else:
                core.clear(code)

    @property
    def log(self) -> AlarmLog:
        """The log as it was last written: no number is told that a crash could give again."""
        return self._written

    def report(self, *, after: int | None = None) -> AlarmReport:
        """Return what is active, and with `after` the history beyond that number."""
        now = self._core.now()
        log = self._log
        return AlarmReport(
            started=self._started,
            uptime=now.boottime - self._began,
            sequence=log.sequence,
            active=log.active,
            restart_asked=self._core.restart_asked,
            restart_done=self._core.restart_done,
            history=() if after is None else tuple(e for e in log.history if e.sequence > after),
        )
