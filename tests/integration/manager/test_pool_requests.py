"""Requests that wait, over HTTPS: a real manager process and devices by the wire protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from managerkit import POOL, Device, Running, Site, cli, load, running

S = "sbc_sessions"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "manager")


@pytest.fixture
def manager(site: Site) -> Iterator[Running]:
    with running(site) as made:
        made.import_order(site.order("PO-1", sbc_sessions=500))
        made.call("POST", "/tenants", {"name": "t1", "shares": {S: 500}}, 201)
        yield made
        site.check_sums()


@pytest.fixture
def env(site: Site, manager: Running) -> dict[str, str]:
    return {
        "CALLPOOL_MANAGER": manager.url,
        "CALLPOOL_CA_FILE": str(site.layout.ca),
        "CALLPOOL_PASSWORD": site.password,
        "COLUMNS": "200",
    }


def full(manager: Running, *, apply: str = "live") -> tuple[Device, Device, Device]:
    """Bring up the seed's tenant: A and B have 250 each, all in use; C has nothing."""
    found = []
    for name in "ABC":
        manager.add(name, name, tenant="t1", apply=apply)
        device = manager.device(name)
        if name != "C":
            manager.call("PUT", f"/devices/{name}/allocation", {S: 250}, 200)
            device.contact()
            device.in_use = {S: 250}
        device.contact()
        found.append(device)
    a, b, c = found
    return a, b, c


def shares(manager: Running) -> dict[str, int]:
    return {u["serial"]: u["granted"][S] for d in manager.pool()["devices"] for u in d["units"]}


def waiting(manager: Running) -> list[tuple[str, str]]:
    found = manager.call("GET", "/requests", status=200)["requests"]
    return [(r["device"], r["state"]) for r in found]


def ask(manager: Running, name: str, count: int, status: int = 200) -> Any:
    return manager.call("PUT", f"/devices/{name}/allocation?wait=true", {S: count}, status)


def test_the_tenant_of_500_serves_a_request_when_calls_have_ended(
    manager: Running, env: dict[str, str]
) -> None:
    a, b, c = full(manager)
    refused = manager.call("PUT", "/devices/C/allocation", {S: 50}, 409)
    assert refused["code"] == "pool_exceeded"
    status, out, _ = cli(POOL, "allocate", "C", "--sbc-sessions", "50", "--wait", env=env)
    assert (status, out) == (0, "C waits for 50 sbc_sessions; it keeps what it has until then.\n")
    reply = c.contact()
    (told,) = reply.waiting
    assert (told.type, told.count) == (S, 50)
    assert "unused in its tenant" in told.sentence
    assert c.counts(reply) == {}
    status, out, _ = cli(POOL, "show", env=env)
    assert f"C has asked for 50 SBC Sessions: {told.sentence}." in out
    # Those that may give are asked to report often.
    assert (a.contact().poll_seconds, b.contact().poll_seconds) == (1.0, 1.0)
    a.in_use = {S: 230}
    a.contact()
    assert waiting(manager) == [("C", "waiting")]
    assert shares(manager) == {"A": 250, "B": 250, "C": 0}
    b.in_use = {S: 220}
    b.contact()
    assert waiting(manager) == [("C", "moving")]
    # Exactly what is missing: 20 of the 20 unused on A and 30 of the 30 on B.
    assert shares(manager) == {"A": 230, "B": 220, "C": 0}
    for device in (a, a, b):
        device.contact()
    assert waiting(manager) == [("C", "moving")]
    b.contact()
    assert waiting(manager) == []
    assert c.counts(c.contact()) == {S: 50}
    assert c.contact().waiting == ()
    assert a.contact().poll_seconds > 1000
    assert shares(manager) == {"A": 230, "B": 220, "C": 50}


def test_devices_that_apply_by_restart_are_named(manager: Running, env: dict[str, str]) -> None:
    a, b, c = full(manager, apply="restart")
    ask(manager, "C", 50)
    for device in (a, b):
        device.in_use = {S: 225}
        device.contact()
    (request,) = manager.call("GET", "/requests")["requests"]
    assert request["state"] == "moving"
    for device in (a, b):
        device.contact(apply=False)  # received; the running grant is the older one
        device.contact(apply=False)
    (request,) = manager.call("GET", "/requests")["requests"]
    assert "waits for a restart with save of A, B" in request["why"][S]
    pool = manager.pool()
    units = {u["serial"]: u for d in pool["devices"] for u in d["units"]}
    assert units["A"]["reclaim_waits_for"] == "restart"
    assert units["A"]["reclaiming"] == {S: 25}
    assert pool["tenants"][-1]["shares"][S] == {
        "share": 500,
        "held": 500,
        "free": 0,
        "reclaiming": 50,
    }
    status, out, _ = cli(POOL, "show", env=env)
    assert status == 0
    assert "A (A) is to give back 25 SBC Sessions: waits for a restart with save" in out
    for device in (a, b):
        device.applied = device.remote  # restarted with save
        device.contact()
    assert waiting(manager) == []
    assert c.counts(c.contact()) == {S: 50}


def test_a_request_is_cancelled_replaced_or_refused_for_good(
    manager: Running, env: dict[str, str]
) -> None:
    full(manager)
    refused = ask(manager, "C", 501, 409)
    assert refused["code"] == "tenant_exceeded"
    ask(manager, "C", 50)
    assert waiting(manager) == [("C", "waiting")]
    status, out, _ = cli(POOL, "requests", env=env)
    assert status == 0
    assert "waits until 50 more SBC Sessions are unused" in out
    status, out, _ = cli(POOL, "cancel", "C", "--preview", env=env)
    assert (status, out) == (
        0,
        "Preview: nothing is changed.\nC: its request waits no longer.\n",
    )
    assert waiting(manager) == [("C", "waiting")]
    assert cli(POOL, "cancel", "C", env=env)[0] == 0
    assert waiting(manager) == []
    status, out, _ = cli(POOL, "cancel", "C", "--json", env=env)
    assert (status, load(out)["code"]) == (1, "no_request")
    assert cli(POOL, "requests", env=env)[1] == "No request waits.\n"
    for method, path, body in (
        ("PUT", "/devices/C/allocation", {S: 0}),
        ("PATCH", "/devices/C", {"tenant": "default"}),
        ("PATCH", "/devices/C", {"mode": "none"}),
        ("DELETE", "/devices/C", None),
    ):
        manager.call("PATCH", "/devices/C", {"mode": "fixed", "tenant": "t1"}, 200)
        ask(manager, "C", 50)
        assert waiting(manager) == [("C", "waiting")]
        manager.call(method, path, body, 200)
        assert waiting(manager) == []
    assert shares(manager) == {"A": 250, "B": 250}


def test_a_bulk_file_queues_what_cannot_be_had_yet(manager: Running) -> None:
    a, b, c = full(manager)
    rows = [{"device": "C", S: 40}, {"device": "A", S: 230}, {"device": "B", S: 230}]
    refused = manager.call("POST", "/bulk", rows, 400)
    assert refused["code"] == "bad_row"
    seen = manager.call("POST", "/bulk?wait=true&preview=true", rows, 200)
    assert seen["answer"]["waiting"] == ["C"]
    assert waiting(manager) == []
    assert manager.call("POST", "/bulk?wait=true", rows, 200)["waiting"] == ["C"]
    for device in (a, b):
        device.contact()
        device.in_use = {S: 230}
        device.contact()
    assert waiting(manager) == []
    assert c.counts(c.contact()) == {S: 40}
