"""Hitless runs as they are kept, and what others must know of them.

While a run is open its units keep what they held when it began, so that it can be rolled back at
any moment: what it frees is free once it is over. A unit whose lease has ended keeps nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from callpool.licensing import hitless
from callpool.licensing.errors import LicenseError
from callpool.licensing.hitless import OPEN, Run, State
from callpool.manager.change import Change
from callpool.manager.store.tx import Row, Tx

_OPEN: Final = "state IN ('running', 'stopped')"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A run and what it is about."""

    run: Run
    #: What each unit ran when it began, and what it is to run (its latest grant), per license type.
    before: dict[str, int]
    wanted: dict[str, int]
    #: Until then (manager's time) the pair's HA alarms belong to it.
    alarms_until: float = 0.0


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A run's row."""

    run_id: int
    device_id: int
    who: str
    began_at: float
    ended_at: float | None
    kept: Kept


def _read(row: Row) -> Found:
    return Found(
        run_id=row["run_id"],
        device_id=row["device_id"],
        who=row["who"],
        began_at=row["began_at"],
        ended_at=row["ended_at"],
        kept=msgspec.json.decode(row["content"], type=Kept),
    )


def open_run(tx: Tx, device_id: int) -> Found | None:
    """Return a device's run that is not over, or None."""
    row = tx.row(
        f"SELECT * FROM hitless_run WHERE device_id = :device AND {_OPEN}",  # noqa: S608
        device=device_id,
    )
    return None if row is None else _read(row)


def last_run(tx: Tx, device_id: int) -> Found | None:
    """Return a device's latest run, or None."""
    row = tx.row(
        "SELECT * FROM hitless_run WHERE device_id = :device ORDER BY run_id DESC LIMIT 1",
        device=device_id,
    )
    return None if row is None else _read(row)


def open_runs(tx: Tx) -> list[Found]:
    """Return all runs that are not over: there are never many."""
    return [_read(r) for r in tx.rows(f"SELECT * FROM hitless_run WHERE {_OPEN}")]  # noqa: S608


def due_devices(tx: Tx, now: float, longest: float) -> list[int]:
    """Return the devices whose runs are to be looked at.

    One that is due later than `longest` seconds from now was written before the clock was set
    back.
    """
    return [
        r["device_id"]
        for r in tx.rows(
            "SELECT device_id FROM hitless_run WHERE state = 'running'"
            " AND (due <= :now OR due > :latest)",
            now=now,
            latest=now + longest,
        )
    ]


def claim(change: Change, device_id: int) -> Found | None:
    """Return a device's open run for this change alone: whoever else wants it waits for us."""
    claimed = change.tx.run(
        f"UPDATE hitless_run SET revision = revision + 1 WHERE device_id = :device AND {_OPEN}",  # noqa: S608
        device=device_id,
    )
    return open_run(change.tx, device_id) if claimed else None


def add(change: Change, device_id: int, kept: Kept) -> int:
    """Write a new run down; returns its number."""
    return int(
        change.tx.value(
            "INSERT INTO hitless_run (device_id, state, who, began_at, due, content)"
            " VALUES (:device, :state, :who, :now, :now, :content) RETURNING run_id",
            device=device_id,
            state=kept.run.state.value,
            who=change.who,
            now=change.now,
            content=msgspec.json.encode(kept).decode(),
        )
    )


def keep(change: Change, run_id: int, kept: Kept, due: float | None) -> None:
    """Write a run down as it is now, to be looked at when it is `due`."""
    change.tx.run(
        "UPDATE hitless_run SET state = :state, due = :due, content = :content,"
        " ended_at = :ended WHERE run_id = :run",
        state=kept.run.state.value,
        due=due,
        content=msgspec.json.encode(kept).decode(),
        ended=None if kept.run.state in OPEN else change.now,
        run=run_id,
    )


def keeps_all(tx: Tx, unit: Row) -> bool:
    """Tell whether a unit keeps what it holds, whatever it runs, because its run is open."""
    return bool(
        unit["leased"]
        and tx.value(
            f"SELECT 1 FROM hitless_run WHERE device_id = :device AND {_OPEN}",  # noqa: S608
            device=unit["device_id"],
        )
    )


def check_none_runs(change: Change, device: Row) -> None:
    """Refuse a change of a device whose run is going on: LicenseError `hitless_running`."""
    found = open_run(change.tx, device["device_id"])
    if found is not None and found.kept.run.state is State.RUNNING:
        raise LicenseError(
            "hitless_running",
            f"A hitless installation is running on {device['name']}: wait for its end, or stop it.",
        )


def end_for(change: Change, device: Row) -> None:
    """Close a stopped run, because its device is about to be another one.

    Raises LicenseError `hitless_running` where it is going on.
    """
    found = claim(change, device["device_id"])
    if found is None:
        return
    check_none_runs(change, device)
    run = hitless.close(found.kept.run, change.now, change.who)
    keep(change, found.run_id, msgspec.structs.replace(found.kept, run=run), None)
    change.journal("hitless_closed", device=device["name"], run=found.run_id)
