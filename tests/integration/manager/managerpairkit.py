"""An HA pair by the real signed protocol: two small units that do as the manager asks."""

from __future__ import annotations

from typing import Any

from managerkit import Device, Running

from callpool.wire.messages import ContactReply, PairReport

S = "sbc_sessions"


class Unit:
    """One unit; what it received is applied by a restart with save."""

    def __init__(self, manager: Running, serial: str) -> None:
        self.serial = serial
        self.device: Device = manager.device(serial)
        #: The pool's sessions by grant version, and the last switchover carried out.
        self.counts: dict[int, int] = {0: 0}
        self.switch: tuple[int, str] = (0, "")
        #: Restarts that it was asked for and has not reported.
        self.asked = 0

    @property
    def runs(self) -> int:
        return self.counts[self.device.applied]

    @property
    def may_use(self) -> int:
        """The most it could carry now, whether it restarts or not."""
        return max(self.runs, self.counts[self.device.remote])


class Pair:
    """Both units, and which of them is active."""

    def __init__(self, manager: Running, name: str, first: str, other: str, **more: Any) -> None:
        self.name = name
        manager.add(name, first, other, **more)
        self.units = {serial: Unit(manager, serial) for serial in (first, other)}
        self.first, self.other, self.active = first, other, first
        self.down: set[str] = set()
        self.most_asked = 0

    def peer(self, serial: str) -> str:
        return self.other if serial == self.first else self.first

    def call(self, serial: str, **over: Any) -> ContactReply | None:
        """Let a unit call, and do what it is asked; one that is down does nothing."""
        if serial in self.down:
            return None
        unit, device = self.units[serial], self.units[serial].device
        role = "redundant" if serial != self.active else "alone" if self.down else "active"
        told = PairReport(
            peer=self.peer(serial),
            role=role,
            synchronised=not self.down,
            peer_age=0.2,
            switch_done=unit.switch[0],
            switch_result=unit.switch[1],
        )
        reply = device.contact(apply=False, pair=told, actual={S: unit.runs}, **over)
        unit.asked = 0 if device.restart_done >= unit.asked else unit.asked
        if reply.grant is not None:
            unit.counts[reply.grant.version] = device.counts(reply).get(S, 0)
            if unit.counts[reply.grant.version] == unit.runs:
                device.applied = reply.grant.version
        self.obey(unit, reply)
        return reply

    def obey(self, unit: Unit, reply: ContactReply) -> None:
        device, restart, switch = unit.device, reply.restart, reply.switch
        if restart is not None and restart.number > device.restart_done:
            unit.asked = restart.number
            self.most_asked = max(self.most_asked, sum(u.asked > 0 for u in self.units.values()))
            assert unit.serial != self.active
            device.restart_done = restart.number
            device.applied = device.remote if restart.save else device.applied
        if switch is not None and switch.number > unit.switch[0]:
            assert unit.serial == self.active
            # As a real unit: it hands over to nobody that it does not hear.
            unit.switch = (switch.number, "refused: it is not heard" if self.down else "done")
            self.active = unit.serial if self.down else switch.to

    def crash(self, serial: str) -> None:
        self.down.add(serial)
        if serial == self.active:
            self.active = self.peer(serial)

    def settle(self) -> None:
        """Let both receive what they are given, and apply it as a first start does."""
        for serial, unit in self.units.items():
            self.call(serial)
            unit.device.applied = unit.device.remote
            self.call(serial)

    def moved(self, manager: Running) -> None:
        for unit in self.units.values():
            unit.device.moved(manager)

    def state(self) -> tuple[str, int, int]:
        return (self.active, self.units[self.first].runs, self.units[self.other].runs)


def law_1(pairs: list[Pair], purchased: int) -> None:
    """What all units could carry now is purchased."""
    assert sum(u.may_use for pair in pairs for u in pair.units.values()) <= purchased
