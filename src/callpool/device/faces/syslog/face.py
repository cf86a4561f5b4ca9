"""The loop: reads alarms and notices by their place, hands each target what it has not had.

What a target has had is on disk, so what happened while the faces or the target were away is
told later, from the alarms' history and from `sml.log`, and nothing is told twice. A target takes
no more than ROOM at a time: what waits beyond that waits where it is kept anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from callpool.device.alarm_book import AlarmReport
from callpool.device.control import ask
from callpool.device.faces.reader import PATIENCE
from callpool.device.faces.syslog import smart_tail
from callpool.device.faces.syslog.smart_tail import LogLine, Position
from callpool.device.faces.syslog.words import alarm_message, notice_message
from callpool.device.settings import Layout
from callpool.device.syslog_settings import SyslogSettings, key, read_settings
from callpool.host.files import write_durably
from callpool.host.syslog.sender import SyslogSender
from callpool.licensing.errors import CallpoolError

#: Seconds between two looks.
EVERY: Final = 0.5
#: Seconds before settings that cannot be used are read again.
AGAIN: Final = 10.0
#: Messages that a target is handed before it has taken some.
ROOM: Final = 200
#: `sml.log` has whole seconds, rounded.
_ROUNDED: Final = 1.0


class Had(msgspec.Struct, frozen=True, kw_only=True):
    """What a target has had; written before it is told anything."""

    #: It is told nothing older, trusted time; an alarm that was active then, it is.
    since: float
    #: The last alarm event.
    alarm: int
    #: The place behind the last notice.
    notice: Position | None = None


def begin(report: AlarmReport) -> Had:
    """Return where a new target begins: with this run of the core, and what is active from before.

    `report` holds the whole history.
    """
    first = [e.sequence for e in report.active]
    first += [e.sequence for e in report.history if e.at >= report.started]
    return Had(since=report.started - _ROUNDED, alarm=min(first, default=report.sequence + 1) - 1)


Notices = Callable[[Position | None], tuple[LogLine, ...]]


class Teller:
    """One target: what it has had, what it was handed."""

    def __init__(self, sender: SyslogSender, had: Had | None, keep: Callable[[], None]) -> None:
        """Go on from what the target `had`; `keep` is called when that has changed."""
        self.sender, self.had, self._keep = sender, had, keep
        self._handed = had
        #: Alarm events that the history no longer held when the target could have them.
        self.missed = 0

    @property
    def after(self) -> int:
        """The alarm event behind which the target needs the history."""
        return 0 if self._handed is None else self._handed.alarm

    def begun_anew(self) -> None:
        """Take it that the core's alarm log was lost and begins at 1 again."""
        if self.had is not None:
            self.had = self._handed = msgspec.structs.replace(self.had, alarm=0)

    def hand(self, report: AlarmReport, notices: Notices, *, serial: str, hostname: str) -> None:
        """Hand over what is new; `report` holds at least the history behind `after`."""
        if self._handed is None:
            self.had = self._handed = begin(report)
            self._keep()
        if self.sender.waiting >= ROOM:
            return
        handed = self._handed
        events = [e for e in report.history if e.sequence > handed.alarm]
        if events:
            self.missed += events[0].sequence - handed.alarm - 1
        for event in events:
            self.sender.put(
                alarm_message(event, serial=serial, hostname=hostname),
                partial(self._took, alarm=event.sequence),
            )
        lines = notices(handed.notice)
        for line in lines:
            if line.at >= handed.since:
                self.sender.put(
                    notice_message(line, serial=serial, hostname=hostname),
                    partial(self._took, notice=line.behind),
                )
        self._handed = msgspec.structs.replace(
            handed,
            alarm=report.sequence,
            notice=lines[-1].behind if lines else handed.notice,
        )

    def _took(self, **changes: Any) -> None:
        assert self.had is not None
        self.had = msgspec.structs.replace(self.had, **changes)
        self._keep()


class SyslogFace:
    """Syslog of one device."""

    def __init__(self, layout: Layout, settings: SyslogSettings) -> None:
        """Tell the targets of `settings` once `run`."""
        self._layout = layout
        self._serial = layout.load().serial
        self._hostname = settings.hostname or socket.gethostname()
        had = self._load()
        self.tellers = {
            key(target): Teller(SyslogSender(target), had.get(key(target)), self._keep)
            for target in settings.targets
        }
        self._missed = 0
        self._log: Any = structlog.get_logger("callpool.device.syslog")

    def _load(self) -> dict[str, Had]:
        try:
            raw = self._layout.syslog_state.read_bytes()
            return msgspec.json.decode(raw, type=dict[str, Had])
        except (OSError, msgspec.DecodeError):
            return {}

    def _keep(self) -> None:
        had = {name: teller.had for name, teller in self.tellers.items() if teller.had}
        with contextlib.suppress(OSError):  # the disk is full: the core has that alarm
            write_durably(self._layout.syslog_state, msgspec.json.encode(had))

    async def run(self) -> None:
        """Tell until cancelled."""
        senders = [asyncio.create_task(t.sender.run()) for t in self.tellers.values()]
        try:
            while True:
                with contextlib.suppress(CallpoolError):  # the core is away: it will be back
                    await self._look()
                for task in senders:
                    if task.done():
                        task.result()  # a defect is not hidden: the faces end and say it
                await asyncio.sleep(EVERY)
        finally:
            for task in senders:
                task.cancel()
            await asyncio.gather(*senders, return_exceptions=True)

    async def _look(self) -> None:
        report = await self._report()
        anew = [t for t in self.tellers.values() if t.after > report.sequence]
        if anew:
            for teller in anew:
                teller.begun_anew()
            report = await self._report()
        for teller in self.tellers.values():
            teller.hand(report, self._notices, serial=self._serial, hostname=self._hostname)
        missed = sum(teller.missed for teller in self.tellers.values())
        if missed != self._missed:
            self._missed = missed
            self._log.warning("syslog_missed", missed=missed)

    async def _report(self) -> AlarmReport:
        after = min(teller.after for teller in self.tellers.values())
        told = await asyncio.to_thread(
            ask, self._layout.control, "alarms", after=after, timeout=PATIENCE
        )
        return msgspec.convert(told, AlarmReport)

    def _notices(self, behind: Position | None) -> tuple[LogLine, ...]:
        try:
            return smart_tail.read(self._layout.smart_log, behind)
        except OSError:  # turned over in this very moment
            return ()


async def serve_syslog(layout: Layout, senders: dict[str, SyslogSender]) -> None:
    """Tell by syslog until cancelled; settings that cannot be used are said in the log.

    `senders` is filled with the targets' queues.
    """
    log: Any = structlog.get_logger("callpool.device.syslog")
    while True:
        try:
            face = SyslogFace(layout, read_settings(layout.syslog))
            senders.update((name, teller.sender) for name, teller in face.tellers.items())
            await face.run()
        except CallpoolError as error:
            log.error("syslog_failed", code=error.code, text=error.sentence)
        await asyncio.sleep(AGAIN)
