"""The manager's own alarms: read from the state at each look, never raised or cleared by hand.

A unit that is silent or locked, an order that ends, a request that waits, the restored state,
certificates, disks, targets that are down, the authority's alerts. The same core as a device's
(`licensing/alarms.py`) makes alarms of them, one log for each thing that they are about.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

import msgspec
from cryptography import x509

from callpool.licensing import manager_alarm_table as table
from callpool.licensing.alarm_feed import NO_NUMBER
from callpool.licensing.alarm_table import Severity
from callpool.licensing.alarms import AlarmLog, Event
from callpool.licensing.errors import CallpoolError
from callpool.licensing.hitless import State
from callpool.licensing.manager_alarm_table import MANAGER_DEFINITIONS
from callpool.manager import restored
from callpool.manager.alarm_report import heard_from
from callpool.manager.alarms import MANAGER, clear, end_expected, expected_is_over, take
from callpool.manager.change import CLOCK, Change
from callpool.manager.core import Manager
from callpool.manager.hitless_store import open_runs
from callpool.manager.settings import Layout, Settings
from callpool.manager.standing import is_reset
from callpool.manager.store.tx import Row, Tx

_DAY: Final = 86_400.0
#: An order's end is warned of this long before, in seconds, and graver this long before.
ORDER_WARNING: Final = (30 * _DAY, 7 * _DAY)
#: An order that has ended is alarmed for this long.
ORDER_ENDED: Final = 30 * _DAY
#: A request has waited too long after this.
REQUEST_WAITS: Final = 3_600.0
#: A lease that ends within this share of its length, at most a day, is graver than silence.
LEASE_SHARE: Final = 1 / 7
#: A target fails for this long before it is alarmed.
TARGET_FAILS: Final = 30.0
#: Seconds before the end of a TLS certificate, and of the authority that signed it.
CERTIFICATE_WARNING: Final = (14 * _DAY, 90 * _DAY)
#: A disk with less free than this, in bytes, and than this share, is nearly full.
DISK_LEAST: Final = (256 * 1024 * 1024, 0.02)
#: What the manager's own alarms name as their source where they are about a unit.
ABOUT_UNIT: Final = "manager"
#: The receiver's row among the targets.
RECEIVER: Final = "receiver"
#: Real seconds between two looks at files and disks.
MACHINE_EVERY: Final = 60.0
#: Alarms that one transaction raises or clears at most.
AT_ONCE: Final = 50

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """One thing that is wrong."""

    #: The unit's serial number, empty for the manager itself.
    serial: str
    about: str
    code: str
    text: str


def condition(code: str, detail: str = "", *, serial: str = "", about: str = "") -> Condition:
    """Return the condition `code`, its sentence filled with `detail`."""
    text = MANAGER_DEFINITIONS[code].text.format(detail)
    return Condition(serial, about or ABOUT_UNIT, code, text)


def moment(at: float) -> str:
    """Return a time (seconds since 1970) for people, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# -- what is wrong


def silent_after(settings: Settings) -> float:
    """Return the seconds without a contact after which a device has missed its poll."""
    usual = min(settings.poll_seconds, settings.usage_seconds or settings.poll_seconds)
    return usual + 2 * settings.retry_seconds


def conditions(tx: Tx, now: float, settings: Settings, began: float) -> Iterator[Condition]:
    """Return what the database says is wrong at `now`; the manager has run since `began`.

    A manager that was down itself lets its devices call first: until they could have, no device
    becomes silent by it.
    """
    yield from _units(tx, now, settings, new=began <= now - silent_after(settings))
    yield from _orders(tx, now)
    for r in tx.rows(
        "SELECT r.asked_at, u.serial FROM request r JOIN unit u ON u.device_id = r.device_id"
        " WHERE r.asked_at <= :since AND u.state = 'active' AND u.role = (SELECT min(v.role)"
        " FROM unit v WHERE v.device_id = r.device_id AND v.state = 'active')",
        since=now - REQUEST_WAITS,
    ):
        yield condition(table.REQUEST_WAITS, moment(r["asked_at"]), serial=r["serial"])
    for run in open_runs(tx):
        kept = run.kept.run
        if kept.state is State.STOPPED and kept.wait is not None:
            yield condition(table.HITLESS_STOPPED, f"{kept.wait.sentence}.", serial=kept.first)
    if restored.restored(tx) is not None:
        yield condition(table.RESTORED)
    for r in tx.rows(
        "SELECT name, failure FROM alarm_target WHERE failing_since <= :since",
        since=now - TARGET_FAILS,
    ):
        code = table.RECEIVER_DOWN if r["name"] == RECEIVER else table.TARGET_DOWN
        yield condition(code, r["failure"], about=r["name"])
    for r in tx.rows("SELECT kind, about, severity, message FROM smart_alert"
                     " WHERE cleared_at IS NULL"):  # fmt: skip
        major = r["severity"] == "major"
        code = table.AUTHORITY_MAJOR if major else table.AUTHORITY_MINOR
        yield condition(code, r["message"], about=f"{r['kind']} {r['about']}")


def _units(tx: Tx, now: float, settings: Settings, *, new: bool) -> Iterator[Condition]:
    """Return what is wrong with units; without `new` those are silent that were before."""
    listed = (
        "SELECT u.serial, u.last_contact, u.leased, u.lease_end, u.report FROM unit u"
        " JOIN device d ON d.device_id = u.device_id"
        " WHERE u.state = 'active' AND d.removed_at IS NULL"
    )
    for unit in tx.rows(f"{listed} AND u.locked IS NOT NULL"):
        yield condition(table.UNIT_LOCKED, serial=unit["serial"])
    within = min(_DAY, settings.lease_seconds * LEASE_SHARE)
    for unit in tx.rows(
        f"{listed} AND u.kid IS NOT NULL AND u.last_contact < :since"  # noqa: S608  our own words
        " AND d.device_id IN (SELECT device_id FROM device_heard WHERE last_contact < :since)"
        " AND (:new OR EXISTS (SELECT 1 FROM alarm a WHERE a.serial = u.serial AND a.oid = :oid))",
        since=now - silent_after(settings),
        new=new,
        oid=MANAGER_DEFINITIONS[table.DEVICE_SILENT].oid,
    ):
        if is_reset(unit):
            continue
        last, serial = unit["last_contact"], unit["serial"]
        yield condition(table.DEVICE_SILENT, moment(last), serial=serial)
        if unit["leased"] and unit["lease_end"] <= now + within:
            yield condition(table.LEASE_ENDS, moment(unit["lease_end"]), serial=serial)


def _orders(tx: Tx, now: float) -> Iterator[Condition]:
    early, soon = ORDER_WARNING
    for r in tx.rows(
        "SELECT order_id, ends FROM purchase_order WHERE ends > :over AND ends <= :within",
        over=now - ORDER_ENDED,
        within=now + early,
    ):
        left = r["ends"] - now
        code = (
            table.ORDER_ENDED
            if left <= 0.0
            else table.ORDER_ENDS_SOON
            if left <= soon
            else table.ORDER_ENDS
        )
        yield condition(code, moment(r["ends"]), about=f"order {r['order_id']}")


def machine_conditions(layout: Layout, settings: Settings, now: float) -> list[Condition]:
    """Return what is wrong with certificates (`now` in real time), disks and the grant journal."""
    found = []
    for file, warning in zip((layout.certificate, layout.ca), CERTIFICATE_WARNING, strict=True):
        try:
            end = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
        except (OSError, ValueError):
            continue  # without it the manager does not run
        left = end.timestamp() - now
        if left < warning:
            code = table.CERTIFICATE_ENDED if left <= 0.0 else table.CERTIFICATE_ENDS
            found.append(condition(code, moment(end.timestamp()), about=f"certificate {file.name}"))
    journal = layout.grant_journal(settings)
    for name, directory in (("database", layout.directory), ("grant journal", journal.parent)):
        if not directory.is_dir():
            continue
        disk = os.statvfs(directory)
        free = disk.f_bavail * disk.f_frsize
        least, share = DISK_LEAST
        if free < least and disk.f_bavail < disk.f_blocks * share:
            text = f"{free // 2**20} MiB are free for the {name}."
            found.append(condition(table.DISK_LOW, text, about=f"disk of the {name}"))
    if journal.exists():
        try:
            os.close(os.open(journal, os.O_WRONLY | os.O_APPEND))
        except OSError as error:
            found.append(
                condition(table.JOURNAL_UNUSABLE, f"{error.strerror}.", about="grant journal")
            )
    return found


# -- what becomes of it

Subject = tuple[str, str]


def _held(tx: Tx) -> dict[Subject, tuple[Event, ...]]:
    held: dict[Subject, tuple[Event, ...]] = {}
    for row in tx.rows("SELECT * FROM alarm WHERE source = :source", source=MANAGER):
        subject = row["serial"], row["about"]
        held[subject] = (*held.get(subject, ()), _event(row))
    return held


def _event(row: Row) -> Event:
    return Event(
        sequence=0,
        at=row["told_at"],
        oid=row["oid"],
        severity=Severity(row["severity"]),
        codes=msgspec.json.decode(row["codes"], type=tuple[str, ...]),
        text=row["text"],
    )


def transitions(tx: Tx, found: list[Condition], now: float) -> list[tuple[Subject, Event]]:
    """Return what is to be told, in order of what it is about."""
    held = _held(tx)
    behind: dict[Subject, list[tuple[str, str]]] = {subject: [] for subject in held}
    for c in found:
        behind.setdefault((c.serial, c.about), []).append((c.code, c.text))
    told = []
    for subject, pairs in sorted(behind.items()):
        log = AlarmLog(active=held.get(subject, ()))
        told += [(subject, e) for e in log.observe(pairs, now, MANAGER_DEFINITIONS)[1]]
    return told


def _left(tx: Tx) -> list[Row]:
    """Return what is active of units that have left the inventory: nobody will clear it."""
    return tx.rows(
        "SELECT a.* FROM alarm a WHERE a.source <> :own AND NOT EXISTS (SELECT 1 FROM unit u"
        " JOIN device d ON d.device_id = u.device_id WHERE u.serial = a.serial"
        " AND u.state = 'active' AND d.removed_at IS NULL)",
        own=MANAGER,
    )


class OwnAlarms:
    """Looks at one manager's state."""

    def __init__(self, manager: Manager) -> None:
        """Look at `manager`; nothing is read yet."""
        self._manager = manager
        self._began = manager.clock.now().wall
        self._machine: list[Condition] = []
        self._machine_at = -MACHINE_EVERY
        # Of several managers one looks; another within a second of its end.
        self._claim = manager.database.claim("own alarms")

    def look(self, real: float) -> bool:
        """Raise and clear what the state says; returns whether anything has changed.

        `real` is a reading of a clock that only rises, in seconds.
        """
        manager = self._manager
        if not self._claim.held():
            return False
        if real - self._machine_at >= MACHINE_EVERY:
            wall = datetime.now(UTC).timestamp()
            self._machine = machine_conditions(manager.layout, manager.settings, wall)
            self._machine_at = real
        now = manager.clock.now().wall
        machine = list(self._machine)
        if manager.journal_trouble:
            text = manager.journal_trouble
            machine.append(condition(table.JOURNAL_UNUSABLE, text, about="grant journal"))

        def read(tx: Tx) -> tuple[list[tuple[Subject, Event]], list[Row], bool]:
            found = [*conditions(tx, now, manager.settings, self._began), *machine]
            return transitions(tx, found, now), _left(tx), expected_is_over(tx, now)

        told, left, over = manager.database.read(read)
        if over:
            self._change(end_expected)
        # In pieces: where many devices fall silent at once, contacts come in between.
        for rows in _pieces(left):
            self._change(partial(_clear_all, rows=rows))
        for events in _pieces(told):
            self._change(partial(_take_all, events=events))
        return bool(told or left or over)

    def close(self) -> None:
        """Let another manager look."""
        self._claim.close()

    def _change(self, work: Callable[[Change], None]) -> None:
        try:
            self._manager.change(CLOCK, "", work)
        except CallpoolError as error:
            if error.code != "grant_journal_unusable":
                raise  # else the change stands, and this is what it is about


def _pieces(items: list[T]) -> Iterator[list[T]]:
    for at in range(0, len(items), AT_ONCE):
        yield items[at : at + AT_ONCE]


def _clear_all(change: Change, rows: list[Row]) -> None:
    for row in rows:
        clear(change, row, MANAGER, at=change.now)


def _take_all(change: Change, events: list[tuple[Subject, Event]]) -> None:
    for (serial, about), event in events:
        heard = msgspec.structs.replace(heard_from(event), about=about, unique=NO_NUMBER)
        take(change, serial, heard, MANAGER)
