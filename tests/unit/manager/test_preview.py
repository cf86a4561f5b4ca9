"""A preview says what the change then does, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from poolmodel import DAY, START, Model

from callpool.licensing.errors import LicenseError
from callpool.manager import inventory, pools, requests, views
from callpool.manager.change import Change
from callpool.manager.preview import compare, preview
from callpool.manager.preview_words import sentences
from callpool.manager.store.tx import Tx

S = "sbc_sessions"


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=20)
    made.add("a", "A1", apply="live")
    made.add("b", "B1", apply="restart")
    made.add("h", "H1", "H2")
    yield made
    made.close()


def dump(tx: Tx) -> dict[str, Any]:
    names = [
        r["name"]
        for r in tx.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    ]
    return {n: [dict(r) for r in tx.rows(f"SELECT * FROM {n}")] for n in names}  # noqa: S608


def see(model: Model, work: Callable[[Change], Any]) -> dict[str, Any]:
    """Preview, do it, and compare: the same code has to come to the same end."""
    model.manager.sweep()
    read = model.manager.database.read
    before = read(dump)
    seen = preview(model.manager, "tester", "here", work)
    assert read(dump) == before
    was = read(lambda tx: views.pool(tx, model.clock.wall))
    model.change(work)
    done = compare(was, read(lambda tx: views.pool(tx, model.clock.wall)))
    assert {k: seen[k] for k in done} == done
    return seen


def allocate(name: str, count: int) -> Callable[[Change], Any]:
    return lambda c: pools.allocate(c, inventory.device_by_name(c, name), {S: count})


def test_an_increase_is_granted_at_once_and_a_pair_costs_double(model: Model) -> None:
    (device,) = see(model, allocate("h", 4))["devices"]
    assert device["types"][S]["target"] == {"before": 0, "after": 4}
    assert device["types"][S]["granted"] == {"before": 0, "after": 4}
    assert device["types"][S]["cost"] == {"before": 0, "after": 8}
    assert device["types"][S]["to_reclaim"] == []


def test_a_decrease_names_what_must_be_reclaimed_first_and_the_restart(model: Model) -> None:
    model.allocate("b", sbc_sessions=20)
    model.poll("B1")
    seen = see(model, allocate("b", 5))
    (device,) = seen["devices"]
    assert device["types"][S]["held"] == {"before": 20, "after": 20}
    (waits,) = device["types"][S]["to_reclaim"]
    assert (waits["serial"], waits["count"]) == ("B1", 15)
    assert waits["lease_end"] > model.clock.wall
    assert device["restart_needed"]
    assert seen["types"][S]["reclaiming"] == {"before": 0, "after": 15}
    said = "\n".join(sentences(seen))
    assert "15 SBC Sessions stay held until B1 gives them back" in said
    assert "a restart with save applies it" in said


def test_what_a_device_cannot_use_is_said(model: Model) -> None:
    report = {"maximum": {S: 8}, "local": {S: 3}}
    model.change(
        lambda c: c.tx.run(
            "UPDATE unit SET report = :report WHERE serial = 'A1'",
            report=msgspec.json.encode(report).decode(),
        )
    )
    seen = see(model, allocate("a", 10))
    assert seen["devices"][0]["types"][S]["clipped"] == {"before": 13, "after": 8}
    assert "clipped to the device's maximum of 8" in sentences(seen)[0]
    assert "clipped to 8" in seen["answer"][0]


def test_removal_moves_and_shares_are_previewed_by_the_same_code(model: Model) -> None:
    model.tenant("east")
    seen = see(model, lambda c: inventory.set_shares(c, "east", {S: 6}))
    assert seen["devices"] == []
    (tenant,) = seen["tenants"]
    assert tenant["types"][S]["share"] == {"before": None, "after": 6}
    model.allocate("a", sbc_sessions=5)
    model.poll("A1")
    seen = see(
        model, lambda c: inventory.change_device(c, "a", tenant="east", apply=None, mode=None)
    )
    assert seen["devices"][0]["tenant"] == {"before": "default", "after": "east"}
    assert {t["tenant"] for t in seen["tenants"]} == {"default", "east"}
    seen = see(model, lambda c: inventory.remove_device(c, "a"))
    (device,) = seen["devices"]
    assert device["tenant"] == {"before": "east", "after": None}
    assert device["types"][S]["to_reclaim"][0]["count"] == 5


def test_a_request_that_would_wait_is_previewed_with_what_it_waits_for(model: Model) -> None:
    model.allocate("a", sbc_sessions=20)
    model.poll("A1")
    model.devices["A1"].in_use = {S: 20}
    model.poll("A1")

    def ask(change: Change) -> Any:
        device = inventory.device_by_name(change, "b")
        return requests.allocate_or_wait(change, device, {S: 5})

    seen = see(model, ask)
    assert [d["device"] for d in seen["devices"]] == ["b"]
    assert "a request for 5 SBC Sessions waits: " in sentences(seen)[0]
    seen = see(model, lambda c: requests.cancel(c, inventory.device_by_name(c, "b")))
    assert sentences(seen) == ["b: its request waits no longer."]


def test_a_change_that_would_be_refused_is_refused_in_the_preview(model: Model) -> None:
    with pytest.raises(LicenseError) as error:
        preview(model.manager, "tester", "here", allocate("h", 11))
    assert error.value.code == "pool_exceeded"


def test_nothing_to_change_is_said() -> None:
    assert sentences({"devices": [], "tenants": [], "types": {}}) == ["Nothing would change."]
