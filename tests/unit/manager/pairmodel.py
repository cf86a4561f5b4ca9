"""An HA pair on the model: two units that report how they see each other, and do as asked."""

from __future__ import annotations

from poolmodel import Model, ModelDevice

from callpool.licensing.hitless import State
from callpool.manager import hitless_runs, inventory
from callpool.manager.hitless_store import Found, last_run
from callpool.wire.messages import ContactReply, PairReport

S = "sbc_sessions"


class Pair:
    """Both units; `down` ones do not call."""

    def __init__(self, model: Model, name: str = "pair", first: str = "P1", other: str = "P2"):
        self.model, self.name = model, name
        self.first, self.other = first, other
        self.active: str = first
        self.down: set[str] = set()
        self.synchronised = True
        self.switches = {first: (0, ""), other: (0, "")}
        #: Restarts that a unit was asked for and has not reported: (unit, number).
        self.asked: dict[str, int] = {}
        self.replies: list[tuple[str, ContactReply]] = []

    def peer(self, serial: str) -> str:
        return self.other if serial == self.first else self.first

    def device(self, serial: str) -> ModelDevice:
        return self.model.devices[serial]

    def role(self, serial: str) -> str:
        if serial != self.active:
            return "redundant"
        return "alone" if self.peer(serial) in self.down else "active"

    def call(self, serial: str, *, lost: bool = False, obeys: bool = True) -> ContactReply | None:
        """Let a unit call and do what it is asked."""
        if serial in self.down:
            return None
        device = self.device(serial)
        done, result = self.switches[serial]
        device.pair = PairReport(
            peer=self.peer(serial),
            role=self.role(serial),
            synchronised=self.synchronised and not self.down,
            peer_age=0.5,
            switch_done=done,
            switch_result=result,
        )
        if self.asked.get(serial, 0) <= device.restart_done:
            self.asked.pop(serial, None)
        self.model.clock.advance(0.1)
        self.model.call(device)
        if lost:
            self.model.lose(device)
            return None
        reply = self.model.deliver(device)
        if reply is None:  # what is repeated too late is refused for its time
            return None
        self.replies.append((serial, reply))
        if reply.restart is not None:
            self.asked[serial] = reply.restart.number
        if obeys:
            self.obey(serial, reply)
        return reply

    def obey(self, serial: str, reply: ContactReply) -> None:
        device = self.device(serial)
        now = self.model.clock.wall
        order = reply.restart
        new = order is not None and order.number > device.restart_done
        if order is not None and new and (not order.until or now < order.until):
            device.restart_done = order.number
            device.license = device.license.restarted(save=order.save)
        switch = reply.switch
        if switch is not None and switch.number > self.switches[serial][0] and now < switch.until:
            if serial == self.active and self.synchronised and not self.down:
                self.active = switch.to
                self.switches[serial] = (switch.number, "done")
            else:
                self.switches[serial] = (switch.number, "refused: not synchronised")

    def crash(self, serial: str) -> None:
        self.down.add(serial)
        self.model.lose(self.device(serial))
        if self.active == serial and self.peer(serial) not in self.down:
            self.active = self.peer(serial)

    def recover(self, serial: str) -> None:
        self.down.discard(serial)
        if self.active in self.down:
            self.active = serial

    def turns(self, most: int = 30) -> State:
        """Let both call in turn until the run is over, or stands."""
        for _ in range(most):
            if self.run().kept.run.state is not State.RUNNING:
                break
            for serial in (self.first, self.other):
                self.call(serial)
        return self.run().kept.run.state

    def run(self) -> Found:
        found = self.model.manager.database.read(
            lambda tx: last_run(
                tx,
                tx.value("SELECT device_id FROM device WHERE name = :name", name=self.name),
            )
        )
        assert found is not None
        return found

    def begin(self) -> Found:
        return self.model.change(
            lambda c: hitless_runs.begin(
                c, inventory.device_by_name(c, self.name), self.model.manager.settings
            )
        )

    def act(self, action: str) -> Found:
        return self.model.change(
            lambda c: hitless_runs.act(
                c, inventory.device_by_name(c, self.name), action, self.model.manager.settings
            )
        )

    def runs(self, serial: str, kind: str = S) -> int:
        device = self.device(serial)
        return device.license.actual_at(device.time(self.model.clock)).get(kind)
