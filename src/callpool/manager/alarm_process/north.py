"""Forwards alarms to SNMP and syslog targets, each in its own time and in order.

How far a target was told is kept in the database, event by event: written before a trap leaves,
after an inform is acknowledged, and after a syslog message was taken by the receiver's machine.
So a manager that is killed tells what it had not told, and nothing twice but an inform or a
syslog message whose acknowledgement it had not noted. A target that is down waits in the history.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec

from callpool.host.snmp.notify import forwarded
from callpool.host.snmp.station import Station
from callpool.host.syslog.message import LEVELS, SD_ID, SyslogMessage
from callpool.host.syslog.sender import SyslogSender
from callpool.licensing.alarm_feed import Heard
from callpool.licensing.alarm_table import CAUSES, EventType, Severity
from callpool.licensing.alarm_words import LAST_UNIQUE, name_of
from callpool.licensing.errors import CallpoolError
from callpool.manager.core import Manager
from callpool.manager.snmp_settings import Filtered, ForwardSyslog, SnmpTarget
from callpool.manager.store.tx import Row, Tx

#: Transitions that are forwarded.
_TOLD: Final = frozenset({"raised", "changed", "cleared", "event", "unexpected"})
#: Events that are read at once.
_BATCH: Final = 100
#: Seconds between two looks for new events, and between two events to one target at least.
_LOOK: Final = 0.2
PACE: Final = 0.01
#: Shortest and longest wait in seconds before a target that failed is tried again.
RETRY: Final = (1.0, 60.0)
#: Seconds for which a syslog message is waited for before the target counts as failing.
SYSLOG_PATIENCE: Final = 10.0

APP: Final = "callpool-manager"


class Forwarded(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it is forwarded."""

    number: int
    transition: str
    heard: Heard
    worst: int
    expected: bool
    serial: str
    #: The device's name, its tenant and a description.
    device: str
    tenant: str
    description: str


def events_after(tx: Tx, told: int) -> list[Row]:
    """Return events of history beyond `told`, in order."""
    return tx.rows(
        "SELECT e.*, d.name AS device, t.name AS tenant, u.report FROM alarm_event e"
        " LEFT JOIN device d ON d.device_id = e.device_id"
        " LEFT JOIN tenant t ON t.tenant_id = e.tenant_id LEFT JOIN unit u ON u.serial = e.serial"
        " WHERE e.event_id > :told ORDER BY e.event_id LIMIT :most",
        told=told,
        most=_BATCH,
    )


def forwarded_from(row: Row, *, own: str, descriptions: dict[str, str]) -> Forwarded:
    """Return a row of history as it is forwarded; `own` names the manager itself."""
    serial = row["serial"]
    report = msgspec.json.decode(row["report"]) if row["report"] else {}
    return Forwarded(
        number=row["event_id"],
        transition=row["transition"],
        heard=Heard(
            oid=row["oid"],
            about=row["about"],
            severity=Severity(row["severity"]),
            short=row["short"],
            text=row["text"],
            event_type=EventType(row["event_type"]),
            cause=row["cause"],
            info=msgspec.json.decode(row["info"], type=tuple[str, str, str]),
            codes=msgspec.json.decode(row["codes"], type=tuple[str, ...]),
            at=row["told_at"],
        ),
        worst=row["worst"],
        expected=bool(row["expected"]),
        serial=serial or own,
        device=row["device"] or "callpool manager",
        tenant=row["tenant"] or "",
        description=descriptions.get(serial) or str(report.get("software", "")),
    )


class Way(Protocol):
    """How one target is told."""

    #: Whether the position is written before the event leaves: nobody will acknowledge it.
    first: bool

    async def tell(self, event: Forwarded) -> str:
        """Tell an event; return why it failed, empty where it is done with."""
        ...


class SnmpWay:
    """By trap or inform."""

    def __init__(self, station: Station, number: int, target: SnmpTarget) -> None:
        """Send through target `number` of `station`."""
        self._station, self._number, self._target = station, number, target
        self._began = time.monotonic()
        self.first = target.kind == "trap"

    async def tell(self, event: Forwarded) -> str:
        """Tell an event."""
        tenant = f"tenant {event.tenant}" if event.tenant else ""
        binds = forwarded(
            event.heard,
            uptime=int((time.monotonic() - self._began) * 100) % 2**32,
            unique=event.number,
            serial=event.serial,
            device=(event.device, tenant, event.description),
        )
        if await self._station.send(self._number, self._target.kind, binds):
            return ""
        return f"SNMP target {self._target.address} does not acknowledge."


class SyslogWay:
    """By syslog."""

    #: Over UDP nobody acknowledges either, but an error may come back.
    first = False

    def __init__(self, sender: SyslogSender) -> None:
        """Send through `sender`, which somebody runs."""
        self._sender = sender
        self._under_way: tuple[int, asyncio.Event] | None = None

    async def tell(self, event: Forwarded) -> str:
        """Tell an event; one that did not leave in time stays on its way, and is waited for."""
        if self._under_way is None or self._under_way[0] != event.number:
            done = asyncio.Event()
            self._under_way = (event.number, done)
            self._sender.put(syslog_message(event), done.set)
        try:
            async with asyncio.timeout(SYSLOG_PATIENCE):
                await self._under_way[1].wait()
        except TimeoutError:
            address = self._sender.target.address
            return self._sender.failure or f"Syslog target {address} does not answer."
        return ""


def syslog_message(event: Forwarded) -> SyslogMessage:
    """Return an event as a message, in the form that devices use themselves."""
    heard = event.heard
    name, severity = name_of(heard.oid), heard.severity.name.lower()
    what = "CLEAR-ALARM" if heard.severity is Severity.CLEARED else "RAISE-ALARM"
    unique = event.number % (LAST_UNIQUE + 1)
    told = [
        f"{what}: {name}",
        f"Textual Description: {heard.short}",
        f"Severity {severity}",
        f"Source {heard.about}",
        f"Unique ID: {unique}",
        *(f"Additional Info{number}: {text}" for number, text in enumerate(heard.info, 1) if text),
    ]
    return SyslogMessage(
        at=heard.at,
        severity=LEVELS[heard.severity],
        hostname=event.device,
        app=APP,
        msgid=what,
        data={
            "alarm": {
                "resource": f"{event.serial}/{heard.about}",
                "probableCause": CAUSES.get(heard.cause, "other"),
                "perceivedSeverity": severity,
                "eventType": heard.event_type.label,
            },
            SD_ID: {
                "serial": event.serial,
                "device": event.device,
                "description": event.description,
                "tenant": event.tenant,
                "name": name,
                "oid": heard.oid,
                "code": heard.code,
                "codes": ",".join(heard.codes),
                "transition": event.transition,
                "event": str(event.number),
            },
        },
        text="; ".join(told),
    )


class Forwarder:
    """One target: its position, its filter, its way."""

    def __init__(
        self,
        manager: Manager,
        *,
        name: str,
        filtered: Filtered,
        way: Way,
        descriptions: dict[str, str],
        retry: tuple[float, float] = RETRY,
    ) -> None:
        """Tell the target `name` by `way` what passes its filter, once `run`."""
        self._manager, self._way = manager, way
        #: What its position is kept under.
        self.name = name
        self._filter, self._retry = filtered, retry
        self._descriptions = descriptions
        self._failing = False

    async def run(self) -> None:
        """Tell what is new until cancelled."""
        told = await self._read(self._begin)
        own = self._manager.product_key()
        while True:
            position = told
            rows = await self._read(lambda tx: events_after(tx, position))  # noqa: B023  run at once
            if not rows:
                await asyncio.sleep(_LOOK)
                continue
            for row in rows:
                event = forwarded_from(row, own=own, descriptions=self._descriptions)
                if self._wants(event):
                    await self._tell(event)
                    await asyncio.sleep(PACE)
                told = event.number
            if not self._wants(event):
                await self._write(told=told)

    def _wants(self, event: Forwarded) -> bool:
        return (
            event.transition in _TOLD
            and not event.expected
            and self._filter.wants(event.worst, event.tenant)
        )

    async def _tell(self, event: Forwarded) -> None:
        if self._way.first:
            await self._write(told=event.number)
            await self._way.tell(event)
            return
        backoff, longest = self._retry
        while failure := await self._way.tell(event):
            await self._write(failure=failure)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, longest)
        await self._write(told=event.number)

    async def _read(self, query: Callable[[Tx], Any]) -> Any:
        return await _insisting(lambda: self._manager.database.read(query))

    def _begin(self, tx: Tx) -> int:
        """Return the position: where it was, or after all that has been."""
        row = tx.row("SELECT told FROM alarm_target WHERE name = :name", name=self.name)
        last = tx.value("SELECT coalesce(max(event_id), 0) FROM alarm_event")
        # Of a database that was restored from a backup the numbers begin anew behind it.
        return int(last) if row is None else min(int(row["told"]), int(last))

    async def _write(self, *, told: int | None = None, failure: str = "") -> None:
        """Keep the position, or why it stands still."""
        now = self._manager.clock.now().wall

        def work(tx: Tx) -> None:
            tx.run(
                "INSERT INTO alarm_target (name, told, failing_since, failure)"
                " VALUES (:name, coalesce(:told, (SELECT coalesce(max(event_id), 0) FROM"
                " alarm_event)), :since, :failure) ON CONFLICT (name) DO UPDATE SET"
                " told = coalesce(:told, alarm_target.told), failure = :failure, failing_since ="
                " CASE WHEN :failure = '' THEN NULL ELSE"
                " coalesce(alarm_target.failing_since, :since) END",
                name=self.name,
                told=told,
                since=now if failure else None,
                failure=failure,
            )

        await _insisting(lambda: self._manager.database.write(work))

    async def started(self) -> None:
        """Keep the position of a target that is new."""
        told = await self._read(self._begin)
        await self._write(told=told)


async def _insisting(work: Callable[[], Any]) -> Any:
    """Do work on the database until it can be done."""
    while True:
        try:
            return await asyncio.to_thread(work)
        except CallpoolError:
            await asyncio.sleep(1.0)


def targets_of(
    manager: Manager,
    station: Station | None,
    snmp: tuple[SnmpTarget, ...],
    syslog: tuple[ForwardSyslog, ...],
    descriptions: dict[str, str],
) -> tuple[list[Forwarder], list[Awaitable[None]]]:
    """Return a forwarder for each target, and what is to run beside them."""
    made: list[Forwarder] = []
    beside: list[Awaitable[None]] = []
    for number, target in enumerate(snmp):
        assert station is not None  # the targets are its own
        way = SnmpWay(station, number, target)
        made.append(
            Forwarder(
                manager, name=target.name, filtered=target.filter, way=way,
                descriptions=descriptions,
            )
        )  # fmt: skip
    for receiver in syslog:
        sender = SyslogSender(receiver)
        beside.append(sender.run())
        made.append(
            Forwarder(
                manager, name=receiver.name, filtered=receiver.filter, way=SyslogWay(sender),
                descriptions=descriptions,
            )
        )  # fmt: skip
    return made, beside
