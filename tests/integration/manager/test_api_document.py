"""The OpenAPI document is complete and true: schemathesis asks a real manager all that it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from managerkit import Running, Site, running
from poolroutes import routes_of

from callpool.manager.app import build
from callpool.manager.core import Manager
from callpool.manager.declare import declared

S = "sbc_sessions"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
# That nobody gets in without signing in is `test_roles.py`'s: guesses are limited, and 429 is
# what schemathesis would be answered.


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Running]:
    """A manager with something of everything, so that answers are not empty lists."""
    site = Site(tmp_path_factory.mktemp("document") / "manager")
    with running(site) as made:
        made.import_order(site.order("PO-1", sbc_sessions=50, far_end_users=50))
        made.call("POST", "/tenants", {"name": "north", "shares": {S: 20}}, 201)
        made.add("one", "SN-1", tenant="north", apply="live")
        made.add("two", "SN-2", tenant="north")
        made.add("pair", "SN-3", "SN-4")
        made.add("waits", "SN-5", tenant="north", apply="live")
        for serial, name in (("SN-1", "one"), ("SN-2", "two")):
            made.call("PUT", f"/devices/{name}/allocation", {S: 10}, 200)
            device = made.device(serial)
            device.maximum = {S: 5, "far_end_users": 5}
            device.contact()
            device.in_use = {S: 2}
            device.contact(alarms=("lease_critical",), software="callpool test")
        made.call("PUT", "/devices/waits/allocation?wait=true", {S: 5}, 200)
        made.call("POST", "/devices/pair/restart", {"window": "02:00-03:00"}, 202)
        made.call("POST", "/smart/accounts", {"name": "acme"}, 201)
        made.call("POST", "/smart/tokens", {}, 201)
        made.call("POST", "/api-tokens", {"name": "script", "scopes": ["read"]}, 201)
        body = {"username": "tina", "role": "tenant_operator", "tenants": ["north"]}
        made.call("POST", "/operators", body, 201)
        yield made


@pytest.fixture(scope="module")
def document(manager: Running) -> Any:
    with manager.client(signed_in=False) as stranger:
        return stranger.get("/api/v1/openapi.json").json()


def test_the_document_has_every_route_of_the_operators(document: Any, tmp_path: Path) -> None:
    said = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    there = {r for r in routes_of(Site(tmp_path / "manager")) if r[1].startswith("/api/v1")}
    assert said == there
    assert document["openapi"] == "3.1.0"


def test_every_operation_says_what_it_takes_answers_and_needs(document: Any) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"].endswith((".", "}")), (method, path)
            good = [code for code in operation["responses"] if code.startswith("2")]
            assert good, (method, path)
            for code in good:
                assert operation["responses"][code]["content"]["application/json"]["schema"]
            assert operation["x-permission"]
            names = [p["name"] for p in operation["parameters"] if p["in"] == "path"]
            assert sorted(names) == sorted(
                part.strip("{}") for part in path.split("/") if part.startswith("{")
            )
    ids = [o["operationId"] for item in document["paths"].values() for o in item.values()]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere(document: Any) -> None:
    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    for reference in walk(document):
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_what_is_shown_has_the_form_that_it_is_declared_to_have(manager: Running) -> None:
    local = Manager(manager.site.layout)
    app = build(local, 443)
    seen = 0
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            answer = None if "OPTIONS" in handler.http_methods else declared(handler).answer
            if answer is None or "GET" not in handler.http_methods:
                continue
            path = route.path_format.replace("{name}", "one")
            if "tenants/" in path:
                path = "/api/v1/tenants/north"
            reply = manager.http.get(path)
            assert reply.status_code == 200, (path, reply.text)
            msgspec.json.decode(reply.content, type=answer)
            seen += 1
    local.close()
    assert seen > 25
    preview = manager.http.put("/api/v1/devices/one/allocation?preview=true", json={S: 1}).json()
    assert preview["devices"][0]["types"][S]["to_reclaim"]


def asked(manager: Running, *options: str) -> None:
    """Run schemathesis against a manager, as the administrator; fail with what it says."""
    body = {"username": "admin", "password": manager.site.password}
    token = manager.http.post("/api/v1/sessions", json=body).json()["token"]
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "schemathesis"),
            "run",
            f"{manager.url}/api/v1/openapi.json",
            "--tls-verify",
            str(manager.site.layout.ca),
            "--header",
            f"Authorization: Bearer {token}",
            "--checks",
            ",".join(CHECKS),
            # What ends the session that asks, or the password it came by.
            "--exclude-path",
            "/api/v1/me/password",
            "--exclude-operation-id",
            "access_set_password",
            "--exclude-operation-id",
            "access_end_sessions",
            "--no-shrink",
            "--warnings",
            "off",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        cwd=manager.site.layout.directory,
    )
    assert done.returncode == 0, done.stdout[-40_000:] + done.stderr[-4_000:]


def test_schemathesis_finds_no_server_error_and_no_answer_that_is_not_documented(
    manager: Running,
) -> None:
    asked(manager, "--phases", "fuzzing", "--max-examples", "10", "--seed", "1")


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_schemathesis_finds_none_in_many_more_examples(manager: Running) -> None:
    asked(manager, "--max-examples", "60", "--max-time", "400")
