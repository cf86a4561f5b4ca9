"""Previews, bulk files and bad input, as operators and scripts send them over HTTPS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from managerkit import POOL, Running, Site, cli, load, running

from callpool.wire.envelope import ORDER, sign, unverified

S = "sbc_sessions"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Site:
    return Site(tmp_path_factory.mktemp("bulk") / "manager")


@pytest.fixture(scope="module")
def manager(site: Site) -> Iterator[Running]:
    with running(site) as made:
        made.import_order(site.order("PO-1", sbc_sessions=600))
        yield made
        site.check_sums()


@pytest.fixture(scope="module")
def env(site: Site, manager: Running) -> dict[str, str]:
    return {
        "CALLPOOL_MANAGER": manager.url,
        "CALLPOOL_CA_FILE": str(site.layout.ca),
        "CALLPOOL_PASSWORD": site.password,
    }


def devices(manager: Running, name: str, *, tenant: str, sessions: int = 0) -> tuple[str, str]:
    """Add two devices to a tenant of their own."""
    manager.call("POST", "/tenants", {"name": tenant, "shares": {}}, 201)
    for unit in "ab":
        manager.add(f"{name}-{unit}", f"{name.upper()}{unit}", tenant=tenant, apply="live")
        manager.call("PUT", f"/devices/{name}-{unit}/allocation", {S: sessions}, 200)
    return f"{name}-a", f"{name}-b"


def allocation(manager: Running, name: str) -> int:
    found = next(d for d in manager.pool()["devices"] if d["name"] == name)
    return int(found["allocation"][S])


def send(manager: Running, text: str, kind: str = "text/csv", query: str = "") -> tuple[int, Any]:
    reply = manager.http.post(
        f"/api/v1/bulk{query}", content=text.encode(), headers={"content-type": kind}
    )
    return reply.status_code, reply.json()


def test_a_preview_of_a_change_changes_nothing_and_says_what_it_would_do(manager: Running) -> None:
    first, _ = devices(manager, "seen", tenant="seen", sessions=10)
    before = manager.pool()["devices"]
    entries = manager.call("GET", "/journal")["journal"]
    seen = manager.call("PUT", f"/devices/{first}/allocation?preview=true", {S: 25}, 200)
    assert seen["preview"]
    (device,) = seen["devices"]
    assert device["device"] == first
    assert device["types"][S]["target"] == {"before": 10, "after": 25}
    removal = manager.call("DELETE", f"/devices/{first}?preview=true", status=200)
    assert removal["devices"][0]["types"][S]["target"] == {"before": 10, "after": 0}
    assert manager.pool()["devices"] == before
    assert manager.call("GET", "/journal")["journal"] == entries
    refused = manager.call("PUT", f"/devices/{first}/allocation?preview=true", {S: 601}, 409)
    assert refused["code"] == "pool_exceeded"
    refused = manager.call("POST", "/tokens?preview=true", {}, 400)
    assert refused["code"] == "bad_request"


def test_a_bulk_file_is_carried_out_whole_or_not_at_all(manager: Running) -> None:
    first, second = devices(manager, "bulk", tenant="bulk", sessions=20)
    status, refused = send(
        manager, f"device,sbc_sessions\n{first},5\n{second},30\nnobody,1\n", query="?preview=false"
    )
    assert (status, refused["code"]) == (400, "bad_row")
    assert refused["detail"].startswith("Row 3 (nobody): There is no device named 'nobody'.")
    assert (allocation(manager, first), allocation(manager, second)) == (20, 20)
    rows = json.dumps([{"device": second, S: 30}, {"device": first, S: 5}])
    status, seen = send(manager, rows, "application/json", "?preview=true")
    assert (status, seen["answer"]["rows"]) == (200, 2)
    assert {d["device"] for d in seen["devices"]} == {first, second}
    assert allocation(manager, first) == 20
    status, done = send(manager, rows, "application/json")
    assert (status, done) == (200, {"rows": 2, "notes": [], "waiting": []})
    assert (allocation(manager, first), allocation(manager, second)) == (5, 30)
    for text, kind, code in (
        ("device,cps\n", "text/csv", "bad_bulk_file"),
        ("{", "application/json", "bad_bulk_file"),
        ("device\n", "text/plain", "wrong_content_type"),
        ("device,sbc_sessions\n" + "a,1\n" * 100_000, "text/csv", "body_too_large"),
    ):
        assert send(manager, text, kind)[1]["code"] == code


def test_an_export_is_a_template(manager: Running, env: dict[str, str], tmp_path: Path) -> None:
    first, second = devices(manager, "export", tenant="export", sessions=4)
    status, text, _ = cli(POOL, "export", env=env)
    assert status == 0
    assert text.splitlines()[0] == "device,sbc_sessions,far_end_users,tenant,apply"
    assert f"{first},4,0,export,live" in text.splitlines()
    file = tmp_path / "pool.csv"
    file.write_text(text)
    status, out, _ = cli(POOL, "bulk", str(file), "--preview", env=env)
    assert (status, out) == (0, "Preview: nothing is changed.\nNothing would change.\n")
    file.write_text(text.replace(f"{first},4,", f"{first},9,"))
    status, out, _ = cli(POOL, "bulk", str(file), "--preview", env=env)
    assert f"{first}: SBC Sessions 4 -> 9." in out.splitlines()
    assert allocation(manager, first) == 4
    rows = len(text.splitlines()) - 1
    status, out, _ = cli(POOL, "bulk", str(file), env=env)
    assert (status, out) == (0, f"{rows} rows are carried out.\n")
    assert (allocation(manager, first), allocation(manager, second)) == (9, 4)
    status, out, _ = cli(POOL, "export", "--format", "json", env=env)
    assert {"device": second, S: 4, "far_end_users": 0, "tenant": "export", "apply": "live"} in (
        load(out)["devices"]
    )
    status, _, error = cli(POOL, "bulk", str(tmp_path / "pool.txt"), env=env)
    assert (status, "[bad_bulk_file]" in error) == (1, True)


def test_the_command_line_previews_every_change(manager: Running, env: dict[str, str]) -> None:
    first, _ = devices(manager, "word", tenant="word", sessions=4)
    for words, said in (
        (("allocate", first, "7"), f"{first}: SBC Sessions 4 -> 7."),
        (("set", first, "--apply", "restart"), f"{first}: apply live -> restart"),
        (("tenant", "word", "sbc_sessions=50"), "Tenant word, SBC Sessions: share none -> 50."),
        (("remove", first), f"{first}: tenant word -> none"),
    ):
        status, out, _ = cli(POOL, *words, "--preview", env=env)
        assert status == 0
        assert out.startswith("Preview: nothing is changed.\n")
        assert said in out
    assert allocation(manager, first) == 4


def test_one_unit_of_a_pair_is_not_allocated_alone(manager: Running) -> None:
    manager.add("pair", "P1", "P2")
    refused = manager.call("PUT", "/devices/P2/allocation", {S: 5}, 400)
    assert refused["code"] == "half_of_pair"
    assert "HA pair pair, which is allocated as one" in refused["detail"]
    status, refused = send(manager, "device,sbc_sessions\nP1,5\n")
    assert (status, refused["code"]) == (400, "bad_row")
    assert "allocated as one" in refused["detail"]
    manager.add("lone", "L1")
    refused = manager.call("PUT", "/devices/L1/allocation", {S: 5}, 404)
    assert refused["detail"].endswith("it is the serial number of lone.")


def test_orders_that_cannot_be_are_refused(site: Site, manager: Running) -> None:
    before = manager.call("GET", "/orders")
    made = json.loads(unverified(site.order("PO-X", sbc_sessions=5)))
    made["starts"], made["ends"] = made["ends"], made["starts"]
    backward = manager.import_order(sign(site.vendor, ORDER, made), 400)
    assert (backward["code"], backward["detail"]) == (
        "bad_document",
        "An order must end after it starts.",
    )
    other = Site(site.layout.directory.parent / "other")
    foreign = manager.import_order(other.order("PO-Y", sbc_sessions=5), 403)
    assert foreign["code"] == "unknown_signer"
    assert manager.call("GET", "/orders") == before
