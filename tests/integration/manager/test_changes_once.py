"""A change is made once for one key, and never on top of what its asker has not seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from managerkit import Running, Site, running

S = "sbc_sessions"


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Running]:
    site = Site(tmp_path_factory.mktemp("once") / "manager")
    with running(site) as made:
        made.import_order(site.order("PO-1", sbc_sessions=100))
        made.call("POST", "/tenants", {"name": "north"}, 201)
        made.add("one", "SN-1")
        yield made


def keyed(manager: Running, key: str, path: str, body: Any, method: str = "POST") -> httpx.Response:
    return manager.http.request(
        method, f"/api/v1{path}", json=body, headers={"Idempotency-Key": key}
    )


def test_of_twenty_at_once_under_one_key_one_changes_and_all_get_its_answer(
    manager: Running,
) -> None:
    def ask(_: int) -> httpx.Response:
        return keyed(manager, "twenty-at-once", "/tokens", {"uses": 3})

    def made() -> tuple[int, int]:
        """Tokens, and lines of the journal that say so; other tests make some too."""
        lines = manager.call("GET", "/journal?limit=1000")["journal"]
        tokens = manager.call("GET", "/tokens?limit=1000")["tokens"]
        return len(tokens), sum(line["cause"] == "token_made" for line in lines)

    tokens, lines = made()
    with ThreadPoolExecutor(20) as many:
        replies = list(many.map(ask, range(20)))
    assert {r.status_code for r in replies} == {201}
    assert len({r.json()["token"] for r in replies}) == 1
    assert sum("idempotent-replayed" in r.headers for r in replies) == 19
    assert made() == (tokens + 1, lines + 1)


def test_a_secret_in_a_kept_answer_is_not_readable_in_the_database(manager: Running) -> None:
    token = keyed(manager, "a-secret-answer", "/tokens", {}).json()["token"]
    rows = manager.site.sql("SELECT key_hash, body FROM idempotency")
    assert rows
    for key, body in rows:
        assert b"token" not in body
        assert token.encode() not in body
        assert "secret-answer" not in key


def test_the_same_key_for_another_change_is_refused(manager: Running) -> None:
    body = {"name": "two", "serials": ["SN-2"]}
    assert keyed(manager, "one-key-two-bodies", "/devices", body).status_code == 201
    other = keyed(manager, "one-key-two-bodies", "/devices", body | {"name": "three"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    elsewhere = keyed(manager, "one-key-two-bodies", "/tokens", {})
    assert elsewhere.status_code == 422
    again = keyed(manager, "one-key-two-bodies", "/devices", body)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")


def test_a_refused_change_is_not_kept_and_can_be_asked_for_again(manager: Running) -> None:
    path, body = "/devices/later/allocation", {S: 1}
    refused = keyed(manager, "asked-too-early", path, body, "PUT")
    assert refused.json()["code"] == "unknown_device"
    manager.add("later", "SN-LATER")
    assert keyed(manager, "asked-too-early", path, body, "PUT").status_code == 200


def test_keys_of_two_operators_are_two_keys_and_one_that_is_none_is_refused(
    manager: Running,
) -> None:
    body = {"username": "other", "role": "license_operator", "password": "a long enough word 7"}
    manager.call("POST", "/operators", body, 201)
    other = manager.client(signed_in=False)
    other.auth = httpx.BasicAuth("other", "a long enough word 7")
    mine = keyed(manager, "the-same-key", "/tokens", {}).json()
    reply = other.post("/api/v1/tokens", json={}, headers={"Idempotency-Key": "the-same-key"})
    assert reply.status_code == 201
    assert reply.json()["id"] != mine["id"]
    for key in ("short", "with space in it", "x" * 256):
        assert keyed(manager, key, "/tokens", {}).json()["code"] == "bad_idempotency_key"
    other.close()


def test_a_kept_answer_is_forgotten_after_a_day(manager: Running) -> None:
    first = keyed(manager, "an-old-key-of-mine", "/tokens", {}).json()
    manager.site.alter(f"UPDATE idempotency SET made_at = {time.time() - 86_500}")  # noqa: S608
    assert keyed(manager, "another-key-now", "/tokens", {}).status_code == 201
    assert len(manager.site.sql("SELECT * FROM idempotency")) == 1
    assert keyed(manager, "an-old-key-of-mine", "/tokens", {}).json()["id"] != first["id"]


@pytest.mark.parametrize(
    ("thing", "change"),
    [
        ("/devices/one", ("PUT", "/devices/one/allocation", {S: 5})),
        ("/devices/one", ("PATCH", "/devices/one", {"apply": "live"})),
        ("/tenants/north", ("PUT", "/tenants/north", {S: 20})),
    ],
)
def test_a_change_on_top_of_somebody_elses_is_refused_and_does_nothing(
    manager: Running, thing: str, change: tuple[str, str, dict[str, Any]]
) -> None:
    method, path, body = change
    read = manager.http.get(f"/api/v1{thing}")
    tag = read.headers["etag"]
    assert read.json()["etag"] == tag

    def send(value: dict[str, Any], match: str) -> httpx.Response:
        return manager.http.request(
            method, f"/api/v1{path}", json=value, headers={"If-Match": match}
        )

    assert send(body, tag).status_code == 200
    mine = {k: ("restart" if v == "live" else v + 1) for k, v in body.items()}
    late = send(mine, tag)
    assert (late.status_code, late.json()["code"]) == (412, "changed_meanwhile")
    assert "was changed since you read it" in late.json()["detail"]
    now = manager.http.get(f"/api/v1{thing}").json()
    assert now["etag"] != tag
    assert send(mine, f'"nothing", {now["etag"]}').status_code == 200
    assert send(body, "*").status_code == 200
    assert send(body, "no tag").json()["code"] == "bad_request"
    assert send(body, f"W/{now['etag']}").status_code == 412


def test_what_devices_report_is_no_change_of_what_operators_set(manager: Running) -> None:
    manager.add("busy", "SN-BUSY")
    device = manager.device("SN-BUSY")
    tag = manager.http.get("/api/v1/devices/busy").headers["etag"]
    device.in_use = {S: 3}
    device.contact()
    assert manager.http.get("/api/v1/devices/busy").headers["etag"] == tag


def test_pages_go_on_where_the_last_one_ended_whatever_came_between(manager: Running) -> None:
    for n in range(10):
        manager.add(f"page-{n}", f"SN-PAGE-{n}")
    seen: list[str] = []
    path = "/devices?q=page-&limit=3&sort=-name&count=true"
    page = manager.call("GET", path, status=200)
    assert page["total"] == 10
    while True:
        seen += [d["name"] for d in page["devices"]]
        if page["next"] is None:
            break
        manager.call("DELETE", f"/devices/{seen[-1]}", None, 200)
        page = manager.call("GET", f"{path}&cursor={page['next']}", status=200)
    assert seen == [f"page-{n}" for n in reversed(range(10))]
    first = manager.call("GET", path)["next"]
    for wrong in ("x", first[:-3], "W10", "WyJuYW1lIiwxXQ"):
        assert manager.call("GET", f"{path}&cursor={wrong}")["code"] == "bad_cursor"
    other = manager.call("GET", f"/devices?sort=name&cursor={first}")
    assert other["code"] == "bad_cursor"
