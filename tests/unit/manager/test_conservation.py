"""Law 1 against devices that may use whatever grant they hold, by the real device rules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from poolmodel import DAY, START, Model, ModelDevice

from callpool.licensing.errors import LicenseError
from callpool.manager import inventory

SERIALS = ("A1", "B1", "C1", "H1", "H2")
NAMES = ("a", "b", "c", "h")
TYPES = ("sbc_sessions", "far_end_users")

serials = st.sampled_from(SERIALS)
names = st.sampled_from(NAMES)
counts = st.sampled_from([0, 1, 2, 5, 8, 10, 12, 20])


@contextlib.contextmanager
def may_be_refused(*codes: str) -> Iterator[None]:
    try:
        yield
    except LicenseError as error:
        # The rules say no before the database has to.
        if error.code not in codes or "database" in error.sentence:
            raise


class Pool(RuleBasedStateMachine):
    """Operators, devices, a network that loses and delays, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        model = self.model
        model.tenant("east")
        model.tenant("west")
        model.order(starts=START - DAY, ends=START + 20 * DAY, sbc_sessions=20, far_end_users=10)
        model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=10)
        for tenant, share in (("east", 14), ("west", 10)):
            self._shares(tenant, {"sbc_sessions": share})
        model.add("a", "A1", tenant="east", apply="live")
        model.add("b", "B1", tenant="east", apply="restart")
        model.add("c", "C1", tenant="west", apply="restart")
        model.add("h", "H1", "H2", apply="live")

    def _shares(self, tenant: str, shares: dict[str, Any]) -> None:
        self.model.change(lambda c: inventory.set_shares(c, tenant, shares))
        self.model.shares[tenant].update(shares)

    def _device(self, serial: str) -> ModelDevice:
        return self.model.devices[serial]

    @rule(first=serials, second=serials, name=names, other=names, count=counts, more=counts)
    def move(self, first: str, second: str, name: str, other: str, count: int, more: int) -> None:
        """Take from one, give to another, with contacts in between or not."""
        for kind in TYPES:
            self.allocate(name, kind, count)
            self.poll(first)
            self.allocate(other, kind, more)
            self.poll(second)

    @rule(name=names, kind=st.sampled_from(TYPES), count=counts)
    def allocate(self, name: str, kind: str, count: int) -> None:
        with may_be_refused("pool_exceeded", "tenant_exceeded"):
            self.model.allocate(name, **{kind: count})

    @rule(serial=serials)
    def poll(self, serial: str) -> None:
        self._ask(serial)
        self.model.deliver(self._device(serial))

    @rule(serial=serials)
    def ask(self, serial: str) -> None:
        self._ask(serial)

    def _ask(self, serial: str) -> None:
        device = self._device(serial)
        if device.locked:
            return
        if device.asked is not None and device.answered is None:
            # A device whose reply was lost repeats its request, and gets the same reply.
            self.model.send(device, device.asked)
        else:
            self.model.deliver(device)
            self.model.ask(device)
        assert not device.locked

    @rule(serial=serials)
    def deliver(self, serial: str) -> None:
        self.model.deliver(self._device(serial))

    @rule(serial=serials)
    def lose(self, serial: str) -> None:
        self.model.lose(self._device(serial))

    @rule(serial=serials, save=st.booleans())
    def restart(self, serial: str, save: bool) -> None:
        device = self._device(serial)
        self.model.tick(device)
        device.license = device.license.restarted(save=save)

    @rule(serial=serials, part=st.floats(0, 1))
    def carry_calls(self, serial: str, part: float) -> None:
        device = self._device(serial)
        most = self.model.may_use(device, "sbc_sessions")
        device.in_use = {"sbc_sessions": int(part * most)}

    @rule(seconds=st.sampled_from([1.0, 60.0, 3600.0, DAY, 5 * DAY, 8 * DAY]))
    def pass_time(self, seconds: float) -> None:
        # In small steps: the law holds at every moment on the way.
        for _ in range(3):
            self.model.clock.advance(seconds / 3)
            self.model.check()
        self.model.manager.sweep()
        self.model.check()

    @precondition(lambda self: len(self.model.orders) < 5)
    @rule(
        count=st.integers(1, 20),
        starts=st.sampled_from([-1, 0, 5]),
        days=st.sampled_from([3, 12, 300]),
        kind=st.sampled_from(TYPES),
    )
    def buy(self, count: int, starts: int, days: int, kind: str) -> None:
        now = self.model.clock.wall
        begin = now + starts * DAY
        self.model.order(starts=begin, ends=now + (days + max(0, starts)) * DAY, **{kind: count})

    @rule(tenant=st.sampled_from(["east", "west"]), share=st.integers(0, 25) | st.none())
    def share(self, tenant: str, share: int | None) -> None:
        with may_be_refused("pool_exceeded", "share_below_held"):
            self._shares(tenant, {"sbc_sessions": share})

    @invariant()
    def conserved(self) -> None:
        self.model.check()

    def teardown(self) -> None:
        self.model.close()


TestPool = Pool.TestCase
TestPool.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
