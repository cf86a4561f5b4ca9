"""Hitless runs: started by an operator, driven by the units' reports and by the clock.

Every look happens inside one transaction that has the run's row (`claim`), so of several managers
one moves it, and a killed one leaves nothing half done: an order is written down before the
reply that carries it leaves, and is given again in each reply until it was carried out or its
time is over.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from callpool.licensing import hitless
from callpool.licensing.alarm_feed import HITLESS_RUN
from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.errors import LicenseError
from callpool.licensing.hitless import OPEN, Deadlines, Kind, Role, Run, State, Unit
from callpool.licensing.lease import APPLY_RESTART
from callpool.manager import alarms, windows
from callpool.manager.change import Change
from callpool.manager.hitless_store import (
    Found,
    Kept,
    add,
    claim,
    due_devices,
    keep,
    last_run,
    open_run,
)
from callpool.manager.ledger import (
    FIXED,
    device_by_id,
    read_slices,
    settle_unit,
    unit_by_serial,
    units_of,
)
from callpool.manager.pair_views import pair_of, report_of
from callpool.manager.pools import set_targets
from callpool.manager.settings import Settings
from callpool.manager.store.tx import Row
from callpool.wire.messages import GrantMessage, SwitchOrder

#: Seconds after a run's end in which what it has stirred up settles: a switchover's alarm is
#: cleared after 10 (facts/license-pool.md 4.4).
AFTERWARDS: Final = 30.0
#: Seconds between two reports of a unit in a run, and between two attempts of one that fails.
POLL: Final = 1.0
RETRY: Final = 2.0


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a run adds to the reply to one of its units."""

    #: The restart that the unit is asked for carries this end; None where the run asks for none.
    restart_until: float | None = None
    switch: SwitchOrder | None = None
    alarms_until: float = 0.0
    running: bool = False


def deadlines(settings: Settings) -> Deadlines:
    """Return the deadlines that an administrator has set."""
    return Deadlines(
        settle=settings.hitless_settle_seconds,
        restart=settings.hitless_restart_seconds,
        switch=settings.hitless_switch_seconds,
    )


# -- what the units say


def units_seen(change: Change, kept: Kept, device: Row) -> dict[str, Unit] | None:
    """Return what is known of both units, None where they are no longer this pair."""
    rows = {u["serial"]: u for u in units_of(change, device["device_id"])}
    if set(rows) != {kept.run.first, kept.run.other}:
        return None
    return {serial: _unit(row, device) for serial, row in rows.items()}


def _unit(row: Row, device: Row) -> Unit:
    report = report_of(row)
    pair = pair_of(report)
    done = int(report.get("restart_done", 0))
    switch_done = int(pair.switch_done)
    return Unit(
        serial=row["serial"],
        peer=pair.peer,
        role=pair.known_role,
        synchronised=pair.synchronised,
        # The latest: what the pair is given while its run goes on is installed by it too.
        wanted=row["grant_version"],
        received=report.get("remote_version", 0),
        running=report.get("applied_version", 0),
        restart_done=done,
        switch_done=switch_done,
        switch_result=pair.switch_result,
        next_restart=max(row["restart_number"], row["restart_issued"], done) + 1,
        next_switch=max(device["switch_number"], switch_done) + 1,
    )


# -- what operators do


def begin(change: Change, device: Row, settings: Settings) -> Found:
    """Start a hitless installation of what a pair has been given.

    Raises LicenseError `no_pair`, `device_not_managed`, `applies_at_once`, `hitless_open`,
    `restart_waits`, `unit_not_ready`, `no_active_unit`, `nothing_to_install`.
    """
    name, units = device["name"], units_of(change, device["device_id"])
    _check_pair(change, device, units)
    reports = {u["serial"]: pair_of(report_of(u)) for u in units}
    serving = [s for s, pair in reports.items() if pair.known_role in (Role.ACTIVE, Role.ALONE)]
    if len(serving) != 1:
        said = ", ".join(f"{s}: {p.role or 'nothing yet'}" for s, p in reports.items())
        raise LicenseError(
            "no_active_unit",
            f"A hitless installation needs one active unit; {name}'s units have said {said}.",
        )
    first = serving[0]
    other = next(u["serial"] for u in units if u["serial"] != first)
    if all(report_of(u).get("applied_version", 0) >= u["grant_version"] for u in units):
        raise LicenseError("nothing_to_install", f"Both units of {name} run what they have.")
    home = next(u for u in units if u["serial"] == first)
    kept = Kept(
        run=hitless.start(first, other, change.now, deadlines(settings)),
        before=_applied(change, home),
        wanted=_granted(change, home),
    )
    add(change, device["device_id"], kept)
    found = claim(change, device["device_id"])
    assert found is not None  # it has just been written
    change.journal(
        "hitless_started", device=name, active=first, before=kept.before, wanted=kept.wanted
    )
    # Both are to call: what they have said before does not count.
    return _moved(change, device, found, replace(kept.run, lines=()), kept, settings)


def _check_pair(change: Change, device: Row, units: list[Row]) -> None:
    name = device["name"]
    if len(units) != 2:
        raise LicenseError("no_pair", f"{name} is no HA pair: restart it with save.")
    if device["mode"] != FIXED:
        raise LicenseError("device_not_managed", f"{name} is not managed by the pool.")
    if device["apply"] != APPLY_RESTART:
        raise LicenseError(
            "applies_at_once",
            f"{name} applies what it is given at once: nothing is to be installed.",
        )
    if open_run(change.tx, device["device_id"]) is not None:
        raise LicenseError(
            "hitless_open",
            f"A hitless installation of {name} is not over: resume it, roll it back or close it.",
        )
    wish = windows.wish_of(change.tx, device["device_id"])
    asked = [
        u["serial"] for u in units if u["restart_number"] > report_of(u).get("restart_done", 0)
    ]
    if asked or (wish is not None and not wish.cancelled):
        raise LicenseError(
            "restart_waits",
            f"A restart of {name} has been asked for and is not reported yet; cancel it, or wait.",
        )
    for unit in units:
        if unit["public_key"] is None or unit["locked"] or unit["last_contact"] is None:
            raise LicenseError(
                "unit_not_ready",
                f"{unit['serial']} has not been in contact, or is locked: {name} is no whole pair.",
            )


def _applied(change: Change, unit: Row) -> dict[str, int]:
    """Return the pool's counts that a unit runs now, by what it was sent."""
    slices = change.tx.value(
        "SELECT slices FROM grant_journal WHERE serial = :serial AND version = :version",
        serial=unit["serial"],
        version=report_of(unit).get("applied_version", 0),
    )
    return _counts(slices or "[]", change.now)


def _granted(change: Change, unit: Row) -> dict[str, int]:
    return _counts(unit["grant_content"], change.now)


def _counts(slices: str, now: float) -> dict[str, int]:
    grant = GrantMessage(version=0, apply="", slices=read_slices(slices)).grant("")
    counts = grant.at(now)
    return {kind: counts.get(kind) for kind in POOL_TYPES}


def act(change: Change, device: Row, action: str, settings: Settings) -> Found:
    """Resume, stop, roll back or close a device's run.

    Raises LicenseError `no_hitless_run` (none is open), `hitless_running`, `hitless_stopped`
    (it is, and that is not what was asked), `bad_request`.
    """
    found = claim(change, device["device_id"])
    if found is None:
        raise LicenseError(
            "no_hitless_run", f"No hitless installation of {device['name']} is open."
        )
    kept, times = found.kept, deadlines(settings)
    run, running = kept.run, kept.run.state is State.RUNNING
    if action == "stop":
        if not running:
            raise LicenseError("hitless_stopped", f"The run on {device['name']} stands already.")
        after = hitless.stop(run, change.now, change.who)
    elif action == "resume":
        if running:
            raise LicenseError("hitless_running", f"The run on {device['name']} is going on.")
        after = hitless.resume(run, change.now, times)
    elif action == "roll_back":
        if run.back and running:
            raise LicenseError("hitless_running", f"{device['name']} is being rolled back.")
        if not run.back:
            set_targets(change, device, kept.before)
            if _wanted(change, kept) != kept.before:
                raise LicenseError(
                    "pool_exceeded", f"What {device['name']} had before cannot be had any more."
                )
        after = hitless.resume(run, change.now, times, back=True)
    elif action == "close":
        if running:
            raise LicenseError("hitless_running", f"Stop the run on {device['name']} first.")
        after = hitless.close(run, change.now, change.who)
    else:
        raise LicenseError("bad_request", "A run is to resume, stop, roll_back or close.")
    return _moved(change, device, found, run, replace(kept, run=after), settings)


def _wanted(change: Change, kept: Kept) -> dict[str, int]:
    """Return what each unit of the pair is to run: both are given the same."""
    unit = unit_by_serial(change, kept.run.first)
    return kept.wanted if unit is None else _granted(change, unit)


# -- driven by reports and by the clock


def heard(change: Change, device: Row, serial: str, settings: Settings) -> None:
    """Take the report of a unit that has just been written down."""
    if open_run(change.tx, device["device_id"]) is not None:
        _look(change, device, settings, heard=serial)


def due(change: Change, settings: Settings) -> bool:
    """Tell whether a run waits for nothing but the clock."""
    return bool(due_devices(change.tx, change.now, deadlines(settings).longest() + 60.0))


def sweep(change: Change, settings: Settings) -> None:
    """Look at the runs whose time has come."""
    for device_id in due_devices(change.tx, change.now, deadlines(settings).longest() + 60.0):
        _look(change, device_by_id(change, device_id), settings)


def _look(change: Change, device: Row, settings: Settings, *, heard: str = "") -> None:
    found = claim(change, device["device_id"])
    if found is None or found.kept.run.state is not State.RUNNING:
        return
    run = found.kept.run
    units = units_seen(change, found.kept, device)
    if units is None:
        after = hitless.stop(run, change.now, "another pair")
    else:
        after = hitless.advance(run, units, change.now, deadlines(settings), heard=heard)
    if after != run:
        _moved(change, device, found, run, replace(found.kept, run=after), settings)


def _moved(
    change: Change, device: Row, found: Found, was: Run, kept: Kept, settings: Settings
) -> Found:
    """Write down where a run has come to, and what it asks of whom."""
    run, name = kept.run, device["name"]
    kept = replace(kept, wanted=_wanted(change, kept))
    if was.order is not None and run.late == was.order and was.order.kind is Kind.INSTALL:
        windows.take_back(change, was.order.by, was.order.number)
    if run.order is not None and run.order != was.order:
        if run.order.kind is Kind.INSTALL:
            windows.order_now(change, run.order.by, run.order.number)
        else:
            change.tx.run(
                "UPDATE device SET switch_number = :number WHERE device_id = :device",
                number=run.order.number,
                device=device["device_id"],
            )
    new = (
        run.lines[len(was.lines) :] if run.lines[: len(was.lines)] == was.lines else run.lines[-1:]
    )
    for line in new:
        if line.what != "started":
            change.journal(
                f"hitless_{line.what}",
                device=name,
                run=found.run_id,
                step=line.step,
                unit=line.unit,
                seen=line.seen,
            )
    if new:
        longest = deadlines(settings).longest()
        until = change.now + (longest + 60.0 if run.state is State.RUNNING else AFTERWARDS)
        kept = replace(kept, alarms_until=until)
        alarms.expect(
            change,
            device["device_id"],
            HITLESS_RUN,
            until=until,
            why=f"hitless installation {found.run_id}",
        )
        for serial in (run.first, run.other):
            change.hint(serial)
    keep(change, found.run_id, kept, hitless.next_timer(run))
    if run.state not in OPEN:
        for unit in units_of(change, device["device_id"]):
            settle_unit(change, unit)
    return replace(found, kept=kept, ended_at=None if run.state in OPEN else change.now)


def said_to(change: Change, unit: Row) -> Said:
    """Return what a run adds to the reply to a unit."""
    found = last_run(change.tx, unit["device_id"])
    if found is None:
        return Said()
    run, until = found.kept.run, found.kept.alarms_until
    said = Said(
        alarms_until=until if until > change.now else 0.0, running=run.state is State.RUNNING
    )
    order = run.order
    if order is None or order.by != unit["serial"]:
        return said
    if order.kind is Kind.INSTALL:
        return replace(said, restart_until=order.until)
    if order.number <= pair_of(report_of(unit)).switch_done:
        return said
    switch = SwitchOrder(number=order.number, to=order.unit, until=order.until)
    return replace(said, switch=switch)
