"""What operators do while requests wait: nobody takes what is kept for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from poolmodel import DAY, START, Model

from callpool.licensing.errors import LicenseError
from callpool.manager import inventory, pools, queue, requests

S = "sbc_sessions"


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=100)
    yield made
    made.check()
    made.check_tables()
    made.close()


def bring_up(model: Model, tenant: str, **shares: int) -> None:
    """Add live devices that have and use what they are given, one unit each, named as they are."""
    for name, count in shares.items():
        model.add(name, name, tenant=tenant, apply="live")
        model.allocate(name, sbc_sessions=count)
        settle(model, name)
        use(model, name, count)


def settle(model: Model, *serials: str) -> None:
    for serial in serials:
        model.poll(serial)
        model.poll(serial)


def use(model: Model, serial: str, sessions: int) -> None:
    model.devices[serial].in_use = {S: sessions}
    model.poll(serial)


def wait(model: Model, name: str, count: int) -> bool:
    def work(change: Any) -> bool:
        device = inventory.device_by_name(change, name)
        return requests.allocate_or_wait(change, device, {S: count})[1]

    return model.change(work)


def waiting(model: Model) -> list[tuple[str, str]]:
    return [(r.device, r.state) for r in model.manager.database.read(queue.requests)]


def code(model: Model, work: Any) -> str:
    with pytest.raises(LicenseError) as error:
        model.change(work)
    return error.value.code


def allocate(name: str, count: int) -> Any:
    return lambda c: pools.allocate(c, inventory.device_by_name(c, name), {S: count})


def moving(model: Model, tenant: str = "default") -> None:
    """Bring A and B up with 50 each and C's request for 20 to where it takes 10 of each."""
    bring_up(model, tenant, A=50, B=50, C=0)
    assert wait(model, "C", 20)
    use(model, "A", 40)
    use(model, "B", 40)
    assert waiting(model) == [("C", "moving")]


def test_a_donor_that_is_raised_again_takes_nothing_back(model: Model) -> None:
    moving(model)
    assert model.held("A") == 50  # not confirmed yet: A could still use them
    assert code(model, allocate("A", 50)) == "requests_waiting"
    assert wait(model, "A", 50)
    assert waiting(model) == [("C", "moving"), ("A", "waiting")]
    model.devices["C"].in_use = {S: 20}  # its calls come as soon as it has them
    settle(model, "A", "B", "C")
    assert model.may_use(model.devices["C"], S) == 20
    assert waiting(model) == [("A", "waiting")]


def test_a_donor_may_be_lowered_further_while_its_units_move(model: Model) -> None:
    moving(model)
    model.allocate("A", sbc_sessions=30)
    use(model, "A", 30)
    settle(model, "A", "B", "C")
    assert model.may_use(model.devices["C"], S) == 20
    assert (model.held("A"), model.held("B")) == (30, 40)


def test_another_tenant_does_not_take_what_moves_nor_is_it_held_up(model: Model) -> None:
    model.tenant("west")
    model.add("W", "W", tenant="west")
    moving(model)
    settle(model, "A")  # its 10 are free now, and kept
    assert model.held("A") == 40
    assert waiting(model) == [("C", "moving")]
    # What another tenant waits for is not told.
    assert code(model, allocate("W", 5)) == "pool_exceeded"
    assert code(model, lambda c: inventory.set_shares(c, "west", {S: 5})) == "pool_exceeded"
    model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=15)
    settle(model, "C", "B")
    assert waiting(model) == []
    model.allocate("W", sbc_sessions=15)
    assert model.may_use(model.devices["C"], S) == 20


def test_a_waiting_request_holds_up_no_other_tenant(model: Model) -> None:
    model.tenant("west")
    model.add("W", "W", tenant="west")
    bring_up(model, "default", A=50, B=45, C=0)
    assert wait(model, "C", 20)
    assert waiting(model) == [("C", "waiting")]
    model.add("D", "D")
    assert code(model, allocate("D", 5)) == "requests_waiting"
    model.allocate("W", sbc_sessions=5)
    assert model.held("W") == 5


def test_a_device_that_moves_in_takes_nothing_that_waits(model: Model) -> None:
    model.tenant("east", sbc_sessions=60)
    bring_up(model, "default", W=20)
    bring_up(model, "east", A=45, C=0)
    assert wait(model, "C", 20)

    def move(change: Any) -> None:
        inventory.change_device(change, "W", tenant="east", apply=None, mode=None)

    assert code(model, move) == "tenant_exceeded"
    model.allocate("W", sbc_sessions=12)
    use(model, "W", 12)
    settle(model, "W")
    # There is room for 12 in the share, but C has asked for it before.
    assert code(model, move) == "requests_waiting"


def test_a_pair_is_served_for_both_its_units(model: Model) -> None:
    bring_up(model, "default", A=60, B=40)
    model.add("h", "H1", "H2")
    assert wait(model, "h", 10)
    use(model, "A", 45)
    assert waiting(model) == [("h", "waiting")]  # 15 are not 20
    use(model, "A", 40)
    settle(model, "A")
    settle(model, "H1", "H2")
    assert waiting(model) == []
    assert [model.may_use(model.devices[s], S) for s in ("H1", "H2")] == [10, 10]
    assert wait(model, "B", 50)
    for serial in ("H1", "H2"):
        use(model, serial, 5)
    settle(model, "H1", "H2", "B")
    # A pair gives twice.
    assert [model.may_use(model.devices[s], S) for s in ("H1", "H2", "B")] == [5, 5, 50]


def test_a_donor_that_was_not_heard_of_lately_gives_nothing(model: Model) -> None:
    bring_up(model, "default", A=50, B=50, C=0)
    use(model, "A", 10)
    model.clock.advance(3600.0)
    assert wait(model, "C", 20)
    assert waiting(model) == [("C", "waiting")]
    model.poll("A")
    assert waiting(model) == [("C", "moving")]


def test_what_is_decided_survives_a_restart_of_the_manager(model: Model) -> None:
    moving(model)
    model.reopen()
    assert waiting(model) == [("C", "moving")]
    settle(model, "A", "B", "C")
    assert model.may_use(model.devices["C"], S) == 20
