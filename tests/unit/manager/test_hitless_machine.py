"""A hitless run against everything at once: law 1, and never both units asked to restart."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from machines import machine
from pairmodel import Pair
from poolmodel import DAY, START, Model

from callpool.licensing.errors import LicenseError
from callpool.licensing.hitless import OPEN, State
from callpool.manager.hitless_store import open_run

UNITS = st.sampled_from(["P1", "P2"])
COUNTS = st.sampled_from([0, 3, 10, 20, 25])


class HitlessMachine(RuleBasedStateMachine):
    """A pair of 20 each, out of 50 that a single device wants as well."""

    def __init__(self) -> None:
        super().__init__()
        self.model = model = Model()
        model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=50)
        model.add("pair", "P1", "P2", apply="restart")
        model.add("a", "A1", apply="live")
        self.pair = Pair(model)
        model.allocate("pair", sbc_sessions=20)
        for serial in ("P1", "P2"):
            self.pair.call(serial)
            device = model.devices[serial]
            device.license = device.license.restarted(save=True)
            self.pair.call(serial)
        model.allocate("pair", sbc_sessions=10)

    def state(self) -> State | None:
        device_id = 1
        found = self.model.manager.database.read(lambda tx: open_run(tx, device_id))
        return found.kept.run.state if found else None

    def _refused(self, work: Any, *codes: str) -> None:
        try:
            work()
        except LicenseError as error:
            # The rules say no before the database has to.
            if error.code not in codes or "database" in error.sentence:
                raise

    @rule(serial=UNITS, lost=st.booleans())
    def call(self, serial: str, lost: bool) -> None:
        role = self.pair.role(serial)
        before = self.model.devices[serial].restart_done
        reply = self.pair.call(serial, lost=lost)
        if reply is not None and reply.restart and reply.restart.number > before:
            assert role == "redundant"
        asked = {s for s, n in self.pair.asked.items() if n > self.model.devices[s].restart_done}
        assert len(asked) <= 1

    @rule(most=st.integers(1, 4))
    def both_call(self, most: int) -> None:
        for _ in range(most):
            for serial in ("P1", "P2"):
                self.call(serial, False)

    @rule()
    def begin(self) -> None:
        self._refused(
            self.pair.begin,
            "hitless_open", "nothing_to_install", "no_active_unit", "restart_waits",
        )  # fmt: skip

    @rule(action=st.sampled_from(["stop", "resume", "roll_back", "close"]))
    def act(self, action: str) -> None:
        self._refused(
            lambda: self.pair.act(action),
            "no_hitless_run", "hitless_stopped", "hitless_running", "pool_exceeded",
        )  # fmt: skip

    @rule(name=st.sampled_from(["pair", "a"]), count=COUNTS)
    def allocate(self, name: str, count: int) -> None:
        self._refused(
            lambda: self.model.allocate(name, sbc_sessions=count),
            "pool_exceeded", "hitless_running",
        )  # fmt: skip
        self.model.poll("A1")

    @rule(serial=UNITS)
    def crash(self, serial: str) -> None:
        if not self.pair.down:
            self.pair.crash(serial)

    @precondition(lambda self: self.pair.down)
    @rule()
    def recover(self) -> None:
        for serial in list(self.pair.down):
            self.pair.recover(serial)

    @rule(synchronised=st.booleans())
    def synchronise(self, synchronised: bool) -> None:
        self.pair.synchronised = synchronised

    @rule()
    def restart_the_manager(self) -> None:
        self.model.reopen()

    @rule(seconds=st.sampled_from([1.0, 61.0, 301.0, DAY, 8 * DAY]))
    def pass_time(self, seconds: float) -> None:
        self.model.clock.advance(seconds)
        self.model.check()
        self.model.manager.sweep()

    @invariant()
    def conserved(self) -> None:
        self.model.check()
        self.model.check_tables()

    @invariant()
    def one_unit_serves(self) -> None:
        assert self.pair.active not in self.pair.down

    def teardown(self) -> None:
        # Once nothing goes wrong any more, an open run can be brought to its end.
        self.recover()
        self.pair.synchronised = True
        with contextlib.suppress(LicenseError):
            self.pair.act("resume")
        for _ in range(3):
            if self.state() not in OPEN:
                break
            self.pair.turns()
            self.model.clock.advance(400)
            self.model.manager.sweep()
            with contextlib.suppress(LicenseError):
                self.pair.act("resume")
        assert self.state() is None
        self.conserved()
        self.model.close()


def test_a_hitless_run_keeps_law_1_and_one_unit_serving_whatever_happens() -> None:
    run_state_machine_as_test(HitlessMachine, settings=machine(8, 25))


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_hitless_run_keeps_law_1_and_one_unit_serving_at_length() -> None:
    run_state_machine_as_test(HitlessMachine, settings=machine(200, 60))
