"""The manager's alarms: what is active, what has been, what is expected, who has seen it.

An alarm is one row, whichever ways it is heard by. `take` writes what an event changes, with a
line of history; both are bounded, so that no device can fill the database or push out another
device's history. An event of history is numbered; that order is what targets are told in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from callpool.licensing.alarm_feed import NO_NUMBER, SAME_TIME, Heard, Known, Last, Verdict, judge
from callpool.licensing.alarm_table import Severity
from callpool.licensing.errors import LicenseError
from callpool.manager.change import Change
from callpool.manager.store.tx import Row, Tx

#: Ways by which an alarm is heard.
PROTOCOL: Final = "protocol"
TRAP: Final = "trap"
WALK: Final = "walk"
MANAGER: Final = "manager"

#: Transitions of history beside those of `Verdict`.
UNEXPECTED: Final = "unexpected"
ACKNOWLEDGED: Final = "acknowledged"

#: Alarms that one unit can have active (the field's table holds 120).
MOST_ACTIVE: Final = 150
#: Events that are kept of one unit, and of all.
HISTORY_UNIT: Final = 1_000
HISTORY_ALL: Final = 200_000
#: Events between two looks at whether there are more than HISTORY_ALL.
_PRUNE_EVERY: Final = 1_000
#: The longest texts that are kept, in characters.
_SHORT, _TEXT, _INFO, _ABOUT = 200, 500, 100, 100
_MOST_CODES: Final = 20
#: The latest time that is believed, seconds since 1970: the year 2242.
_LATEST: Final = 2.0**33

_TOLD: Final = (
    "serial, about, oid, severity, worst, codes, short, text, event_type, cause, info,"
    " told_at, number, source, expected"
)
_TOLD_VALUES: Final = ", ".join(f":{name.strip()}" for name in _TOLD.split(","))


def active(tx: Tx, serial: str, about: str, oid: str) -> Row | None:
    """Return an alarm that is active, or None."""
    return tx.row(
        "SELECT * FROM alarm WHERE serial = :serial AND about = :about AND oid = :oid",
        serial=serial,
        about=about,
        oid=oid,
    )


def device_of(tx: Tx, serial: str) -> Row | None:
    """Return (device_id, tenant_id) of a unit, None where it is not in the inventory."""
    return tx.row(
        "SELECT d.device_id, d.tenant_id FROM unit u JOIN device d ON d.device_id = u.device_id"
        " WHERE u.serial = :serial",
        serial=serial,
    )


def bounded(heard: Heard, now: float) -> Heard:
    """Return an event with no more text than is kept, and `now` for a time that cannot be."""
    return msgspec.structs.replace(
        heard,
        about=_plain(heard.about, _ABOUT),
        short=_plain(heard.short, _SHORT),
        text=_plain(heard.text, _TEXT),
        info=tuple(_plain(i, _INFO) for i in heard.info),
        codes=tuple(_plain(c, _INFO) for c in heard.codes[:_MOST_CODES]),
        at=heard.at if 0.0 <= heard.at <= _LATEST else now,
    )


def _plain(text: str, most: int) -> str:
    """Return text without control characters, `most` characters at most."""
    return "".join(c if c.isprintable() else " " for c in text[:most])


def take(change: Change, serial: str, heard: Heard, source: str) -> Verdict:
    """Take one event of a unit (`serial` empty: of the manager itself), heard by `source`.

    What was taken before, by whichever way, changes nothing.
    """
    heard = bounded(heard, change.now)
    tx = change.tx
    found = active(tx, serial, heard.about, heard.oid)
    if heard.number_known and _taken_before(tx, serial, heard):
        if found is not None and heard.severity:
            _heard_again(tx, found, heard, source)
        return Verdict.NOTHING
    known = None
    if found is not None:
        codes = msgspec.json.decode(found["codes"], type=tuple[str, ...])
        known = Known(
            severity=Severity(found["severity"]), code=codes[0] if codes else "", text=found["text"]
        )
    row = _last(tx, serial, heard)
    last = None if row is None else Last(unique=row["number"], at=row["told_at"])
    verdict = judge(known, last, heard)
    if verdict is Verdict.NOTHING:
        if found is not None:
            _heard_again(tx, found, heard, source)
        return verdict
    device = device_of(tx, serial) if serial else None
    expected, until = _expected(change, device, heard.oid)
    alarm_id: int | None = None
    worst = int(heard.severity)
    if found is not None:
        alarm_id, worst = found["alarm_id"], max(found["worst"], worst)
        if verdict is not Verdict.LATE:
            expected, until = found["expected"], found["expected_until"]
    values = _values(serial, heard, source, worst=worst, expected=expected)
    if verdict is Verdict.RAISED:
        count = tx.value("SELECT count(*) FROM alarm WHERE serial = :serial", serial=serial)
        if count >= MOST_ACTIVE:
            return Verdict.NOTHING
        alarm_id = tx.value(
            f"INSERT INTO alarm ({_TOLD}, device_id, raised_at, changed_at, heard,"  # noqa: S608
            f" expected_until) VALUES ({_TOLD_VALUES}, :device, :now, :now, :source, :until)"
            " RETURNING alarm_id",
            device=device["device_id"] if device else None,
            now=change.now,
            until=until,
            **values,
        )
    elif verdict is Verdict.CHANGED:
        assert found is not None  # `judge` knew it
        _change(change, found, values, graver=heard.severity > found["severity"])
    elif verdict is Verdict.CLEARED:
        tx.run("DELETE FROM alarm WHERE alarm_id = :alarm", alarm=alarm_id)
    _write_event(change, verdict.value, values, alarm_id=alarm_id, device=device)
    return verdict


def _taken_before(tx: Tx, serial: str, heard: Heard) -> bool:
    return bool(
        tx.value(
            "SELECT 1 FROM alarm_event WHERE serial = :serial AND oid = :oid AND number = :number"
            " AND about = :about AND told_at > :at - :near AND told_at < :at + :near",
            serial=serial,
            oid=heard.oid,
            about=heard.about,
            number=heard.unique,
            at=heard.at,
            near=SAME_TIME,
        )
    )


def _last(tx: Tx, serial: str, heard: Heard) -> Row | None:
    return tx.row(
        "SELECT number, told_at, at FROM alarm_event WHERE serial = :serial AND oid = :oid"
        " AND about = :about AND transition IN ('raised', 'changed', 'cleared')"
        " ORDER BY event_id DESC LIMIT 1",
        serial=serial,
        oid=heard.oid,
        about=heard.about,
    )


def _heard_again(tx: Tx, found: Row, heard: Heard, source: str) -> None:
    """Note that an active alarm was heard by one more way; the fuller sentence stays."""
    ways = found["heard"].split()
    fuller = heard.text.startswith(found["text"]) and len(heard.text) > len(found["text"])
    if source in ways and not fuller:
        return
    tx.run(
        "UPDATE alarm SET heard = :heard, text = :text WHERE alarm_id = :alarm",
        heard=" ".join(sorted({*ways, source})),
        text=heard.text if fuller else found["text"],
        alarm=found["alarm_id"],
    )


def _values(serial: str, heard: Heard, source: str, *, worst: int, expected: str) -> dict[str, Any]:
    return {
        "serial": serial,
        "about": heard.about,
        "oid": heard.oid,
        "severity": int(heard.severity),
        "worst": worst,
        "codes": msgspec.json.encode(heard.codes).decode(),
        "short": heard.short,
        "text": heard.text,
        "event_type": int(heard.event_type),
        "cause": heard.cause,
        "info": msgspec.json.encode(heard.info).decode(),
        "told_at": heard.at,
        "number": heard.unique,
        "source": source,
        "expected": expected,
    }


def _change(change: Change, found: Row, values: dict[str, Any], *, graver: bool) -> None:
    """Bring an active alarm up to date; one that becomes graver is to be seen anew."""
    names = [n.strip() for n in _TOLD.split(",") if n.strip() not in ("source", "expected")]
    sets = ", ".join(f"{name} = :{name}" for name in names)
    if graver:
        sets += ", acknowledged_at = NULL, acknowledged_by = '', note = ''"
    change.tx.run(
        f"UPDATE alarm SET {sets}, changed_at = :now, heard = :heard"  # noqa: S608
        " WHERE alarm_id = :alarm",
        now=change.now,
        alarm=found["alarm_id"],
        heard=" ".join(sorted({*found["heard"].split(), values["source"]})),
        **{name: values[name] for name in names},
    )


def _write_event(
    change: Change,
    transition: str,
    values: dict[str, Any],
    *,
    alarm_id: int | None,
    device: Row | None,
    note: str = "",
) -> None:
    tx, serial = change.tx, values["serial"]
    event = tx.value(
        f"INSERT INTO alarm_event ({_TOLD}, at, transition, alarm_id, device_id,"  # noqa: S608
        f" tenant_id, who, note) VALUES ({_TOLD_VALUES}, :now, :transition, :alarm, :device,"
        " :tenant, :who, :note) RETURNING event_id",
        now=change.now,
        transition=transition,
        alarm=alarm_id,
        device=device["device_id"] if device else None,
        tenant=device["tenant_id"] if device else None,
        who=change.who,
        note=note,
        **values,
    )
    tx.run(
        "DELETE FROM alarm_event WHERE serial = :serial AND event_id <= (SELECT event_id FROM"
        " alarm_event WHERE serial = :serial ORDER BY event_id DESC LIMIT 1 OFFSET :most)",
        serial=serial,
        most=HISTORY_UNIT,
    )
    if event % _PRUNE_EVERY == 0:
        tx.run(
            "DELETE FROM alarm_event WHERE event_id <= (SELECT event_id FROM alarm_event"
            " ORDER BY event_id DESC LIMIT 1 OFFSET :most)",
            most=HISTORY_ALL,
        )


# -- what a whole list says


def reconcile(
    change: Change,
    serial: str,
    listed: Iterable[Heard],
    source: str,
    *,
    at: float,
    mine: Callable[[Row], bool],
    newer: Callable[[int, float], bool],
) -> tuple[int, int]:
    """Make a unit's alarms what `listed` says: raise what is there, clear what is not.

    `mine` says of an active alarm whether the list would hold it; `newer` of an event, by the
    sender's number and the time here, whether it came after the list was made. `at` is the time
    that a clear is told with. Returns how many were raised or changed, and how many cleared.
    """
    tx = change.tx
    told = [bounded(h, change.now) for h in listed]
    there = {(h.about, h.oid) for h in told}
    raised = cleared = 0
    for heard in told:
        verdict = take(change, serial, heard, source)
        if verdict is Verdict.NOTHING and active(tx, serial, heard.about, heard.oid) is None:
            last = _last(tx, serial, heard)
            if last is not None and not newer(last["number"], last["at"]):
                # It was cleared by a word that the list does not bear out.
                again = msgspec.structs.replace(heard, unique=NO_NUMBER)
                verdict = take(change, serial, again, source)
        raised += verdict in (Verdict.RAISED, Verdict.CHANGED)
    for row in tx.rows("SELECT * FROM alarm WHERE serial = :serial", serial=serial):
        gone = (row["about"], row["oid"]) not in there and mine(row)
        if gone and not newer(row["number"], row["changed_at"]):
            cleared += clear(change, row, source, at=at)
    return raised, cleared


def clear(change: Change, row: Row, source: str, *, at: float) -> bool:
    """Clear an active alarm, told at `at`."""
    gone = Heard(
        oid=row["oid"],
        about=row["about"],
        severity=Severity.CLEARED,
        short=row["short"],
        text=row["text"],
        event_type=row["event_type"],
        cause=row["cause"],
        info=msgspec.json.decode(row["info"], type=tuple[str, str, str]),
        codes=msgspec.json.decode(row["codes"], type=tuple[str, ...]),
        at=at,
    )
    return take(change, row["serial"], gone, source) is Verdict.CLEARED


# -- acknowledged


def acknowledge(change: Change, alarm_id: int, note: str) -> Row:
    """Note that an operator has seen an active alarm.

    Raises LicenseError `unknown_alarm`, `bad_request` for a note above 500 characters.
    """
    if len(note) > _TEXT:
        raise LicenseError("bad_request", f"A note has at most {_TEXT} characters.")
    row = change.tx.row("SELECT * FROM alarm WHERE alarm_id = :alarm", alarm=alarm_id)
    if row is None:
        raise LicenseError("unknown_alarm", f"No active alarm has the number {alarm_id}.")
    change.tx.run(
        "UPDATE alarm SET acknowledged_at = :now, acknowledged_by = :who, note = :note"
        " WHERE alarm_id = :alarm",
        now=change.now,
        who=change.who,
        note=note,
        alarm=alarm_id,
    )
    _again(change, row, ACKNOWLEDGED, note=note)
    change.journal("alarm_acknowledged", alarm=alarm_id, serial=row["serial"], oid=row["oid"])
    return row


def _again(
    change: Change, row: Row, transition: str, *, note: str = "", expected: str | None = None
) -> None:
    """Write a line of history about an alarm as it stands."""
    values = {name.strip(): row[name.strip()] for name in _TOLD.split(",")}
    if expected is not None:
        values["expected"] = expected
    # It is no event of the sender's: its number must not hide one that is.
    values["number"] = NO_NUMBER
    device = device_of(change.tx, row["serial"]) if row["serial"] else None
    _write_event(change, transition, values, alarm_id=row["alarm_id"], device=device, note=note)


# -- expected


def expect(change: Change, device_id: int, oids: Iterable[str], *, until: float, why: str) -> None:
    """Expect alarms of a device until a time (the manager's, seconds since 1970).

    One that arrives within is shown as expected and not forwarded; where it is still active
    then, `end_expected` makes it an alarm as any other.
    """
    for oid in oids:
        change.tx.run(
            "INSERT INTO alarm_expected (device_id, oid, until, why)"
            " VALUES (:device, :oid, :until, :why) ON CONFLICT (device_id, oid)"
            " DO UPDATE SET until = excluded.until, why = excluded.why",
            device=device_id,
            oid=oid,
            until=until,
            why=why,
        )
        # What has arrived as expected stays so for as long.
        change.tx.run(
            "UPDATE alarm SET expected_until = :until WHERE device_id = :device AND oid = :oid"
            " AND expected <> ''",
            until=until,
            device=device_id,
            oid=oid,
        )


def expect_no_more(change: Change, device_id: int) -> None:
    """End what is expected of a device now: what is still active is unexpected."""
    for statement in (
        "UPDATE alarm_expected SET until = :now WHERE device_id = :device AND until > :now",
        "UPDATE alarm SET expected_until = :now WHERE device_id = :device AND expected <> ''",
    ):
        change.tx.run(statement, now=change.now, device=device_id)
    end_expected(change)


def _expected(change: Change, device: Row | None, oid: str) -> tuple[str, float]:
    if device is None:
        return "", 0.0
    row = change.tx.row(
        "SELECT why, until FROM alarm_expected WHERE device_id = :device AND oid = :oid"
        " AND until > :now",
        device=device["device_id"],
        oid=oid,
        now=change.now,
    )
    return ("", 0.0) if row is None else (row["why"], row["until"])


def expected_is_over(tx: Tx, now: float) -> bool:
    """Tell whether `end_expected` has anything to do."""
    return bool(
        tx.value(
            "SELECT EXISTS (SELECT 1 FROM alarm WHERE expected <> '' AND expected_until <= :now)"
            " OR EXISTS (SELECT 1 FROM alarm_expected WHERE until <= :now)",
            now=now,
        )
    )


def end_expected(change: Change) -> None:
    """Make alarms that were expected no longer than now, and are active still, unexpected."""
    for row in change.tx.rows(
        "SELECT * FROM alarm WHERE expected <> '' AND expected_until <= :now", now=change.now
    ):
        change.tx.run(
            "UPDATE alarm SET expected = '', expected_until = 0, changed_at = :now"
            " WHERE alarm_id = :alarm",
            now=change.now,
            alarm=row["alarm_id"],
        )
        _again(change, row, UNEXPECTED, note=row["expected"], expected="")
    change.tx.run("DELETE FROM alarm_expected WHERE until <= :now", now=change.now)
