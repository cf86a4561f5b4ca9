"""Compliance under any order of purchases, moves, counts, removals, silence and passing days."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from authoritymodel import Authority
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from callpool.licensing.errors import LicenseError
from callpool.manager import authority_ledger, authority_views
from callpool.manager.authority_views import AlertQuery, EventQuery, InstanceQuery, SmartQuery

DAY = 86_400.0
VAS = ("default", "lab")
SERIALS = ("SP-1", "SP-2", "SP-3")

vas = st.sampled_from(VAS)
serials = st.sampled_from(SERIALS)


class Compliance(RuleBasedStateMachine):
    """Each step is one real transaction; the model recomputes the truth from first principles."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Authority()

    def teardown(self) -> None:
        self.world.close()

    @rule(va=vas, count=st.integers(1, 40), days=st.integers(1, 200), wait=st.integers(0, 3))
    def buy(self, va: str, count: int, days: int, wait: int) -> None:
        self.world.buy(va, count * 5, days, wait)

    @rule(count=st.integers(1, 100), source=vas)
    def move(self, count: int, source: str) -> None:
        world = self.world
        movable = sum(
            n
            for (order, va), n in world.lots.items()
            if va == source and world.dates[order][1] > world.now
        )
        target = VAS[1 - VAS.index(source)]
        if count > movable:
            with pytest.raises(LicenseError) as caught:
                world.transfer(count, source, target)
            assert caught.value.code == "not_enough_licenses"
        else:
            world.transfer(count, source, target)

    @rule(serial=serials, va=vas, count=st.integers(0, 40))
    def configure(self, serial: str, va: str, count: int) -> None:
        world = self.world
        if serial not in world.instances:
            world.register(serial, va)
        given = world.authorize(serial, count * 5)
        made = world.instances[serial]
        assert given.purchased == world.purchased(made.va)
        assert given.in_use == self.in_use(made.va)
        good = given.in_use <= given.purchased or count == 0
        assert given.status == ("in_compliance" if good else "out_of_compliance")
        assert given.renew_at - given.issued_at == (30 * DAY if good else DAY / 2)
        assert given.expires_at - given.issued_at == 90 * DAY

    @rule(serial=serials, by_itself=st.booleans())
    def take_off(self, serial: str, by_itself: bool) -> None:
        if serial in self.world.instances:
            (self.world.deregister if by_itself else self.world.remove)(serial)

    @rule(serial=serials, va=vas)
    def relocate(self, serial: str, va: str) -> None:
        made = self.world.instances.get(serial)
        if made is None:
            return
        if made.va == va:
            with pytest.raises(LicenseError) as caught:
                self.world.relocate(serial, va)
            assert caught.value.code == "same_virtual_account"
        else:
            self.world.relocate(serial, va)

    @rule(days=st.sampled_from([0.5, 1, 29, 31, 60, 89.9]))
    def pass_days(self, days: float) -> None:
        self.world.model.clock.advance(days * DAY)
        self.world.model.manager.sweep()
        # Nobody renews here: whose ID certificate has ended is off the list.
        for serial in [s for s, i in self.world.instances.items() if i.until <= self.world.now]:
            del self.world.instances[serial]

    def in_use(self, va: str) -> int:
        return sum(
            i.count
            for i in self.world.instances.values()
            if i.va == va and self.world.now < i.last_contact + 90 * DAY
        )

    @invariant()
    def the_sum_of_configured_counts_is_weighed_against_what_is_in_date(self) -> None:
        world = self.world
        found = world.model.manager.database.read(
            lambda tx: authority_views.entitlements(tx, SmartQuery())
        )["entitlements"]
        for row in found:
            va = row["virtual_account"]
            assert row["purchased"] == world.purchased(va)
            assert row["in_use"] == self.in_use(va)
            good = row["in_use"] <= row["purchased"]
            assert row["status"] == ("in_compliance" if good else "out_of_compliance")
        alerts = world.model.manager.database.read(
            lambda tx: authority_views.alerts(tx, AlertQuery())
        )["alerts"]
        short = {a["virtual_account"] for a in alerts if a["kind"] == "insufficient_licenses"}
        assert short == {r["virtual_account"] for r in found if r["balance"] < 0}

    @invariant()
    def whoever_was_told_otherwise_has_a_hint_waiting(self) -> None:
        world = self.world
        rows = world.model.manager.database.read(
            lambda tx: authority_views.instances(tx, InstanceQuery())
        )["instances"]
        for row in rows:
            made = world.instances[row["serial"]]
            good = self.in_use(made.va) <= world.purchased(made.va) or made.count == 0
            if (
                made.told
                and made.count
                and made.told != ("in_compliance" if good else "out_of_compliance")
            ):
                assert row["hint_waiting"]

    @invariant()
    def moving_changes_no_sum(self) -> None:
        total = self.world.model.manager.database.read(
            lambda tx: tx.value("SELECT coalesce(sum(count), 0) FROM entitlement")
        )
        assert total == sum(self.world.lots.values())


TestCompliance = Compliance.TestCase
TestCompliance.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture
def world() -> Iterator[Authority]:
    made = Authority()
    yield made
    made.close()


def kinds(world: Authority) -> list[str]:
    return [
        a["kind"]
        for a in world.model.manager.database.read(
            lambda tx: authority_views.alerts(tx, AlertQuery())
        )["alerts"]
    ]


def messages(world: Authority, kind: str) -> list[str]:
    return [
        e["message"]
        for e in reversed(
            world.model.manager.database.read(
                lambda tx: authority_views.events(tx, EventQuery(limit=1000, kind=kind))["events"]
            )
        )
    ]


def test_people_are_told_90_60_30_14_7_3_and_1_days_before_an_order_ends(world: Authority) -> None:
    world.buy("default", 100, 120)
    for _ in range(121):
        world.model.clock.advance(DAY)
        world.model.manager.sweep()
        world.model.manager.sweep()  # nothing is due twice
    said = messages(world, "licenses_expiring")
    days = (90, 60, 30, 14, 7, 3, 1)
    assert [int(m.split("within ")[1].split()[0]) for m in said] == list(days)
    assert messages(world, "licenses_expired") == ["100 cps of order PO-1 have expired."]
    assert kinds(world) == ["licenses_expired"]


def test_an_order_that_begins_later_counts_from_then_on(world: Authority) -> None:
    world.buy("default", 100, 100, wait=2)
    world.register("SP-1", "default")
    assert world.authorize("SP-1", 50).status == "out_of_compliance"
    world.model.clock.advance(2 * DAY)
    assert world.authorize("SP-1", 50).status == "in_compliance"


def test_a_sweep_is_due_only_when_the_clock_brings_something(world: Authority) -> None:
    world.buy("default", 100, 400)
    world.register("SP-1", "default")
    world.authorize("SP-1", 50)
    looked = world.model.change(authority_ledger.due)
    assert not looked
    world.model.clock.advance(29 * DAY)
    assert not world.model.change(authority_ledger.due)


def test_a_certificate_that_is_not_renewed_ends_the_registration(world: Authority) -> None:
    world.buy("default", 100, 800)
    world.register("SP-1", "default")
    for _ in range(6):
        world.authorize("SP-1", 50)
        world.model.clock.advance(60 * DAY)
    world.authorize("SP-1", 50)
    world.model.clock.advance(6 * DAY)
    with pytest.raises(LicenseError) as caught:
        world.authorize("SP-1", 50)
    assert caught.value.code == "certificate_expired"
    assert kinds(world) == ["failed_to_renew"]


def test_an_instance_that_called_again_is_missed_again(world: Authority) -> None:
    world.buy("default", 100, 800)
    world.register("SP-1", "default")
    for _ in range(3):
        world.authorize("SP-1", 50)
        world.model.clock.advance(31 * DAY)
        world.model.manager.sweep()
        assert kinds(world) == ["failed_to_connect"]
        world.model.clock.advance(60 * DAY)
        world.model.manager.sweep()
        assert kinds(world) == ["failed_to_renew"]
