"""Requests that wait while units come back from odd places, or from nowhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from poolmodel import DAY, START, Model
from test_waiting_requests import TENANT, settle, shares, tenant_of_500, use, wait, waiting

from callpool.manager import inventory


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.tenant(TENANT)
    yield made
    made.check()
    made.close()


def test_what_a_device_itself_gives_back_is_not_counted_twice(model: Model) -> None:
    tenant_of_500(model)
    model.allocate("A", sbc_sessions=200)
    use(model, "A", 200)
    settle(model, "A")
    model.allocate("C", sbc_sessions=50)
    settle(model, "C")
    use(model, "C", 50)
    model.allocate("C", sbc_sessions=0)  # its 50 calls go on
    settle(model, "C")
    assert model.held("C") == 50
    assert wait(model, "C", sbc_sessions=80)
    use(model, "A", 100)
    use(model, "B", 100)
    settle(model, "A", "B")
    settle(model, "C")
    assert waiting(model) == []
    assert shares(model)["C"] == 80


def test_a_request_does_not_wait_a_week_for_a_silent_device(model: Model) -> None:
    tenant_of_500(model)
    model.change(lambda c: inventory.remove_device(c, "A"))  # 250 held until its lease ends
    assert wait(model, "C", sbc_sessions=50)
    use(model, "B", 100)
    # A may answer yet, and then B keeps all.
    assert waiting(model) == [("C", "moving")]
    settle(model, "B")
    assert model.held("B") == 250
    model.clock.advance(60.0)
    settle(model, "B", "B")
    settle(model, "C")
    assert waiting(model) == []
    assert shares(model) == {"A": 250, "B": 200, "C": 50}


def test_a_device_that_moves_in_gives_too(model: Model) -> None:
    model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=300)
    model.tenant("t2")
    for name, tenant, count in (("A", TENANT, 150), ("E", "t2", 100)):
        model.add(name, name, tenant=tenant)
        model.allocate(name, sbc_sessions=count)
        settle(model, name)
    use(model, "A", 150)
    model.add("C", "C", tenant=TENANT)
    assert wait(model, "C", sbc_sessions=100)  # 50 are free
    model.change(lambda c: inventory.change_device(c, "E", tenant=TENANT, apply=None, mode=None))
    model.tenants_as_known()
    settle(model, "A", "E", "C")
    settle(model, "E", "C")
    assert waiting(model) == []
    assert shares(model) == {"A": 150, "E": 50, "C": 100}
