"""What each device is now, kept beside what it reports: for lists, sums and what needs attention.

`device_now`, `device_count` and `device_heard` hold nothing of their own. Triggers mark the
devices that a transaction touches (migration 0009), and its last act derives those anew from unit,
device, allocation and holding, so that a list of 100,000 devices is sorted, searched and summed
without reading a single report, and can never tell another story than the rows it is made of.

Most contacts change nothing but when a device was heard: only what differs is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import msgspec

from callpool.licensing.alarm_table import DEFINITIONS, Severity
from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.usage import HOUR
from callpool.wire.messages import FACTORY_RESET, MODE_SMART

if TYPE_CHECKING:
    from callpool.manager.store.tx import Row, Tx

#: To be raised when the rules below change: every device is derived anew at the next start.
_RULES: Final = 2

#: Devices that are derived at a time: after an upgrade it may be all of a million.
_AT_ONCE: Final = 1_000

#: Gravity of alarms that devices report; three digits, so that text sorts as numbers do.
_ALARM_RANKS: Final = {
    Severity.CRITICAL: "076",
    Severity.MAJOR: "056",
    Severity.MINOR: "035",
    Severity.WARNING: "025",
    Severity.INDETERMINATE: "025",
}
#: Alarms that say what the manager sees by itself, where its own word has the action.
ECHOES: Final = frozenset({"restart_pending", "clone_locked", "lease_warning", "lease_ended"})


class _Report(msgspec.Struct):
    """What of a report counts here."""

    reason: str = ""
    mode: str = ""
    remote_version: int = 0
    applied_version: int = 0
    restart_done: int = 0
    local: dict[str, int] = {}
    actual: dict[str, int] = {}
    in_use: dict[str, int] = {}
    remote_in_use: dict[str, int] = {}
    alarms: tuple[str, ...] = ()


_decode: Final = msgspec.json.Decoder(_Report).decode
_NOTHING: Final = _Report()


# CROSS JOIN: SQLite then goes from the few that were touched to their rows, never the other way.
def _upsert(table: str, key: Sequence[str], values: Sequence[str]) -> str:
    names = (*key, *values)
    kinds = ", ".join(f"{name} {_KINDS.get(name, 'integer')}" for name in names)
    return (
        f"INSERT INTO {table} ({', '.join(names)})"  # noqa: S608  names of columns below
        f" SELECT {', '.join(f'r.{name}' for name in names)} FROM ROWS(:rows; {kinds}) WHERE TRUE"
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET "
        + ", ".join(f"{n} = excluded.{n}" for n in values)
    )


_KINDS: Final = {
    **dict.fromkeys(("name", "mode", "serials", "alarms", "worst", "type"), "text"),
    **dict.fromkeys(("lease_end", "last_contact"), "real"),
}
#: What is kept: the columns that say of what, and those that say it.
_TABLES: Final = {
    "device_now": (
        ("device_id",),
        ("tenant_id", "name", "mode", "serials", "alarms", "worst", "lease_end"),
    ),
    "device_count": (
        ("device_id", "type"),
        ("tenant_id", "target", "granted", "local", "actual", "in_use", "pool_in_use"),
    ),
    "device_heard": (("device_id",), ("last_contact",)),
}
_KEEP: Final = {table: _upsert(table, *columns) for table, columns in _TABLES.items()}
_NOW, _COUNTED = _TABLES["device_now"][1], _TABLES["device_count"][1]

#: A row of `device_count` as a text.
_AS_TEXT: Final = " || ' ' || ".join(f"c.{name}" for name in _COUNTED)

# All that is needed, in one question. CROSS JOIN: SQLite then goes from the few that were touched
# to their rows, never the other way.
_UNITS: Final = (
    "SELECT x.device_id, d.tenant_id, d.name, d.mode, d.apply, d.removed_at, u.serial, u.report,"  # noqa: S608
    " u.grant_version, u.lease_end, u.locked, u.released, u.public_key, u.last_contact,"
    " u.restart_number,"
    " (SELECT json_group_object(h.type || ' ' || h.order_id, h.granted) FROM holding h"
    "  WHERE h.serial = u.serial AND h.since = 0) AS granted,"
    " (SELECT json_group_object(a.type, a.target) FROM allocation a"
    "  WHERE a.device_id = x.device_id) AS targets,"
    # What is kept of it now.
    f" {', '.join(f'n.{name} AS now_{name}' for name in _NOW)},"
    " k.device_id AS heard, k.last_contact AS heard_last,"
    f" (SELECT json_group_object(c.type, {_AS_TEXT})"
    "  FROM device_count c WHERE c.device_id = x.device_id) AS counts"
    " FROM device_touched x CROSS JOIN device d"
    " LEFT JOIN unit u ON u.device_id = d.device_id AND u.state = 'active'"
    " LEFT JOIN device_now n ON n.device_id = d.device_id"
    " LEFT JOIN device_heard k ON k.device_id = d.device_id"
    " WHERE d.device_id = x.device_id ORDER BY x.device_id, u.role, u.serial"
)
_ints: Final = msgspec.json.Decoder(dict[str, int]).decode
_texts: Final = msgspec.json.Decoder(dict[str, str]).decode


def settle(tx: Tx) -> None:
    """Derive anew what the transaction touched: its last act."""
    # On PostgreSQL the marks are no rows: the statements are given them (`dialect.py`).
    if tx.marks_are_rows:
        _derive(tx, [])
        return
    touched = sorted({int(it) for it in tx.touched("device")})
    for start in range(0, len(touched), _AT_ONCE):
        _derive(tx, touched[start : start + _AT_ONCE])
    # A contact's marks are no rows, and end with its transaction.
    if touched and not tx.beside:
        tx.forget_touched("device")


def _derive(tx: Tx, touched: list[int]) -> None:
    """Derive devices anew: those of `touched`, or on SQLite those that are marked by rows."""
    units = tx.rows(_UNITS, touched=touched)
    if not units:
        return
    differing: dict[str, list[dict[str, Any]]] = {table: [] for table in _TABLES}
    gone = []
    for device_id, rows in groupby(units, lambda r: r["device_id"]):
        of = list(rows)
        first = of[0]
        if first["removed_at"] is not None or first["serial"] is None:
            gone.append({"device_id": device_id})
            continue
        reports = [_decode(u["report"]) if u["report"] else _NOTHING for u in of]
        target = _ints(first["targets"] or "{}")
        given = [_granted(u) for u in of]
        now = _now(of, reports, given, target)
        if any(first[f"now_{name}"] != now[name] for name in _NOW):
            differing["device_now"].append(now)
        kept = _texts(first["counts"] or "{}")
        differing["device_count"] += (
            row
            for row in _counts(of, reports, given, target)
            if kept.get(row["type"]) != " ".join(str(row[name]) for name in _COUNTED)
        )
        heard = _least(u["last_contact"] for u in of if u["public_key"] is not None)
        if first["heard"] is None or first["heard_last"] != heard:
            differing["device_heard"].append({"device_id": device_id, "last_contact": heard})
    for table in _TABLES:
        tx.run_many(f"DELETE FROM {table} WHERE device_id = :device_id", gone)  # noqa: S608
    for table, found in differing.items():
        if found:
            tx.later(_KEEP[table], rows=msgspec.json.encode(found).decode())
    if tx.marks_are_rows:
        tx.forget_touched("device")


def keep_rules(tx: Tx) -> None:
    """Derive every device anew where these rules are others than those of the last start."""
    known = sorted((code, _rank(code)) for code in DEFINITIONS)
    rules = hashlib.sha256(repr((_RULES, known)).encode()).hexdigest()
    if tx.meta("device_now_rules") != rules:
        tx.run("DELETE FROM device_touched")
        tx.run("INSERT INTO device_touched (device_id) SELECT device_id FROM device")
        tx.set_meta("device_now_rules", rules)


def _granted(unit: Row) -> dict[str, int]:
    """Return what a unit is granted now, over all orders."""
    out: dict[str, int] = {}
    for key, count in _ints(unit["granted"] or "{}").items():
        name = key.partition(" ")[0]
        out[name] = out.get(name, 0) + count
    return out


def _now(
    units: Sequence[Row],
    reports: Sequence[_Report],
    granted: Sequence[dict[str, int]],
    target: dict[str, int],
) -> dict[str, Any]:
    first = units[0]
    alarms = list(dict.fromkeys(code for report in reports for code in report.alarms))
    worst = max((f"{_rank(code)}:alarm" for code in alarms), default="")
    if first["mode"] == "none":
        worst = max(worst, "020:unmanaged")
    for unit, report, given in zip(units, reports, granted, strict=True):
        worst = max(worst, _of_unit(unit, report), _short(unit, report, given, target))
    return {
        **{name: first[name] for name in ("device_id", "tenant_id", "name", "mode")},
        "serials": " ".join(u["serial"] for u in units),
        # A space before and after each, so that one can be looked for.
        "alarms": f" {' '.join(alarms)} " if alarms else "",
        "worst": worst,
        # Its hour alone: it is renewed with every contact (`console/queries.py`).
        "lease_end": _least(
            _hour(u["lease_end"]) for u, g in zip(units, granted, strict=True) if any(g.values())
        ),
    }


def _hour(at: float | None) -> float | None:
    return None if at is None else at // HOUR * HOUR


def _least(values: Iterable[float | None]) -> float | None:
    return min((v for v in values if v is not None), default=None)


def _rank(code: str) -> str:
    if code in ECHOES:
        return "015"
    # What a newer device reports by a name that is not known here needs a look.
    return _ALARM_RANKS[DEFINITIONS[code].severity] if code in DEFINITIONS else "025"


def _of_unit(unit: Row, report: _Report) -> str:
    """Return gravity and code of what is worst about a unit, but for its alarms."""
    version = unit["grant_version"]
    if unit["locked"] is not None:
        return "100:locked"
    if unit["released"]:
        return "080:released"
    if unit["public_key"] is None:
        return "050:new"
    if unit["last_contact"] is not None and report.reason == FACTORY_RESET:
        return "082:reset"
    if unit["mode"] != "fixed":
        return ""
    if unit["restart_number"] > report.restart_done:
        return "045:restarting"
    fetched = unit["report"] is not None and report.remote_version >= version
    if version > 0 and fetched and report.mode != MODE_SMART and unit["apply"] == "restart":
        if report.remote_version == version != report.applied_version:
            return "060:restart" if any(report.actual.values()) else "085:restart"
    elif version > 0 and unit["report"] is not None and not fetched:
        return "040:unsent"
    return ""


def _short(unit: Row, report: _Report, granted: dict[str, int], target: dict[str, int]) -> str:
    """Tell that a unit has less than is allocated to its device."""
    if unit["mode"] != "fixed" or report.mode == MODE_SMART or unit["public_key"] is None:
        return ""
    return "055:short" if any(n > granted.get(name, 0) for name, n in target.items()) else ""


def _counts(
    units: Sequence[Row],
    reports: Sequence[_Report],
    granted: Sequence[dict[str, int]],
    target: dict[str, int],
) -> list[dict[str, Any]]:
    # Of a pair: what both units are sure to have, and calls once, since one of them carries them.
    return [
        {
            "device_id": units[0]["device_id"],
            "tenant_id": units[0]["tenant_id"],
            "type": name,
            "target": target.get(name, 0),
            "granted": min(g.get(name, 0) for g in granted),
            "local": min(r.local.get(name, 0) for r in reports),
            "actual": min(r.actual.get(name, 0) for r in reports),
            "in_use": max(r.in_use.get(name, 0) for r in reports),
            "pool_in_use": max(r.remote_in_use.get(name, 0) for r in reports),
        }
        for name in POOL_TYPES
    ]
