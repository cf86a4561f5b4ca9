"""Requests that wait, on the manager's own transactions and the real device rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from poolmodel import DAY, START, Model

from callpool.licensing.errors import LicenseError
from callpool.manager import inventory, queue, requests

TENANT = "t1"


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.tenant(TENANT)
    yield made
    made.check()
    made.close()


def tenant_of_500(model: Model, *, apply: str = "live") -> None:
    """Bring up the seed's tenant: A and B have 250 each and use all, C has nothing."""
    model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=500)
    model.change(lambda c: inventory.set_shares(c, TENANT, {"sbc_sessions": 500}))
    model.shares[TENANT]["sbc_sessions"] = 500
    for name in ("A", "B"):
        model.add(name, name, tenant=TENANT, apply=apply)
        model.allocate(name, sbc_sessions=250)
        settle(model, name)
        use(model, name, 250)
    model.add("C", "C", tenant=TENANT)


def settle(model: Model, *serials: str) -> None:
    """Let devices receive what there is and confirm it, with a restart where it takes one."""
    for serial in serials:
        model.poll(serial)
        device = model.devices[serial]
        device.license = device.license.restarted(save=True)
        model.poll(serial)


def use(model: Model, serial: str, sessions: int) -> None:
    """Report that calls are in progress."""
    model.devices[serial].in_use = {"sbc_sessions": sessions}
    model.poll(serial)


def wait(model: Model, name: str, **counts: Any) -> bool:
    def work(change: Any) -> bool:
        device = inventory.device_by_name(change, name)
        return requests.allocate_or_wait(change, device, counts)[1]

    return model.change(work)


def waiting(model: Model) -> list[tuple[str, str]]:
    found = model.manager.database.read(queue.requests)
    return [(r.device, r.state) for r in found]


def shares(model: Model) -> dict[str, int]:
    return {name: model.may_use(d, "sbc_sessions") for name, d in model.devices.items()}


def journal(model: Model, cause: str) -> int:
    return int(
        model.manager.database.read(
            lambda tx: tx.value("SELECT count(*) FROM journal WHERE cause = :c", c=cause)
        )
    )


def test_the_tenant_of_500_moves_exactly_what_is_unused_and_confirmed(model: Model) -> None:
    tenant_of_500(model)
    assert wait(model, "C", sbc_sessions=50) is True
    reply = model.poll("C")
    assert reply is not None
    (told,) = reply.waiting
    assert (told.type, told.count) == ("sbc_sessions", 50)
    assert "50" in told.sentence
    for calls in (250, 240, 226):
        use(model, "A", calls)
        use(model, "B", 225)
        assert shares(model) == {"A": 250, "B": 250, "C": 0}
        assert waiting(model) == [("C", "waiting")]
    use(model, "A", 225)
    assert waiting(model) == [("C", "moving")]
    # Decided, but nothing is C's before A and B have confirmed.
    settle(model, "A")
    settle(model, "C")
    assert shares(model) == {"A": 225, "B": 250, "C": 0}
    settle(model, "B")
    assert waiting(model) == []
    settle(model, "C")
    assert shares(model) == {"A": 225, "B": 225, "C": 50}
    assert (journal(model, "taken_for_request"), journal(model, "request_granted")) == (2, 1)


def test_calls_that_begin_meanwhile_delay_a_move_and_do_not_undo_it(model: Model) -> None:
    tenant_of_500(model)
    wait(model, "C", sbc_sessions=50)
    use(model, "B", 225)
    use(model, "A", 225)
    model.devices["A"].in_use = {"sbc_sessions": 240}  # 15 calls came before the smaller grant
    settle(model, "A", "B")
    assert waiting(model) == [("C", "moving")]
    (request,) = model.manager.database.read(queue.requests)
    assert "calls to end on A" in request.why["sbc_sessions"]
    assert model.held("A") == 240
    use(model, "A", 230)
    assert waiting(model) == [("C", "moving")]
    use(model, "A", 225)
    assert waiting(model) == []
    settle(model, "C")
    assert shares(model) == {"A": 225, "B": 225, "C": 50}
    # Nothing oscillates: A and B stay where they are however calls go.
    for calls in (100, 225, 0):
        use(model, "A", calls)
        assert shares(model) == {"A": 225, "B": 225, "C": 50}


def test_what_is_kept_for_a_request_goes_to_nobody_else(model: Model) -> None:
    tenant_of_500(model)
    wait(model, "C", sbc_sessions=50)
    model.add("D", "D", tenant=TENANT, apply="live")
    use(model, "A", 205)  # 45 unused: not enough
    model.allocate("B", sbc_sessions=240)
    use(model, "B", 240)
    settle(model, "B")  # 10 more are free, and 45 unused: enough
    with pytest.raises(LicenseError) as caught:
        model.allocate("D", sbc_sessions=5)
    assert caught.value.code == "requests_waiting"
    assert wait(model, "D", sbc_sessions=5) is True
    assert [n for n, _ in waiting(model)] == ["C", "D"]
    settle(model, "A")
    assert waiting(model) == [("D", "waiting")] or waiting(model) == [("D", "moving")]
    settle(model, "A", "B", "C", "D")
    settle(model, "A", "B", "C", "D")
    assert waiting(model) == []
    assert shares(model)["C"] == 50
    assert shares(model)["D"] == 5
    assert sum(shares(model).values()) == 500


def test_devices_that_apply_by_restart_show_what_is_waited_for(model: Model) -> None:
    tenant_of_500(model, apply="restart")
    wait(model, "C", sbc_sessions=50)
    use(model, "A", 200)
    (request,) = model.manager.database.read(queue.requests)
    assert request.state == "moving"
    model.poll("A")
    model.poll("A")
    (request,) = model.manager.database.read(queue.requests)
    assert "a restart with save of A" in request.why["sbc_sessions"]
    assert shares(model)["A"] == 250
    settle(model, "A")
    settle(model, "C")
    assert waiting(model) == []
    assert shares(model) == {"A": 200, "B": 250, "C": 50}


def test_a_report_from_before_the_request_says_nothing_of_now(model: Model) -> None:
    model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=10)
    model.add("A", "A", tenant=TENANT, apply="live")
    model.add("C", "C", tenant=TENANT, apply="live")
    model.allocate("A", sbc_sessions=10)
    settle(model, "A")
    model.devices["A"].in_use = {"sbc_sessions": 10}  # it filled up after its last report
    wait(model, "C", sbc_sessions=5)
    assert waiting(model) == [("C", "waiting")]
    settle(model, "A")
    assert waiting(model) == [("C", "waiting")]
    assert shares(model) == {"A": 10, "C": 0}


def test_a_report_that_is_old_says_nothing_of_now(model: Model) -> None:
    tenant_of_500(model)
    use(model, "A", 0)
    model.clock.advance(3600)
    wait(model, "C", sbc_sessions=50)
    assert waiting(model) == [("C", "waiting")]
    model.poll("A")
    assert waiting(model) == [("C", "moving")]


def test_a_request_that_could_be_had_at_once_is_an_allocation(model: Model) -> None:
    model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=50)
    model.add("C", "C", tenant=TENANT)
    assert wait(model, "C", sbc_sessions=50) is False
    assert waiting(model) == []


def test_a_pair_waits_for_twice_its_share(model: Model) -> None:
    model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=100)
    model.add("A", "A", tenant=TENANT, apply="live")
    model.allocate("A", sbc_sessions=100)
    settle(model, "A")
    use(model, "A", 40)
    model.add("H", "H1", "H2", tenant=TENANT, apply="live")
    with pytest.raises(LicenseError) as caught:
        wait(model, "H", sbc_sessions=51)
    assert caught.value.code == "pool_exceeded"
    assert wait(model, "H", sbc_sessions=20) is True
    settle(model, "A")  # reports that 60 are unused
    settle(model, "A")
    settle(model, "H1", "H2")
    assert waiting(model) == []
    assert shares(model) == {"A": 60, "H1": 20, "H2": 20}


def test_a_new_order_ends_the_wait_and_nothing_is_taken_from_anybody(model: Model) -> None:
    tenant_of_500(model)
    model.tenant("t2")
    model.add("E", "E", tenant="t2", apply="live")
    with pytest.raises(LicenseError):
        wait(model, "E", sbc_sessions=501)
    assert wait(model, "E", sbc_sessions=10) is True
    model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=10)
    assert waiting(model) == []
    settle(model, "E")
    assert shares(model) == {"A": 250, "B": 250, "C": 0, "E": 10}


def test_a_tenants_queue_is_bounded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_WAITING", 2)
    tenant_of_500(model)
    wait(model, "C", sbc_sessions=50)
    for name in ("D", "E"):
        model.add(name, name, tenant=TENANT, apply="live")
    wait(model, "D", sbc_sessions=5)
    with pytest.raises(LicenseError) as caught:
        wait(model, "E", sbc_sessions=5)
    assert caught.value.code == "too_many_waiting"
    assert wait(model, "D", sbc_sessions=6) is True  # asked anew, at the end of the queue
    assert [n for n, _ in waiting(model)] == ["C", "D"]


@pytest.mark.parametrize("way", ["cancel", "allocate", "remove", "none", "move"])
def test_a_request_ends_with_what_it_was_made_for(model: Model, way: str) -> None:
    tenant_of_500(model)
    wait(model, "C", sbc_sessions=50)
    model.tenant("t2")
    ways: dict[str, Any] = {
        "cancel": lambda c: requests.cancel(c, inventory.device_by_name(c, "C")),
        "allocate": lambda c: requests.allocate_or_wait(
            c, inventory.device_by_name(c, "C"), {"sbc_sessions": 0}
        ),
        "remove": lambda c: inventory.remove_device(c, "C"),
        "none": lambda c: inventory.change_device(c, "C", tenant=None, apply=None, mode="none"),
        "move": lambda c: inventory.change_device(c, "C", tenant="t2", apply=None, mode=None),
    }
    model.change(ways[way])
    assert waiting(model) == []
    use(model, "A", 0)
    assert shares(model)["A"] == 250
    with pytest.raises(LicenseError) as caught:
        model.change(ways["cancel"])
    assert caught.value.code in ("no_request", "unknown_device")
