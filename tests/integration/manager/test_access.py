"""Sign-in, sessions, roles, API tokens, on a running manager."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from managerkit import MAIN, Running, Site, cli, running

PASSWORD = "a long enough word 7"


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Running]:
    site = Site(tmp_path_factory.mktemp("access") / "manager")
    with running(site) as made:
        made.import_order(site.order("PO-1", sbc_sessions=100, far_end_users=100))
        for name in ("north", "south"):
            made.call("POST", "/tenants", {"name": name, "shares": {"sbc_sessions": 20}}, 201)
            made.add(f"{name}-1", f"SN-{name.upper()}", tenant=name)
        yield made


def operator(manager: Running, name: str, role: str, *tenants: str) -> None:
    body = {"username": name, "role": role, "tenants": list(tenants), "password": PASSWORD}
    manager.call("POST", "/operators", body, 201)


class Browser:
    """A browser's session: a cookie, and what its pages know."""

    def __init__(self, manager: Running, name: str, password: str = PASSWORD) -> None:
        self.http = manager.client(signed_in=False)
        body = {"username": name, "password": password, "browser": True}
        self.reply = self.http.post("/api/v1/sessions", json=body)
        assert self.reply.status_code == 201, self.reply.text
        self.csrf = self.reply.json()["csrf"]

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self.http.request(method, f"/api/v1{path}", json=body, headers=headers)


def test_a_browsers_session_is_a_cookie_that_no_script_and_no_other_site_gets(
    manager: Running,
) -> None:
    operator(manager, "alice", "license_operator")
    browser = Browser(manager, "alice")
    cookie = browser.reply.headers["set-cookie"]
    assert cookie.startswith("__Host-callpool=")
    assert {"secure", "httponly", "samesite=strict", "path=/"} <= {
        part.strip().lower() for part in cookie.split(";")
    }
    assert "token" not in browser.reply.json()
    assert browser.call("GET", "/me").json()["username"] == "alice"
    browser.http.close()


def test_a_change_by_a_browser_needs_the_value_that_only_our_pages_know(manager: Running) -> None:
    operator(manager, "bob", "license_operator")
    browser = Browser(manager, "bob")
    body = {"sbc_sessions": 3}
    path = "/devices/north-1/allocation"
    assert browser.call("PUT", path, body).json()["code"] == "csrf_needed"
    wrong = browser.call("PUT", path, body, **{"X-CSRF-Token": "0" * 64})
    assert (wrong.status_code, wrong.json()["code"]) == (403, "csrf_needed")
    good = {"X-CSRF-Token": browser.csrf}
    for origin in ("https://evil.example", "null", "http://localhost"):
        foreign = browser.call("PUT", path, body, **good, Origin=origin)
        assert (foreign.status_code, foreign.json()["code"]) == (403, "foreign_origin")
    sent = browser.call("PUT", path, body, **good, **{"Sec-Fetch-Site": "cross-site"})
    assert sent.json()["code"] == "foreign_origin"
    assert browser.call("PUT", path, body, **good, Origin=manager.url).status_code == 200
    # Credentials that a browser remembers by itself do not help another site either.
    basic = manager.http.post("/api/v1/units/SN-NORTH/unlock", headers={"Origin": "https://e.x"})
    assert basic.json()["code"] == "foreign_origin"
    browser.http.close()


def test_a_session_ends_by_sign_out_by_password_and_by_being_disabled(manager: Running) -> None:
    operator(manager, "carol", "viewer")
    first, second = Browser(manager, "carol"), Browser(manager, "carol")
    assert len(first.call("GET", "/sessions").json()["sessions"]) == 2
    csrf = {"X-CSRF-Token": first.csrf}
    assert first.call("DELETE", "/sessions/current", **csrf).status_code == 200
    first.http.cookies.clear()
    assert first.call("GET", "/me").json()["code"] == "not_signed_in"
    third = Browser(manager, "carol")
    changed = third.call(
        "PUT", "/me/password", {"old": PASSWORD, "new": "another long word 8"},
        **{"X-CSRF-Token": third.csrf},
    )  # fmt: skip
    assert changed.status_code == 200
    assert second.call("GET", "/me").json()["code"] == "session_expired"
    assert third.call("GET", "/me").status_code == 200
    manager.call("PATCH", "/operators/carol", {"disabled": True}, 200)
    assert third.call("GET", "/me").json()["code"] == "session_expired"
    body = {"username": "carol", "password": "another long word 8"}
    again = third.http.post("/api/v1/sessions", json=body)
    assert again.json()["code"] == "bad_credentials"
    for browser in (first, second, third):
        browser.http.close()


def test_an_api_token_opens_its_scopes_and_never_more_than_its_owner(manager: Running) -> None:
    operator(manager, "dave", "viewer")
    dave = Browser(manager, "dave")
    csrf = {"X-CSRF-Token": dave.csrf}
    body = {"name": "script", "scopes": ["read", "audit"]}
    assert dave.call("POST", "/api-tokens", body, **csrf).json()["code"] == "bad_scope"
    made = dave.call("POST", "/api-tokens", {"name": "s", "scopes": ["read", "pool"]}, **csrf)
    token = made.json()["token"]
    plain = manager.client(signed_in=False)
    with_token = {"Authorization": f"Bearer {token}"}
    assert plain.get("/api/v1/pool", headers=with_token).status_code == 200
    for method, path in (("DELETE", "/devices/north-1"), ("GET", "/operators"), ("GET", "/me")):
        refused = plain.request(method, f"/api/v1{path}", headers=with_token)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_permitted")
    listed = dave.call("GET", "/api-tokens")
    assert token not in listed.text
    assert listed.json()["api_tokens"][0]["last_used"] is not None
    kept = manager.site.sql("SELECT hash FROM api_token")
    assert token not in str(kept)
    manager.call("PATCH", "/operators/dave", {"disabled": True}, 200)
    gone = plain.get("/api/v1/pool", headers=with_token)
    assert (gone.status_code, gone.json()["code"]) == (401, "token_refused")
    plain.close()
    dave.http.close()


def test_the_last_administrator_stays(manager: Running) -> None:
    for method, path, body in (
        ("DELETE", "/operators/admin", None),
        ("PATCH", "/operators/admin", {"disabled": True}),
        ("PATCH", "/operators/admin", {"role": "viewer"}),
    ):
        assert manager.call(method, path, body, 409)["code"] == "last_administrator"
    assert manager.call("GET", "/me", status=200)["role"] == "administrator"


def test_refusals_of_permission_and_sign_ins_are_in_the_audit_log(manager: Running) -> None:
    operator(manager, "erin", "auditor")
    erin = Browser(manager, "erin")
    csrf = {"X-CSRF-Token": erin.csrf}
    refused = erin.call("DELETE", "/devices/north-1", **csrf)
    assert refused.status_code == 403
    lines = erin.call("GET", "/audit?who=erin").json()["lines"]
    assert [line["cause"] for line in lines] == ["permission_refused", "signed_in"]
    first = lines[0]
    assert (first["role"], first["via"], first["outcome"]) == ("auditor", "browser", "refused")
    assert first["source"] == "127.0.0.1"
    assert first["detail"]["path"] == "/api/v1/devices/north-1"
    erin.http.close()


def test_an_operator_is_let_in_again_on_the_host(tmp_path: Path) -> None:
    site = Site(tmp_path / "manager")
    with running(site) as manager:
        directory = str(site.layout.directory)
        status, out, error = cli(MAIN, "operator", "reset", "admin", "--dir", directory)
        assert status == 0, error
        file = site.layout.directory / "admin.password"
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.read_text().strip() not in out
        assert manager.http.get("/api/v1/pool").status_code == 401
        new = httpx.BasicAuth("admin", file.read_text().strip())
        assert manager.http.get("/api/v1/pool", auth=new).status_code == 200
        printed = subprocess.run(
            [sys.executable, "-c", MAIN, "operator", "reset", "--dir", directory, "--out", "-"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        newer = httpx.BasicAuth("admin", printed.stdout.strip())
        assert manager.http.get("/api/v1/pool", auth=newer).status_code == 200


def test_everything_served_carries_the_policy(manager: Running) -> None:
    for path in ("/api/v1/pool", "/nothing", "/api/v1/me"):
        headers = manager.http.get(path, auth=None if path == "/api/v1/me" else ("x", "y")).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
