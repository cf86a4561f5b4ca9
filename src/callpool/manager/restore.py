"""How a manager notices that it was restored from a backup, and what it learns before it gives.

A grant that left and is not in the database could be given a second time (law 1). It is
noticed
- at the start: the grant journal is ahead of the database. The journal knows what each unit may
  hold; that is taken over, leases are counted from now, and devices go on as they are;
- at a contact: a contact value of this manager's own that is newer than the database, or in the
  first one after an enrolment a grant version that it never gave. Then the journal is as old as
  the database, nothing is known, and no lease is renewed until all have ended.
Until every unit that may hold something has reported (journal) or a lease length has passed,
no order line counts as having anything free. An operator may end the state, by name and reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from callpool.licensing.errors import LicenseError, TrustError
from callpool.licensing.pool import LEASE_MARGIN, Holding
from callpool.manager.authority_values import next_value, number_of
from callpool.manager.change import Change
from callpool.manager.grant_journal import Entry, GrantJournal, UnitState
from callpool.manager.ledger import device_by_id, needed, regrant, write_holdings
from callpool.manager.restored import ENDED, Restored, keep, restored, waiting_for
from callpool.manager.store.database import Database
from callpool.manager.store.tx import Alone, Row, Tx
from callpool.wire.keys import SigningKey
from callpool.wire.messages import ContactRequest

_NUMBER: Final = "grant_number"
#: Versions that a manager without knowledge leaves out: above all that it may have given.
_JUMP: Final = 1_000_000
#: Entries that a manager may be behind by without writing its whole journal anew.
SHARED: Final = 20_000
#: Units whose state is read at a time: a manager that is new to a large pool reads all.
_AT_ONCE: Final = 1_000


class Grants:
    """Keeps journal and database together through every change of one manager process."""

    def __init__(self, database: Database, journal: GrantJournal) -> None:
        """Use `journal` beside `database`; they are compared at the first change."""
        self._database, self._journal = database, journal
        self.compared = False

    def due(self, change: Change) -> bool:
        """Tell whether journal and database are to be compared, or the restored state is over."""
        state = restored(change.tx)
        over = state and state.passed(change.now, change.elapsed)
        return not self.compared or bool(over)

    def begin(self, change: Change) -> None:
        """Look for a restoration: at the first change of a process, and if the number falls.

        Raises CallpoolError `grant_journal_unusable`.
        """
        # A line is written after its change is committed, and no other change commits meanwhile:
        # a number below the journal's is of a database that was set back under this process.
        here = int(change.tx.meta(_NUMBER) or 0)
        if self.compared and self._journal.last <= here:
            return
        if change.tx.beside:
            raise Alone
        if not self.compared:
            self._journal.compact()
        last, latest, whole = self._journal.read()
        if last > here:
            change.tx.set_meta(_NUMBER, str(last))
            enter(change, "journal_ahead", latest if whole else None)

    def end(self, change: Change) -> tuple[int, Entry | None]:
        """Return the number of the last change and what is to be appended.

        Triggers have noted which units the transaction has touched (migration 0010).
        """
        tx = change.tx
        number = int(tx.meta(_NUMBER) or 0)
        serials = tx.touched("unit")
        if not serials:
            return number, None
        tx.forget_touched("unit")
        if tx.beside:
            raise Alone
        tx.set_meta(_NUMBER, str(number + 1))
        units = tx.rows(
            "SELECT * FROM unit WHERE serial IN TEXTS(:serials) ORDER BY serial",
            serials=msgspec.json.encode(serials).decode(),
        )
        entry = Entry(number=number + 1, at=change.now, units=_states(tx, units))
        if not tx.marks_are_rows:
            _share(tx, entry)
        return number + 1, entry

    def written(self, number: int, entry: Entry | None) -> None:
        """Bring the journal up to change `number`, before its answer leaves.

        Raises CallpoolError `grant_journal_unusable`.
        """
        self.compared = True
        self._journal.append(number, entry, self._missing)

    def follow(self) -> None:
        """Bring the journal up to what other managers changed.

        Raises CallpoolError `grant_journal_unusable`, `database_unusable`.
        """
        if self.compared and not self._database.is_sqlite:
            self.written(int(self._database.read(lambda tx: tx.meta(_NUMBER)) or 0), None)

    def _missing(self, last: int) -> list[Entry]:
        """Return the entries after number `last`, or one with everything."""

        def read(tx: Tx) -> list[Entry]:
            found = [
                msgspec.json.decode(r["entry"], type=Entry)
                for r in tx.rows(
                    "SELECT entry FROM grant_entry WHERE number > :last ORDER BY number", last=last
                )
            ]
            whole = last > 0 and [e.number for e in found] == list(
                range(last + 1, last + 1 + len(found))
            )
            return found if found and whole else [_everything(tx)]

        return self._database.read(read)


def _share(tx: Tx, entry: Entry) -> None:
    """Keep an entry for the journals of managers on other machines."""
    tx.later(
        "INSERT INTO grant_entry (number, entry) VALUES (:number, :entry)"
        " ON CONFLICT (number) DO UPDATE SET entry = excluded.entry",
        number=entry.number,
        entry=msgspec.json.encode(entry).decode(),
    )
    if entry.number % 100 == 0:
        tx.later("DELETE FROM grant_entry WHERE number <= :old", old=entry.number - SHARED)


def _everything(tx: Tx) -> Entry:
    states = _states(tx, tx.rows("SELECT * FROM unit ORDER BY serial"))
    return Entry(number=int(tx.meta(_NUMBER) or 0), at=0.0, units=states)


def _states(tx: Tx, units: Sequence[Row]) -> tuple[UnitState, ...]:
    """Return what is to be known of units, in their order."""
    return tuple(
        state
        for start in range(0, len(units), _AT_ONCE)
        for state in _some(tx, units[start : start + _AT_ONCE])
    )


def _some(tx: Tx, units: Sequence[Row]) -> Iterator[UnitState]:
    reports = [msgspec.json.decode(u["report"]) if u["report"] else {} for u in units]
    needs = [
        {
            "serial": unit["serial"],
            "lowest": unit["floor_version"],
            "remote": report.get("remote_version", 0),
            "applied": report.get("applied_version", 0),
        }
        for unit, report in zip(units, reports, strict=True)
    ]
    grants: dict[str, list[tuple[int, str]]] = {}
    for r in tx.rows(
        "SELECT g.serial, g.version, g.slices FROM ROWS(:rows; serial text, lowest integer,"
        " remote integer, applied integer) JOIN grant_journal g ON g.serial = r.serial AND"
        " (g.version >= r.lowest OR g.version = r.remote OR g.version = r.applied)"
        " ORDER BY g.serial, g.version",
        rows=msgspec.json.encode(needs).decode(),
    ):
        grants.setdefault(r["serial"], []).append((r["version"], r["slices"]))
    holdings: dict[str, list[tuple[str, str, float, int, int]]] = {}
    for r in tx.rows(
        "SELECT * FROM holding WHERE serial IN TEXTS(:serials)"
        " ORDER BY serial, type, order_id, since",
        serials=msgspec.json.encode([u["serial"] for u in units]).decode(),
    ):
        holdings.setdefault(r["serial"], []).append(
            (r["type"], r["order_id"], r["since"], r["granted"], r["held"])
        )
    for unit in units:
        yield UnitState(
            serial=unit["serial"],
            kid=unit["kid"],
            version=unit["grant_version"],
            content=unit["grant_content"],
            sent=unit["sent_version"],
            floor=unit["floor_version"],
            leased=bool(unit["leased"]),
            report=unit["report"],
            grants=tuple(grants.get(unit["serial"], ())),
            holdings=tuple(holdings.get(unit["serial"], ())),
        )


# -- the restored state


def enter(change: Change, reason: str, latest: Mapping[str, UnitState] | None) -> None:
    """Begin the restored state, with what the journal knows or with nothing."""
    tx = change.tx
    known = {r["serial"] for r in tx.rows("SELECT serial FROM unit")}
    agreed = latest is not None and _adopt(change, latest, known)
    unknown = [s.serial for s in (latest or {}).values() if s.serial not in known and s.leased]
    if not agreed:
        tx.run("UPDATE unit SET leased = TRUE, grant_version = grant_version + :jump", jump=_JUMP)
    tx.run(
        "UPDATE unit SET lease_end = max(coalesce(lease_end, 0), :end),"
        " lease_elapsed = max(coalesce(lease_elapsed, 0), :elapsed) WHERE leased",
        end=change.now + change.lease_seconds,
        elapsed=change.elapsed + change.lease_seconds,
    )
    state = Restored(
        since=change.now,
        elapsed=change.elapsed,
        until=change.now + change.lease_seconds + LEASE_MARGIN,
        reason=reason,
        agreed=agreed,
        unknown=tuple(sorted(unknown)),
    )
    keep(tx, state)
    # What each is to have stands in the backup; with nothing free, shares can only shrink.
    for device in tx.rows("SELECT * FROM device ORDER BY device_id"):
        regrant(change, device)
    for serial in known:
        change.hint(serial)
    change.journal("restored_from_backup", reason=reason, journal_agrees=agreed, unknown=unknown)


def _adopt(change: Change, latest: Mapping[str, UnitState], known: set[str]) -> bool:
    """Take over what the journal knows of the units in the database; False where it cannot be."""
    tx = change.tx
    lines = {
        (r["type"], r["order_id"]): (r["count"], r["ends"])
        for r in tx.rows(
            "SELECT l.type, l.order_id, l.count, o.ends FROM order_line l"
            " JOIN purchase_order o ON o.order_id = l.order_id"
        )
    }
    held: dict[str, list[tuple[str, str, float, int, int]]] = {
        # What is out of an order that this database does not know waits for its import.
        serial: [h for h in latest[serial].holdings if lines.get(h[:2], (0, 0.0))[1] > change.now]
        for serial in known & latest.keys()
    }
    total = dict.fromkeys(lines, 0)
    for rows in held.values():
        for row in rows:
            total[row[:2]] += row[4]
    for r in tx.rows("SELECT type, order_id, serial, held FROM holding"):
        if r["serial"] not in latest:
            total[r["type"], r["order_id"]] += r["held"]
    if any(total[key] > count for key, (count, _) in lines.items()):
        return False
    for serial in held:
        tx.run("DELETE FROM holding WHERE serial = :serial", serial=serial)
    for serial, rows in held.items():
        unit = latest[serial]
        tx.run(
            "UPDATE unit SET grant_version = :version, grant_content = :content,"
            " sent_version = :sent, floor_version = :floor, leased = :leased, report = :report"
            " WHERE serial = :serial",
            version=unit.version,
            content=unit.content,
            sent=unit.sent,
            floor=unit.floor,
            leased=unit.leased,
            report=unit.report,
            serial=serial,
        )
        # Enrolled or released since: the key that the backup knows may be a clone's.
        tx.run(
            "UPDATE unit SET locked = 'stale_contact' WHERE serial = :serial"
            " AND kid IS DISTINCT FROM :kid",
            serial=serial,
            kid=unit.kid,
        )
        for version, slices in unit.grants:
            tx.run(
                "INSERT INTO grant_journal (serial, version, slices, at)"
                " VALUES (:serial, :version, :slices, :now) ON CONFLICT (serial, version)"
                " DO UPDATE SET slices = excluded.slices",
                serial=serial,
                version=version,
                slices=slices,
                now=change.now,
            )
        _hold(change, serial, rows)
    return True


def _hold(change: Change, serial: str, rows: list[tuple[str, str, float, int, int]]) -> None:
    """Hold (type, order, since, granted, held) for a unit; its tenant's share covers it.

    A share that was raised after the backup is raised again: its units are in use.
    """
    unit = change.tx.row("SELECT device_id FROM unit WHERE serial = :serial", serial=serial)
    assert unit is not None  # the callers have read it
    tenant = device_by_id(change, unit["device_id"])["tenant_id"]
    for name, order, since, granted, count in rows:
        if since == 0.0:
            raised = change.tx.run(
                "UPDATE tenant_share SET share = held + :count WHERE tenant_id = :tenant"
                " AND type = :type AND share < held + :count",
                count=count,
                tenant=tenant,
                type=name,
            )
            if raised:
                change.journal("tenant_share_learned", tenant=tenant, type=name, serial=serial)
        now = Holding(order_id=order, since=since, granted=granted, held=count)
        write_holdings(change, serial, tenant, name, [], {now.key: now})


def charge(change: Change, order_id: str) -> None:
    """Hold what units may already use out of an order that is imported (again) only now."""
    for unit in change.tx.rows("SELECT * FROM unit WHERE leased"):
        most: dict[tuple[str, float], int] = {}
        for grant in needed(change, unit):
            for name, counts in grant.items():
                for (order, since), count in counts.items():
                    if order == order_id:
                        most[name, since] = max(most.get((name, since), 0), count)
        rows = [(name, order_id, since, 0, count) for (name, since), count in most.items()]
        _hold(change, unit["serial"], [row for row in rows if row[4]])


def end_if_over(change: Change) -> None:
    """End the restored state where all have reported, or a lease length has passed."""
    state = restored(change.tx)
    if state is None:
        return
    if state.passed(change.now, change.elapsed):
        _end(change, "lease_length_passed")
    elif state.agreed and not waiting_for(change.tx, state):
        _end(change, "all_reported")


def _end(change: Change, how: str, **detail: Any) -> None:
    keep(change.tx, None)
    change.tx.set_meta(ENDED, repr(change.now))
    change.freed = True
    change.journal("restore_ended", how=how, **detail)


def accept(change: Change, reason: str) -> None:
    """End the restored state on an operator's word.

    Raises LicenseError `not_restored`, or `bad_request` without a reason.
    """
    if not reason.strip() or len(reason) > 500:
        raise LicenseError("bad_request", "Give the reason, in at most 500 letters.")
    state = restored(change.tx)
    if state is None:
        raise LicenseError("not_restored", "This manager is not in the restored state.")
    missing = waiting_for(change.tx, state)
    _end(change, "accepted", reason=reason, not_reported=missing)


# -- contacts


def _name(serial: str) -> str:
    return f"unit {serial}"


def next_contact(anchor: SigningKey, unit: Row, used: str) -> str:
    """Return the contact value that follows both the unit's current one and the one `used`."""
    return next_value(anchor, _name(unit["serial"]), unit["contact_current"] or "", used)


def newer(anchor: SigningKey, unit: Row, value: str) -> bool:
    """Tell whether a contact value is this manager's own and newer than its database."""
    name = _name(unit["serial"])
    return number_of(anchor, name, value) > number_of(anchor, name, unit["contact_current"] or "")


def judge(change: Change, unit: Row, request: ContactRequest, *, fresh: bool) -> TrustError | None:
    """Judge a contact of a unit that may know more than this database; `fresh`: its value does.

    Returns why there is no lease now, None where the contact is to be taken.
    """
    state = restored(change.tx)
    given = max(request.remote_version, request.applied_version)
    ended = float(change.tx.meta(ENDED) or 0.0)
    # The first contact after the state has ended brings the values of before.
    excused = state is None and (unit["last_contact"] or 0.0) < ended
    ahead = given > unit["grant_version"]
    if ahead and not fresh and unit["last_contact"] is not None:
        # Whoever was given it has the contact value that came with it, unless an operator has let
        # it enrol since: this is the device's word alone, and no reason to doubt the database.
        change.journal("unknown_grant_claimed", serial=unit["serial"], version=given)
        return TrustError(
            "unknown_grant",
            f"Serial number {unit['serial']} reports grant {given}, which this manager never gave.",
        )
    if ahead and excused:
        change.tx.run(
            "UPDATE unit SET grant_version = :given + 1 WHERE serial = :serial",
            given=given,
            serial=unit["serial"],
        )
    elif ahead or (fresh and state is None and not excused):
        enter(change, "unknown_grant" if ahead else "unknown_contact_value", None)
        state = restored(change.tx)
    if state is None or state.agreed:
        return None
    return TrustError(
        "manager_restored",
        "The manager was restored from a backup and does not know what this device holds; no "
        "lease is renewed until all have ended, or an operator decides.",
    )
