"""Notifications: the vendor's 16 varbinds, and one queue for each receiver.

A receiver that is down delays nobody else: its own informs wait in its own bounded queue, in
order, and are tried until it answers. What falls out of the queue is still in the history.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pysnmp.proto.rfc1902 import Integer32, ObjectIdentifier, TimeTicks

from callpool.host.snmp.values import VENDOR, Oid, Value, date_and_time, text
from callpool.licensing.alarm_feed import Heard
from callpool.licensing.alarm_table import VENDOR_TRAPS, EventType, Severity
from callpool.licensing.alarm_words import LAST_UNIQUE, SOURCE, described, unique_number
from callpool.licensing.alarms import HISTORY, Event

SYS_UPTIME: Final[Oid] = (1, 3, 6, 1, 2, 1, 1, 3, 0)
TRAP_OID: Final[Oid] = (1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0)
COLD_START: Final = "1.3.6.1.6.3.1.1.5.1"
WARM_START: Final = "1.3.6.1.6.3.1.1.5.2"
#: acBoardEvBoardStarted: sent after coldStart, and after a restart that was asked for.
STARTED: Final = f"{VENDOR_TRAPS}.4"
#: acBoardEvResettingBoard: a restart has been asked for.
RESETTING: Final = f"{VENDOR_TRAPS}.5"
#: acBoardTrapGlobals.
GLOBALS: Final[Oid] = (*VENDOR, 9, 10, 1, 21, 1)

#: Shortest and longest wait in seconds before an inform that was not answered is sent again;
#: the library itself repeats it before that.
RETRY: Final = (1.0, 60.0)

#: Notifications that wait for one receiver at most: a whole history, and what a start adds.
QUEUE: Final = HISTORY + 4

VarBinds = list[tuple[Oid, Value]]


def name_number(oid: str) -> int:
    """Return the vendor's number of an alarm: the OID's last arc less one."""
    return int(oid.rpartition(".")[2]) - 1


def standard(oid: str, uptime: int) -> VarBinds:
    """Return a notification that carries nothing but itself; `uptime` in hundredths."""
    return [(SYS_UPTIME, TimeTicks(uptime)), (TRAP_OID, ObjectIdentifier(oid))]


def varbinds(event: Event, *, serial: str, uptime: int) -> VarBinds:
    """Return an alarm's notification with the vendor's 16 varbinds."""
    short, kind, cause, info = described(event)
    return _with_globals(
        event.oid,
        uptime=uptime,
        at=event.at,
        short=short,
        severity=event.severity,
        unique=unique_number(event),
        kind=kind,
        cause=cause,
        info=info,
        serial=serial,
    )


def started(at: float, *, serial: str, uptime: int) -> VarBinds:
    """Return the event that the device, or its SIP service, is up: at trusted time `at`."""
    return _event(STARTED, "Initialization Ended", Severity.CLEARED, at, serial, uptime)


def resetting(at: float, *, serial: str, uptime: int) -> VarBinds:
    """Return the event that a restart of the SIP service was asked for at trusted time `at`.

    It stands for nothing that would be cleared: its severity is indeterminate, as the vendor's
    events have it.
    """
    text_ = "A restart of the SIP service was asked for; calls in progress go on."
    return _event(RESETTING, text_, Severity.INDETERMINATE, at, serial, uptime)


def _event(
    oid: str, short: str, severity: Severity, at: float, serial: str, uptime: int
) -> VarBinds:
    return _with_globals(
        oid,
        uptime=uptime,
        at=at,
        short=short,
        severity=severity,
        unique=0,
        kind=EventType.OTHER,
        cause=0,
        info=("", "", ""),
        serial=serial,
    )


def forwarded(
    heard: Heard, *, uptime: int, unique: int, serial: str, device: tuple[str, str, str]
) -> VarBinds:
    """Return an alarm of a device as the manager forwards it.

    `unique` is the manager's own count, `device` its name, info and description.
    """
    return _with_globals(
        heard.oid,
        uptime=uptime,
        at=heard.at,
        short=heard.short,
        severity=heard.severity,
        unique=unique % (LAST_UNIQUE + 1),
        kind=heard.event_type,
        cause=heard.cause,
        info=heard.info,
        serial=serial,
        source=heard.about,
        device=device,
    )


def _with_globals(
    oid: str, *, uptime: int, at: float, short: str, severity: Severity, unique: int,
    kind: EventType, cause: int, info: tuple[str, str, str], serial: str,
    source: str = SOURCE, device: tuple[str, str, str] = ("", "", ""),
) -> VarBinds:  # fmt: skip
    values = (
        Integer32(name_number(oid)),
        text(short, 200),
        text(source, 100),
        Integer32(int(severity)),
        Integer32(unique),
        Integer32(int(kind)),
        Integer32(cause),
        *(text(i, 100) for i in info),
        date_and_time(at),
        Integer32(int(severity)),
        # DeviceName, DeviceInfo, DeviceDescription: a device sends them empty, the manager
        # fills them in.
        *(text(d, 100) for d in device),
        text(serial),
    )
    return [
        *standard(oid, uptime),
        *(((*GLOBALS, n, 0), value) for n, value in enumerate(values, 1)),
    ]


class Receiver:
    """One receiver and what waits for it."""

    def __init__(self, send: Callable[[VarBinds, Callable[[bool], None]], None]) -> None:
        """Send by `send`, which reports whether the notification is done with."""
        self._send = send
        self._waiting: deque[VarBinds] = deque(maxlen=QUEUE)
        self._more = asyncio.Event()

    def put(self, notification: VarBinds) -> None:
        """Queue a notification; the oldest is dropped when the queue is full."""
        self._waiting.append(notification)
        self._more.set()

    def drop(self, unwanted: Callable[[str], bool]) -> None:
        """Drop what waits and is `unwanted`, by the notification's OID."""
        kept = [n for n in self._waiting if not unwanted(str(n[1][1]))]
        self._waiting.clear()
        self._waiting.extend(kept)

    @property
    def waiting(self) -> int:
        """How many notifications wait."""
        return len(self._waiting)

    async def run(self) -> None:
        """Send what is queued, in order, until cancelled."""
        shortest, longest = RETRY
        backoff = shortest
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            first = self._waiting[0]
            if await self._sent(first):
                if self._waiting and self._waiting[0] is first:
                    self._waiting.popleft()
                backoff = shortest
            else:
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, longest)

    async def _sent(self, notification: VarBinds) -> bool:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(good: bool) -> None:
            if not done.done():
                done.set_result(good)

        self._send(notification, answered)
        return bool(await done)
