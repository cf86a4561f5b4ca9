"""What operators see of alarms, as plain values for JSON."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from callpool.licensing.alarm_table import Severity
from callpool.licensing.alarm_words import name_of
from callpool.licensing.errors import LicenseError
from callpool.licensing.manager_alarm_table import ALL_DEFINITIONS
from callpool.manager.authority_views import Time
from callpool.manager.paging import Column, Page, Sorts, page_rows
from callpool.manager.store.tx import Row, Tx

#: The number of an alarm, and of an event.
_BY_NUMBER: Final[Sorts] = {"id": (Column("place", "place", int),)}
_NEWEST: Final = "-id"

Flag = Literal["", "false", "true"]


class AlarmQuery(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for; empty: any."""

    device: str = ""
    tenant: str = ""
    #: From this severity on.
    severity: Literal["", "indeterminate", "warning", "minor", "major", "critical"] = ""
    #: Events from this time on, seconds since 1970.
    since: Time = 0.0
    #: `true`: only what is expected; `false`: only what is not.
    expected: Flag = ""


class ActiveQuery(AlarmQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for of active alarms."""

    #: `true`: only what is acknowledged; `false`: only what is not.
    acknowledged: Flag = ""


def check_names(tx: Tx, query: AlarmQuery) -> None:
    """Refuse names that there are not; raises LicenseError `unknown_device`, `unknown_tenant`."""
    for kind, name in (("device", query.device), ("tenant", query.tenant)):
        if name and tx.value(f"SELECT 1 FROM {kind} WHERE name = :name", name=name) is None:  # noqa: S608
            raise LicenseError(f"unknown_{kind}", f"There is no {kind} {name[:60]!r}.")


def active(tx: Tx, query: ActiveQuery) -> dict[str, Any]:
    """Return active alarms, the newest first; raises as `check_names`, and `bad_cursor`."""
    check_names(tx, query)
    rows, after = page_rows(
        tx,
        "SELECT * FROM (SELECT a.*, a.alarm_id AS place, d.name AS device, t.name AS tenant"
        " FROM alarm a LEFT JOIN device d ON d.device_id = a.device_id"
        " LEFT JOIN tenant t ON t.tenant_id = d.tenant_id"
        " WHERE a.severity >= :severity AND a.raised_at >= :since"
        " AND (:device = '' OR d.name = :device) AND (:tenant = '' OR t.name = :tenant)"
        " AND (CAST(:expected AS BOOLEAN) IS NULL"
        "  OR (a.expected <> '') = CAST(:expected AS BOOLEAN))"
        " AND (CAST(:acknowledged AS BOOLEAN) IS NULL"
        "  OR (a.acknowledged_at IS NOT NULL) = CAST(:acknowledged AS BOOLEAN)))"
        " AS found WHERE TRUE",
        _BY_NUMBER,
        query,
        _NEWEST,
        {**_values(query), "acknowledged": _flag(query.acknowledged)},
    )
    return {"alarms": [_active(r) for r in rows], "next": after, "counts": counts(tx)}


def history(tx: Tx, query: AlarmQuery) -> dict[str, Any]:
    """Return raises, changes, clears and the rest, the newest first; raises as `active`."""
    check_names(tx, query)
    rows, after = page_rows(
        tx,
        "SELECT * FROM (SELECT e.*, e.event_id AS place, d.name AS device, t.name AS tenant"
        " FROM alarm_event e LEFT JOIN device d ON d.device_id = e.device_id"
        " LEFT JOIN tenant t ON t.tenant_id = e.tenant_id"
        " WHERE e.worst >= :severity AND e.at >= :since"
        " AND (:device = '' OR d.name = :device) AND (:tenant = '' OR t.name = :tenant)"
        " AND (CAST(:expected AS BOOLEAN) IS NULL"
        "  OR (e.expected <> '') = CAST(:expected AS BOOLEAN))) AS found WHERE TRUE",
        _BY_NUMBER,
        query,
        _NEWEST,
        _values(query),
    )
    return {"events": [_event(r) for r in rows], "next": after}


def counts(tx: Tx) -> dict[str, int]:
    """Return how many alarms are active, per severity; expected ones apart."""
    found = {s.name.lower(): 0 for s in reversed(Severity) if s} | {"expected": 0}
    for r in tx.rows(
        "SELECT severity, expected <> '' AS expected, count(*) AS n FROM alarm GROUP BY 1, 2"
    ):
        key = "expected" if r["expected"] else Severity(r["severity"]).name.lower()
        found[key] += r["n"]
    return found


def targets(tx: Tx) -> list[dict[str, Any]]:
    """Return how far each target was told, and whether it fails."""
    last = tx.value("SELECT coalesce(max(event_id), 0) FROM alarm_event")
    return [
        {
            "name": r["name"],
            "told": r["told"],
            "behind": tx.value(
                "SELECT count(*) FROM alarm_event WHERE event_id > :told", told=r["told"]
            )
            if r["told"] < last
            else 0,
            "failing_since": r["failing_since"],
            "failure": r["failure"],
        }
        for r in tx.rows("SELECT * FROM alarm_target ORDER BY name")
    ]


def _values(query: AlarmQuery) -> dict[str, Any]:
    return {
        "severity": int(Severity[query.severity.upper()]) if query.severity else 0,
        "since": query.since,
        "device": query.device,
        "tenant": query.tenant,
        "expected": _flag(query.expected),
    }


def _flag(said: str) -> bool | None:
    return {"true": True, "false": False}.get(said)


def _told(r: Row) -> dict[str, Any]:
    codes = msgspec.json.decode(r["codes"], type=tuple[str, ...])
    known = ALL_DEFINITIONS.get(codes[0]) if codes else None
    return {
        "device": r["device"],
        "tenant": r["tenant"],
        "serial": r["serial"],
        "about": r["about"],
        "oid": r["oid"],
        "name": name_of(r["oid"]),
        "severity": Severity(r["severity"]).name.lower(),
        "codes": codes,
        "text": r["text"],
        "next_step": known.next_step if known else "",
        "told_at": r["told_at"],
        "expected": r["expected"],
    }


def _active(r: Row) -> dict[str, Any]:
    return {
        "id": r["alarm_id"],
        **_told(r),
        "raised_at": r["raised_at"],
        "changed_at": r["changed_at"],
        "heard": r["heard"].split(),
        "expected_until": r["expected_until"] if r["expected"] else None,
        "acknowledged_at": r["acknowledged_at"],
        "acknowledged_by": r["acknowledged_by"],
        "note": r["note"],
    }


def _event(r: Row) -> dict[str, Any]:
    return {
        "id": r["event_id"],
        "at": r["at"],
        "transition": r["transition"],
        **_told(r),
        "worst": Severity(r["worst"]).name.lower(),
        "source": r["source"],
        "alarm": r["alarm_id"],
        "who": r["who"],
        "note": r["note"],
    }
