"""A tenant's operator sees and changes what is his tenant's, whatever he asks and however.

The other tenant's name, devices, serial numbers, operator and requests are canaries: strings that
must stand in no answer that the operator gets, its headers and errors included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from managerkit import Running, Site, eventually, running
from poolroutes import PASSWORD, routes_of

CANARIES = ("canary", "CANARY")
S = "sbc_sessions"


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Running]:
    site = Site(tmp_path_factory.mktemp("apart") / "manager")
    with running(site) as made:
        made.import_order(site.order("PO-1", sbc_sessions=40, far_end_users=40))
        made.call("POST", "/tenants", {"name": "mine", "shares": {S: 10}}, 201)
        made.call("POST", "/tenants", {"name": "canary-corp"}, 201)
        made.add("mine-1", "SN-MINE", tenant="mine", apply="live")
        made.add("mine-2", "SN-MINE-2", tenant="mine", apply="live")
        made.add("canary-sbc", "SN-CANARY", tenant="canary-corp", apply="live")
        made.add("canary-two", "SN-CANARY-2", tenant="canary-corp", apply="live")
        made.add("canary-pair", "SN-CANARY-3", "SN-CANARY-4", tenant="canary-corp")
        for name, role, tenant in (
            ("me", "tenant_operator", "mine"),
            ("canary-eve", "tenant_operator", "canary-corp"),
        ):
            body = {"username": name, "role": role, "tenants": [tenant], "password": PASSWORD}
            made.call("POST", "/operators", body, 201)
        yield made


@pytest.fixture(scope="module")
def busy(manager: Running) -> Running:
    """Both tenants have devices that report, requests that wait, and a past."""
    mine, other = manager.device("SN-MINE"), manager.device("SN-CANARY")
    eve = client(manager, "canary-eve")
    eve.put("/api/v1/devices/canary-sbc/allocation", json={S: 25})
    manager.call("PUT", "/devices/mine-1/allocation", {S: 8}, 200)
    for device in (mine, other):
        device.contact()
        device.in_use = {S: 3}
        device.contact()
    waits = eve.put("/api/v1/devices/canary-two/allocation?wait=true", json={S: 20})
    assert waits.json()["waiting"], waits.text
    assert manager.call("PUT", "/devices/mine-2/allocation?wait=true", {S: 5}, 200)["waiting"]
    token = eve.post("/api/v1/tokens", json={"uses": 2}).json()
    assert token["token"]
    for device in (other, mine, other):
        device.contact()
    # What comes free of the one may be what grants to the other: his journal says not whose.
    eve.put("/api/v1/devices/canary-sbc/allocation", json={S: 1})
    other.contact()
    other.contact()
    mine.contact()
    manager.call("POST", "/devices/canary-pair/restart", {"window": "02:00-03:00"}, 202)
    eve.close()
    return manager


def client(manager: Running, name: str) -> httpx.Client:
    made = manager.client(signed_in=False)
    body = {"username": name, "password": PASSWORD}
    made.headers["Authorization"] = (
        f"Bearer {made.post('/api/v1/sessions', json=body).json()['token']}"
    )
    return made


@pytest.fixture(scope="module")
def me(busy: Running) -> Iterator[httpx.Client]:
    made = client(busy, "me")
    yield made
    made.close()


def clean(reply: httpx.Response, *own: str) -> Any:
    """Fail where a canary stands in an answer, but for words of my own question."""
    assert reply.status_code < 500, reply.text
    text = reply.text + str(reply.headers)
    for word in own:
        text = text.replace(word, "")
    for canary in CANARIES:
        assert canary not in text, f"{reply.request.method} {reply.url}: {reply.text}"
    return reply


def test_the_canaries_are_there_for_who_sees_everything(busy: Running) -> None:
    text = str(busy.pool()) + str(busy.call("GET", "/journal?limit=1000"))
    for canary in ("canary-corp", "canary-sbc", "SN-CANARY", "canary-eve", "canary-two"):
        assert canary in text


def test_no_list_and_no_sight_holds_anything_of_another_tenant(
    busy: Running, me: httpx.Client
) -> None:
    for method, path in routes_of(busy.site):
        if method == "GET" and "{" not in path:
            clean(me.get(path))
            clean(me.get(path + "?limit=1000"))
    pool = me.get("/api/v1/pool").json()
    assert [d["name"] for d in pool["devices"]] == ["mine-1", "mine-2"]
    assert [t["name"] for t in pool["tenants"]] == ["mine"]
    assert pool["types"][S]["purchased"] == 10
    assert pool["product_key"] == ""
    assert {d["device"] for d in me.get("/api/v1/bulk").json()["devices"]} == {"mine-1", "mine-2"}
    assert clean(me.get("/api/v1/bulk?format=csv")).status_code == 200
    assert [r["device"] for r in me.get("/api/v1/requests").json()["requests"]] in (
        [],
        ["mine-2"],
    )


def test_the_journal_tells_a_tenant_what_concerns_it_and_not_who_elsewhere_it_was(
    busy: Running, me: httpx.Client
) -> None:
    lines = clean(me.get("/api/v1/journal?limit=1000")).json()["journal"]
    causes = {line["cause"] for line in lines}
    assert {"device_added", "allocated", "enrolled"} <= causes
    # Whoever is of this tenant may stand there; what they did here depends on the tests before.
    own = {"me", "SN-MINE", "SN-MINE-2"}
    assert {line["who"] for line in lines} <= own | {"admin", "clock", "elsewhere"}


def test_what_is_not_mine_is_refused_as_what_there_is_not(busy: Running, me: httpx.Client) -> None:
    cases: list[tuple[str, str, Any]] = [
        ("GET", "/devices/{}", None),
        ("PATCH", "/devices/{}", {"apply": "live"}),
        ("DELETE", "/devices/{}", None),
        ("PUT", "/devices/{}/allocation", {S: 1}),
        ("PUT", "/devices/{}/allocation?wait=true", {S: 1}),
        ("PUT", "/devices/{}/allocation?preview=true", {S: 1}),
        ("DELETE", "/devices/{}/request", None),
        ("POST", "/devices/{}/replace", {"serial": "X", "by": "Y"}),
        ("POST", "/devices/{}/restart", {"save": True}),
        ("DELETE", "/devices/{}/restart", None),
    ]
    for method, path, body in cases:
        for name in ("canary-sbc", "SN-CANARY-3", "canary-pair"):
            reply = me.request(method, f"/api/v1{path.format(name)}", json=body)
            clean(reply, name)
            nothing = me.request(method, f"/api/v1{path.format('nothing')}", json=body)
            assert without(reply, name) == without(nothing, "nothing"), (method, path, name)
    unlocked = me.post("/api/v1/units/SN-CANARY/unlock")
    nothing = me.post("/api/v1/units/SN-NOTHING/unlock")
    assert without(unlocked, "SN-CANARY") == without(nothing, "SN-NOTHING")
    assert unlocked.json()["code"] == "unknown_serial"


def without(reply: httpx.Response, name: str) -> tuple[int, str]:
    return reply.status_code, reply.text.replace(name, "*")


def test_other_tenants_are_no_place_to_move_to_and_none_to_take_from(
    busy: Running, me: httpx.Client
) -> None:
    moved = me.patch("/api/v1/devices/mine-1", json={"tenant": "canary-corp"})
    nowhere = me.patch("/api/v1/devices/mine-1", json={"tenant": "nowhere"})
    assert without(moved, "canary-corp") == without(nowhere, "nowhere")
    made = me.post(
        "/api/v1/devices", json={"name": "x", "serials": ["SN-X"], "tenant": "canary-corp"}
    )
    assert made.json()["code"] == "unknown_tenant"
    row = {"device": "canary-sbc", S: 1}
    bulk = me.post("/api/v1/bulk", json=[row])
    assert without(bulk, "canary-sbc") == without(
        me.post("/api/v1/bulk", json=[{"device": "nothing", S: 1}]), "nothing"
    )
    within = me.post("/api/v1/bulk?tenant=canary-corp", json=[{"device": "mine-1", S: 1}])
    clean(within, "canary-corp")
    assert within.status_code in (400, 404)
    for path in ("/usage?tenant=canary-corp", "/usage/advice?device=canary-sbc"):
        assert clean(me.get(f"/api/v1{path}"), "canary-corp", "canary-sbc").status_code == 404
    assert me.get("/api/v1/devices?tenant=canary-corp").status_code == 404
    assert me.get("/api/v1/devices?q=canary").json()["devices"] == []
    assert me.get("/api/v1/tenants/canary-corp").status_code == 404
    asked = clean(me.put("/api/v1/devices/mine-1/allocation", json={S: 5000}))
    assert asked.json()["code"] == "tenant_exceeded"
    preview = me.put("/api/v1/devices/mine-1/allocation?preview=true", json={S: 2})
    assert clean(preview).json()["preview"] is True


def test_a_tenants_registration_token_enrols_its_own_devices_only(
    busy: Running, me: httpx.Client
) -> None:
    token = me.post("/api/v1/tokens", json={"uses": 5}).json()["token"]
    stolen = busy.bare("SN-CANARY-2")
    with pytest.raises(Exception, match="unknown_token"):
        stolen.enrol(token)
    busy.bare("SN-MINE-2").enrol(token)
    listed = clean(me.get("/api/v1/tokens")).json()["tokens"]
    assert {t["tenant"] for t in listed} == {"mine"}
    number = busy.call("GET", "/tokens?limit=1000")["tokens"][-1]["id"]
    assert me.delete(f"/api/v1/tokens/{number}").json()["code"] == "unknown_token"


def test_a_device_that_moves_away_leaves_no_word_of_where_to(
    busy: Running, me: httpx.Client
) -> None:
    busy.add("mover", "SN-MOVER", tenant="mine")
    busy.call("PATCH", "/devices/mover", {"tenant": "canary-corp"}, 200)
    lines = clean(me.get("/api/v1/journal?limit=1000")).json()["journal"]
    assert lines[0]["cause"] == "device_left"
    assert me.get("/api/v1/devices/mover").status_code == 404


def test_tenants_given_and_taken_count_at_once(busy: Running, me: httpx.Client) -> None:
    busy.call("POST", "/tenants", {"name": "later"}, 201)
    busy.call("PATCH", "/operators/me", {"tenants": ["mine", "later"]}, 200)
    assert [t["name"] for t in me.get("/api/v1/tenants").json()["tenants"]] == ["later", "mine"]
    busy.call("PATCH", "/operators/me", {"tenants": ["mine"]}, 200)
    eventually(lambda: len(me.get("/api/v1/tenants").json()["tenants"]) == 1)
