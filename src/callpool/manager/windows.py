"""Restart windows: a restart that waits for its hour of the day.

The order is handed out only while the window is open (UTC, daily): when it opens, connected
units are hinted and fetch it; a unit that is away gets it at its first contact inside any later
opening. The wish ends when every unit has reported its restart, or with `cancel`.
One wish a device, kept in `meta` under its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from callpool.licensing.errors import LicenseError
from callpool.manager.change import Change
from callpool.manager.hitless_store import check_none_runs
from callpool.manager.inventory import device_by_name
from callpool.manager.ledger import units_of
from callpool.manager.store.tx import Row, Tx
from callpool.wire.messages import RestartOrder

_DAY: Final = 86_400
_NAME: Final = "restart_window:"
#: The names of all wishes lie below this one: ';' follows ':'.
_AFTER: Final = "restart_window;"
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Window(msgspec.Struct, frozen=True):
    """A time of day, UTC: seconds after midnight; an end before the begin lies on the next day."""

    begins: int
    ends: int

    def __str__(self) -> str:
        return "-".join(f"{s // 3600:02}:{s % 3600 // 60:02}" for s in (self.begins, self.ends))

    def opened(self, now: float) -> float:
        """Return when the window that is open at `now`, or the last before it, opened."""
        return now - (now - self.begins) % _DAY

    def is_open(self, now: float) -> bool:
        """Tell whether `now` (seconds since 1970) lies inside the window."""
        return now - self.opened(now) < (self.ends - self.begins) % _DAY

    def closes(self, now: float) -> float:
        """Return when the window that is open at `now` closes, seconds since 1970."""
        return self.opened(now) + (self.ends - self.begins) % _DAY

    def opens(self, now: float) -> float:
        """Return when the window opens next after `now`, seconds since 1970."""
        return self.opened(now) + _DAY


def parse(text: str) -> Window:
    """Read `HH:MM-HH:MM` (UTC); raises LicenseError `bad_window`."""
    match = _HOURS.fullmatch(text)
    if match is None:
        raise LicenseError(
            "bad_window", f"A window is HH:MM-HH:MM (UTC), such as 02:00-04:30, not {text[:40]!r}."
        )
    hour, minute, end_hour, end_minute = (int(part) for part in match.groups())
    window = Window(hour * 3600 + minute * 60, end_hour * 3600 + end_minute * 60)
    if window.begins == window.ends:
        raise LicenseError("bad_window", "A window ends at another time than it begins.")
    return window


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A restart that was asked for in a window."""

    window: Window
    #: Whether the restart applies what was received.
    save: bool
    #: When it was asked for, the manager's time.
    asked_at: float
    #: When connected units are hinted next, the manager's time.
    hints_at: float
    #: The number of the last restart that each unit had been asked for before.
    numbers: dict[str, int]
    #: Kept for units that have been given their order and may not have carried it out: it goes
    #: out no more.
    cancelled: bool = False

    def open(self, now: float) -> bool:
        """Tell whether orders may go out."""
        return not self.cancelled and self.window.is_open(now)

    def given(self, unit: Row) -> bool:
        """Tell whether the unit has been handed its order."""
        return bool(unit["restart_number"] > self.numbers.get(unit["serial"], 0))

    def done(self, unit: Row) -> bool:
        """Tell whether the unit has nothing to do any more."""
        carried_out = _done(unit) >= unit["restart_number"]
        return bool(carried_out and (self.cancelled or self.given(unit)))


def wish_of(tx: Tx, device_id: int) -> Wish | None:
    """Return a device's wish that waits, or None."""
    kept = tx.meta(f"{_NAME}{device_id}")
    return msgspec.json.decode(kept, type=Wish) if kept else None


def _wishes(tx: Tx) -> dict[int, Wish]:
    return {
        int(r["name"].removeprefix(_NAME)): msgspec.json.decode(r["value"], type=Wish)
        for r in tx.rows(
            "SELECT name, value FROM meta WHERE name > :first AND name < :last",
            first=_NAME,
            last=_AFTER,
        )
    }


def _keep(change: Change, device_id: int, wish: Wish) -> None:
    change.tx.set_meta(f"{_NAME}{device_id}", msgspec.json.encode(wish).decode())


def drop(change: Change, device_id: int) -> bool:
    """Forget a device's wish; returns whether there was one."""
    return bool(change.tx.run("DELETE FROM meta WHERE name = :name", name=f"{_NAME}{device_id}"))


def ask(change: Change, device: Row, window: Window, *, save: bool) -> None:
    """Ask for a restart in a window; it takes the place of an earlier wish.

    Raises LicenseError `hitless_running`.
    """
    check_none_runs(change, device)
    units = units_of(change, device["device_id"])
    wish = Wish(
        window=window,
        save=save,
        asked_at=change.now,
        hints_at=change.now if window.is_open(change.now) else window.opens(change.now),
        numbers={u["serial"]: u["restart_number"] for u in units},
    )
    _keep(change, device["device_id"], wish)
    # Each learns when to call: one without a stream of hints would miss the opening.
    for unit in units:
        change.hint(unit["serial"])
    change.journal("restart_window_asked", device=device["name"], window=str(window), save=save)


def restart_now(change: Change, name: str, *, save: bool) -> None:
    """Ask a device's units to restart their SIP service, each once, in place of what waits.

    With `save` what was received is applied by it. Raises LicenseError as `device_by_name`,
    `hitless_running`.
    """
    device = device_by_name(change, name)
    check_none_runs(change, device)
    drop(change, device["device_id"])
    for unit in units_of(change, device["device_id"]):
        _number(change, unit, _done(unit), save=save)
        change.hint(unit["serial"])
    change.journal("restart_asked", device=name, save=save)


def _done(unit: Row) -> int:
    """Return the number of the last restart that a unit has reported to have carried out."""
    report = msgspec.json.decode(unit["report"]) if unit["report"] else {}
    return int(report.get("restart_done", 0))


def _number(change: Change, unit: Row, done: int, *, save: bool) -> int:
    """Give a unit its next restart, above every number that it has carried out.

    A database that was restored from a backup may know of fewer.
    """
    number = max(int(unit["restart_number"]), int(unit["restart_issued"]), done) + 1
    _issue(change, unit["serial"], number, save=save)
    return number


def _issue(change: Change, serial: str, number: int, *, save: bool) -> None:
    change.tx.run(
        "UPDATE unit SET restart_number = :number, restart_save = :save, restart_issued = :number"
        " WHERE serial = :serial",
        number=number,
        save=save,
        serial=serial,
    )


def order_now(change: Change, serial: str, number: int) -> None:
    """Ask one unit for a restart with save, by a number above all before (a hitless run's)."""
    _issue(change, serial, number, save=True)
    change.hint(serial)


def take_back(change: Change, serial: str, number: int) -> None:
    """Offer a unit its restart `number` no more; what was sent may still be carried out."""
    row = change.tx.row("SELECT * FROM unit WHERE serial = :serial", serial=serial)
    if row is not None and row["restart_number"] == number:
        change.tx.run(
            "UPDATE unit SET restart_number = :done WHERE serial = :serial",
            done=min(number, _done(row)),
            serial=serial,
        )


def cancel(change: Change, device: Row) -> list[str]:
    """Cancel a wish; returns the units that have been given their order and may carry it out.

    Raises LicenseError `no_restart_waits`.
    """
    device_id = device["device_id"]
    wish = wish_of(change.tx, device_id)
    if wish is None or wish.cancelled:
        raise LicenseError(
            "no_restart_waits", f"No restart of {device['name']} waits for a window."
        )
    units = units_of(change, device_id)
    given = [u["serial"] for u in units if wish.given(u) and not wish.done(u)]
    if given:
        _keep(change, device_id, msgspec.structs.replace(wish, cancelled=True))
    else:
        drop(change, device_id)
    change.journal("restart_window_cancelled", device=device["name"], given=given)
    return given


def due(change: Change) -> bool:
    """Tell whether a window has opened, or the clock was set back by more than a day."""
    return any(
        wish.hints_at <= change.now or wish.hints_at > change.now + _DAY
        for wish in _wishes(change.tx).values()
    )


def sweep(change: Change) -> None:
    """Hint the units whose window has opened, once an opening."""
    for device_id, wish in _wishes(change.tx).items():
        if change.now < wish.hints_at <= change.now + _DAY:
            continue
        units = units_of(change, device_id)
        if not units:  # its device was removed
            drop(change, device_id)
            continue
        if wish.open(change.now):
            for unit in units:
                if not wish.done(unit):
                    change.hint(unit["serial"])
        _keep(
            change,
            device_id,
            msgspec.structs.replace(wish, hints_at=wish.window.opens(change.now)),
        )


def order_for(change: Change, unit: Row, restart_done: int) -> RestartOrder | None:
    """Return the restart that a unit in contact is to carry out now, or None.

    `restart_done` is the number of the last one that it has carried out. A wish ends once every
    unit of its device has reported its restart.
    """
    number, save, until = unit["restart_number"], bool(unit["restart_save"]), 0.0
    wish = wish_of(change.tx, unit["device_id"])
    if wish is not None and all(wish.done(u) for u in units_of(change, unit["device_id"])):
        drop(change, unit["device_id"])
        if not wish.cancelled:
            change.journal("restart_window_done", serial=unit["serial"], window=str(wish.window))
    elif wish is not None:
        if not wish.open(change.now):
            return None
        until = wish.window.closes(change.now)
        if not wish.given(unit):
            save = wish.save
            number = _number(change, unit, restart_done, save=save)
            change.journal("restart_ordered", serial=unit["serial"], window=str(wish.window))
    if number <= restart_done:
        return None
    return RestartOrder(number=number, save=save, until=until)


def calls_within(change: Change, unit: Row) -> float | None:
    """Return the seconds in which a unit is to call for its order, None where none waits."""
    wish = wish_of(change.tx, unit["device_id"])
    if wish is None or wish.cancelled or wish.done(unit) or wish.open(change.now):
        return None
    return wish.window.opens(change.now) - change.now + 1.0


def shown(tx: Tx, now: float, ids: Iterable[int] | None = None) -> dict[int, dict[str, Any]]:
    """Return the wishes that wait, all or those of some devices, by their device's number."""
    out = {}
    found = _wishes(tx) if ids is None else {i: wish_of(tx, i) for i in ids}
    for device_id, wish in found.items():
        if wish is None or wish.cancelled:
            continue
        units = tx.rows(
            "SELECT * FROM unit WHERE device_id = :device AND state = 'active' ORDER BY role",
            device=device_id,
        )
        is_open = wish.open(now)
        out[device_id] = {
            "window": str(wish.window),
            "save": wish.save,
            "asked_at": wish.asked_at,
            "open": is_open,
            "opens": wish.window.opened(now) if is_open else wish.window.opens(now),
            "waits_for": [u["serial"] for u in units if not wish.done(u)],
        }
    return out
