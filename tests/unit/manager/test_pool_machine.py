"""Law 1 against everything at once: operators, devices, lost contact, crashes, restores.

One machine of the manager's real transactions and the real device rules. After every step no
device can carry more than what is purchased and in date, in total and in each tenant, and the
tables, summed anew, agree with their own constraints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

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
from poolmodel import DAY, START, Model, ModelDevice

from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager import inventory, requests
from callpool.manager.change import Change
from callpool.manager.restored import restored

NAMES = {"a": ("A1",), "b": ("B1",), "c": ("C1",), "h": ("H1", "H2")}
TENANTS = ("default", "east", "west")
TYPES = ("sbc_sessions", "far_end_users")

serials = st.sampled_from([serial for units in NAMES.values() for serial in units])
names = st.sampled_from(sorted(NAMES))
counts = st.sampled_from([0, 1, 2, 5, 8, 12, 20])


class Killed(Exception):
    """The manager's process is gone before its transaction is committed."""


@contextlib.contextmanager
def may_be_refused(*codes: str) -> Iterator[None]:
    try:
        yield
    except LicenseError as error:
        # The rules say no before the database has to.
        if error.code not in codes or "database" in error.sentence:
            raise


class Fleet(RuleBasedStateMachine):
    """A manager that crashes and is restored; devices that come and go, reset and restart."""

    def __init__(self) -> None:
        super().__init__()
        self.model = model = Model()
        self.copies: list[Path] = []
        #: Devices that a power cut has ever made forget the request under way.
        self.cut: set[str] = set()
        for tenant in ("east", "west"):
            model.tenant(tenant)
        model.order(starts=START - DAY, ends=START + 20 * DAY, sbc_sessions=20, far_end_users=10)
        model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=10)
        for tenant, share in (("east", 14), ("west", 10)):
            self._shares(tenant, {"sbc_sessions": share})
        model.add("a", "A1", tenant="east", apply="live")
        model.add("b", "B1", tenant="east", apply="restart")
        model.add("c", "C1", tenant="west", apply="restart")
        model.add("h", "H1", "H2", apply="live")

    def _shares(self, tenant: str, shares: dict[str, int | None]) -> None:
        self.model.change(lambda c: inventory.set_shares(c, tenant, shares))
        self.model.shares[tenant].update(shares)
        for kind, share in shares.items():
            known = self.model.most_shares
            known[tenant, kind] = max(known[tenant, kind], share or 0)

    def _device(self, serial: str) -> ModelDevice:
        return self.model.devices[serial]

    # -- operators

    @rule(name=names, kind=st.sampled_from(TYPES), count=counts)
    def allocate(self, name: str, kind: str, count: int) -> None:
        with may_be_refused(
            "pool_exceeded",
            "tenant_exceeded",
            "unknown_device",
            "manager_restored",
            "requests_waiting",
        ):
            self.model.allocate(name, **{kind: count})

    @rule(name=names, kind=st.sampled_from(TYPES), count=counts)
    def wait_for(self, name: str, kind: str, count: int) -> None:
        with may_be_refused(
            "pool_exceeded", "tenant_exceeded", "unknown_device", "manager_restored"
        ):
            self.model.change(
                lambda c: requests.allocate_or_wait(
                    c, inventory.device_by_name(c, name), {kind: count}
                )
            )

    @rule(tenant=st.sampled_from(["east", "west"]), share=st.integers(0, 25) | st.none())
    def share(self, tenant: str, share: int | None) -> None:
        with may_be_refused("pool_exceeded", "share_below_held"):
            self._shares(tenant, {"sbc_sessions": share})

    @rule(name=names, tenant=st.sampled_from(TENANTS))
    def move(self, name: str, tenant: str) -> None:
        with may_be_refused("tenant_exceeded", "unknown_device"):
            self.model.change(
                lambda c: inventory.change_device(c, name, tenant=tenant, apply=None, mode=None)
            )
            for serial in NAMES[name]:
                self._device(serial).tenant = tenant

    @rule(name=names)
    def remove(self, name: str) -> None:
        with may_be_refused("unknown_device"):
            self.model.change(lambda c: inventory.remove_device(c, name))

    @rule(name=names, tenant=st.sampled_from(TENANTS), apply=st.sampled_from(["live", "restart"]))
    def add_again(self, name: str, tenant: str, apply: str) -> None:
        with may_be_refused("device_exists", "duplicate_serial", "serial_still_holds"):
            self.model.change(
                lambda c: inventory.add_device(c, name, list(NAMES[name]), tenant, apply)
            )
            for serial in NAMES[name]:
                self._device(serial).tenant = tenant

    @precondition(lambda self: len(self.model.orders) < 5)
    @rule(
        count=st.integers(1, 20),
        starts=st.sampled_from([-1, 0, 5]),
        days=st.sampled_from([3, 12, 300]),
        kind=st.sampled_from(TYPES),
    )
    def buy(self, count: int, starts: int, days: int, kind: str) -> None:
        now = self.model.clock.wall
        ends = now + (days + max(0, starts)) * DAY
        self.model.order(starts=now + starts * DAY, ends=ends, **{kind: count})

    # -- devices and the network

    @rule(serial=serials)
    def poll(self, serial: str) -> None:
        self._ask(serial)
        self.model.deliver(self._device(serial))

    @rule(serial=serials)
    def ask(self, serial: str) -> None:
        self._ask(serial)

    def _ask(self, serial: str) -> None:
        device = self._device(serial)
        if device.locked or not device.enrolled:
            return
        self.model.call(device)
        # Two replies lost to power cuts look like a clone; nothing else may.
        assert serial in self.cut or not device.locked

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

    @rule(serial=serials)
    def crash(self, serial: str) -> None:
        """A power cut on the device: the request under way is gone, its flash is not."""
        device = self._device(serial)
        device.answered = device.asked = None
        self.cut.add(serial)

    @rule(serial=serials, told=st.booleans())
    def factory_reset(self, serial: str, told: bool) -> None:
        """Everything but serial number and versions is dropped, heard by the manager or not."""
        self.model.reset(self._device(serial), told=told)

    @rule(serial=serials)
    def enrol_anew(self, serial: str) -> None:
        """An operator unlocks it and lets it enrol anew, after a factory reset or without one."""
        with may_be_refused("unknown_serial"):
            self.model.enrol(serial, self._device(serial).tenant)

    @rule(serial=serials, part=st.floats(0, 1))
    def carry_calls(self, serial: str, part: float) -> None:
        device = self._device(serial)
        device.in_use = {"sbc_sessions": int(part * self.model.may_use(device, "sbc_sessions"))}

    # -- the manager

    @rule(name=names, kind=st.sampled_from(TYPES), count=counts, serial=serials)
    def kill_the_manager(self, name: str, kind: str, count: int, serial: str) -> None:
        """It dies in the middle of a change: nothing of it is on disk, nothing was answered."""

        def dies(change: Change) -> None:
            device = inventory.device_by_name(change, name)
            change.tx.run(
                "UPDATE allocation SET target = :count WHERE device_id = :device",
                count=count,
                device=device["device_id"],
            )
            inventory.remove_device(change, name)
            raise Killed

        with contextlib.suppress(Killed), may_be_refused("unknown_device"):
            self.model.change(dies)
        self.model.reopen()
        self.model.lose(self._device(serial))

    @rule(number=st.integers(0, 3))
    def lose_the_journals_end(self, number: int) -> None:
        """It dies after a commit and before the journal's line is whole: the answer is lost."""
        killed = CallpoolError("grant_journal_unusable", "killed")
        device = self._device(("A1", "B1", "C1", "H1")[number])
        if device.enrolled and not device.locked and device.asked is None:
            with (
                patch.object(self.model.manager.grants, "written", side_effect=killed),
                contextlib.suppress(CallpoolError),
            ):
                self.model.ask(device)
        with self.model.manager.layout.grants.open("ab") as file:
            file.write(b'{"number":')
        self.model.reopen()

    @precondition(lambda self: len(self.copies) < 3)
    @rule()
    def back_up(self) -> None:
        self.copies.append(self.model.backup())

    @precondition(lambda self: self.copies)
    @rule(number=st.integers(0, 2))
    def restore(self, number: int) -> None:
        self.model.reopen(self.copies[number % len(self.copies)])
        # The backup may know a device in another tenant, or a tenant's name for no device.
        self.model.tenants_as_known()

    @rule(
        first=names,
        second=names,
        kind=st.sampled_from(TYPES),
        count=counts,
        callers=st.lists(serials, max_size=6),
        seconds=st.sampled_from([1.0, DAY, 8 * DAY]),
    )
    def restore_after_a_move(
        self, first: str, second: str, kind: str, count: int, callers: list[str], seconds: float
    ) -> None:
        """What one had at the backup another has now; some call before and after."""
        copy = self.model.backup()
        self.allocate(first, kind, 0)
        for serial in [s for s in NAMES[first] for _ in range(3)]:
            self.restart(serial, save=True)
            self.poll(serial)
        self.allocate(second, kind, count)
        for serial in NAMES[second]:
            self.poll(serial)
        self.model.check()
        self.model.reopen(copy)
        self.model.tenants_as_known()
        for serial in callers:
            self.poll(serial)
            self.model.check()
        self.allocate(first, kind, count)
        self.pass_time(seconds)
        for serial in reversed(callers):
            self.poll(serial)
            self.model.check()

    @rule(seconds=st.sampled_from([1.0, 60.0, 3600.0, DAY, 5 * DAY, 8 * DAY]))
    def pass_time(self, seconds: float) -> None:
        # In small steps: the law holds at every moment on the way.
        for _ in range(3):
            self.model.clock.advance(seconds / 3)
            self.model.check()
        self.model.manager.sweep()
        self.model.check()

    @invariant()
    def conserved(self) -> None:
        self.model.check()
        self.model.check_tables()

    @precondition(lambda self: self.model.manager.database.read(restored) is not None)
    @invariant()
    def nothing_is_free_while_restored(self) -> None:
        with contextlib.suppress(CallpoolError):
            self.model.allocate("a", sbc_sessions=30)
            raise AssertionError("a restored manager gave")

    def teardown(self) -> None:
        self.model.close()


def test_law_1_holds_whatever_happens() -> None:
    run_state_machine_as_test(Fleet, settings=machine(8, 25))


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_law_1_holds_whatever_happens_at_length() -> None:
    run_state_machine_as_test(Fleet, settings=machine(200, 60))
