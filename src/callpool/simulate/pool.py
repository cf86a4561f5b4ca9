"""A pool and its devices through a script: one line a change, in order of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import msgspec

from callpool.licensing.admission import REASONS, SESSION_LIMIT, USER_LIMIT
from callpool.licensing.capacity import (
    FAR_END_USERS,
    LICENSE_TYPES,
    POOL_TYPES,
    SBC_SESSIONS,
    Capacity,
)
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager import inventory
from callpool.simulate import pool_script as sc
from callpool.simulate.pool_world import START, WITHOUT_END, Unit, World, make_world
from callpool.simulate.reading import refused

#: Digits of `at_seconds` behind the point.
_DIGITS: Final = 3
#: Why a device refuses what would exceed its Actual.
_LIMITS: Final = {SBC_SESSIONS: SESSION_LIMIT, FAR_END_USERS: USER_LIMIT}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What one device has after a change; each count per pool license type."""

    #: Seconds since the script's start.
    at_seconds: float
    device: str
    #: What the pool granted.
    remote: dict[str, int]
    #: What of it is applied.
    applied: dict[str, int]
    #: What the local key counts.
    local: dict[str, int]
    #: min(local + applied, maximum): what the device may carry.
    actual: dict[str, int]
    #: Whether Actual admits any session or user at all.
    in_service: bool
    #: Whether something received waits for a restart with save.
    pending_restart: bool
    #: The script's event, or what the clock brought.
    cause: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event that the product refuses; it changes nothing."""

    at_seconds: float
    #: The stable code.
    refused: str
    sentence: str
    #: The script's event.
    cause: str
    #: The device that the event names.
    device: str | None = None


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """Law 1 does not hold."""

    at_seconds: float
    violation: str


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """The last line."""

    #: How many times law 1 was checked, over all devices and in the database.
    checked: int
    violations: int


AnyLine = Line | Refusal | Violation | Total


class PoolSimulation:
    """One run of one script in one world."""

    def __init__(self, script: sc.PoolScript, world: World) -> None:
        """Set the stage: buy, share, enrol. Raises LicenseError `bad_script`."""
        self.script, self.world = script, world
        self._shown: dict[str, tuple[object, ...]] = {}
        if any(script.purchased.named().values()):
            world.order(script.purchased.named(), ends=START + WITHOUT_END)
        for name, shares in script.tenants.items():
            with _in_script(f"$.tenants.{name}"):
                world.tenant(name, shares.named())
        for index, device in enumerate(script.devices):
            with _in_script(f"$.devices[{index}]"):
                unit = world.add(
                    device.name,
                    device.tenant or inventory.DEFAULT_TENANT,
                    local=device.local.named(),
                    maximum=device.maximum.named(),
                    apply=device.apply,
                )
            unit.losses = [
                event.at_seconds
                for event in script.in_order()
                if isinstance(event, sc.ContactLost | sc.FactoryReset)
                and event.device == device.name
            ]

    def run(self) -> Iterator[AnyLine]:
        """Run the script from its start to its end."""
        self.world.settle()
        yield from self._changes("start")
        for event in self.script.in_order():
            yield from self._pass(event.at_seconds)
            yield from self._event(event)
        yield from self._pass(self.script.until_days * sc.DAY)
        yield Total(checked=self.world.checked, violations=self.world.violations)

    def _pass(self, end: float) -> Iterator[AnyLine]:
        """Let time pass up to `end`; what is due at `end` itself happens, before its events."""
        while True:
            at = self.world.next_due()
            if at > end:
                break
            before, waiting = self.world.clock.elapsed, self.world.waiting()
            ended = self.world.pass_to(at)
            own = dict.fromkeys(waiting - self.world.waiting(), "request_granted")
            own |= dict.fromkeys(ended, "lease_ended")
            yield from self._changes(self._brought(before), own)
        self.world.clock.elapsed = max(self.world.clock.elapsed, end)

    def _brought(self, before: float) -> str:
        """Return what time brought since `before` (seconds), as a cause."""
        now = self.world.clock.elapsed
        for cause, edges in (
            ("order_ended", [order.ends for order in self.world.orders]),
            ("order_began", [order.starts for order in self.world.orders]),
        ):
            if any(before < edge - START <= now for edge in edges):
                return cause
        return "reclaimed"

    def _changes(self, cause: str, own: Mapping[str, str] | None = None) -> Iterator[AnyLine]:
        """Return a line for each device that shows something else than before; check law 1.

        `own` has the causes of single devices, by name.
        """
        for sentence in self.world.check():
            yield Violation(at_seconds=self._at(), violation=sentence)
        for unit in self.world.units.values():
            line = self._line(unit, (own or {}).get(unit.name, cause))
            shown = (
                line.remote,
                line.applied,
                line.local,
                line.actual,
                line.in_service,
                line.pending_restart,
            )
            if shown != self._shown.get(unit.name):
                self._shown[unit.name] = shown
                yield line

    def _at(self) -> float:
        return round(self.world.clock.elapsed, _DIGITS)

    def _line(self, unit: Unit, cause: str) -> Line:
        time, held = self.world.time, unit.license
        leased = held.applied is not None and time < held.lease_end
        actual = held.actual_at(time)
        return Line(
            at_seconds=self._at(),
            device=unit.name,
            remote=_each(held.remote_at(time)),
            applied=_each(held.applied.at(time) if leased and held.applied else Capacity()),
            local=_each(held.local_at(time)),
            actual=_each(actual),
            in_service=bool(actual),
            pending_restart=held.pending,
            cause=cause,
        )

    # -- the script

    def _event(self, event: sc.AnyEvent) -> Iterator[AnyLine]:
        named = getattr(event, "device", None)
        waiting = self.world.waiting()
        try:
            self._do(event)
        except CallpoolError as error:
            yield Refusal(
                at_seconds=self._at(),
                refused=error.code,
                sentence=error.sentence,
                cause=event.do,
                device=named,
            )
        self.world.settle()
        now = self.world.waiting()
        own = dict.fromkeys(waiting - now, "request_granted") | dict.fromkeys(
            now - waiting, "waits"
        )
        if named in waiting:
            own.pop(named, None)  # its own event says what became of it
        for name in now - waiting:
            # A request that is queued is told, though nothing has moved yet.
            self._shown.pop(name, None)
        yield from self._changes(event.do, own)

    def _do(self, event: sc.AnyEvent) -> None:
        world = self.world
        match event:
            case sc.Order():
                ends = event.ends_at_seconds
                last = WITHOUT_END if isinstance(ends, msgspec.UnsetType) else ends
                world.order(sc.named(event), ends=START + last)
            case sc.TenantShare():
                world.share(event.tenant, sc.named(event))
            case sc.Allocate():
                world.allocate(event.device, sc.named(event), wait=event.wait)
            case sc.Remove():
                world.change(lambda c: inventory.remove_device(c, event.device))
            case _:
                self._on_device(event, self._unit(event.device))

    def _unit(self, name: str) -> Unit:
        unit = self.world.units.get(name)
        if unit is None:
            raise LicenseError("unknown_device", f"There is no device named {name[:64]!r}.")
        return unit

    def _on_device(self, event: sc.AnyEvent, unit: Unit) -> None:
        held = unit.license
        match event:
            case sc.Active():
                self._active(unit, sc.named(event))
            case sc.ContactLost():
                unit.in_contact = False
            case sc.ContactBack():
                unit.in_contact = True
                if not unit.enrolled:
                    self.world.enrol(unit)
                self.world.contact(unit, "retry")
            case sc.Restart():
                unit.license = held.restarted(save=event.save)
                if unit.reaches:
                    self.world.contact(unit, "restart")
            case sc.FactoryReset():
                self.world.reset(unit)
            case sc.NewLocalKey():
                unit.license = replace(held, local=Capacity.of(sc.named(event)))
        unit.changed = True

    def _active(self, unit: Unit, counts: Mapping[str, int]) -> None:
        """Set what is in progress; raises LicenseError where the gate would not admit it.

        Calls in progress may exceed a cap that was lowered; new ones never do.
        """
        actual = unit.license.actual_at(self.world.time)
        for name, count in counts.items():
            if count > max(actual.get(name), unit.in_use.get(name, 0)):
                raise LicenseError(
                    _LIMITS[name],
                    f"{unit.name} admits {actual.get(name)} {LICENSE_TYPES[name].label}, "
                    f"not {count}: {REASONS[_LIMITS[name]]}.",
                )
        unit.in_use = {**unit.in_use, **counts}
        if unit.reaches:
            # Told at once: a real device does so within a second while a request waits for it.
            self.world.contact(unit, "poll")


def _each(counts: Capacity) -> dict[str, int]:
    return {name: counts.get(name) for name in POOL_TYPES}


class _in_script:
    """Turn what the manager refuses while the stage is set into a refusal of the script."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, LicenseError):
            raise refused(self._place, error.sentence) from error


def run_script(script: sc.PoolScript) -> Iterator[AnyLine]:
    """Run a script in a world of its own.

    Raises LicenseError `bad_script` where the stage cannot be set, CallpoolError
    `law_violated` after the last line where law 1 did not hold, OSError.
    """
    with make_world() as world:
        yield from PoolSimulation(script, world).run()
        if world.violations:
            raise CallpoolError(
                "law_violated", f"Law 1 did not hold {world.violations} times; see the lines above."
            )


__all__ = ["AnyLine", "Line", "PoolSimulation", "Refusal", "Total", "Violation", "run_script"]
