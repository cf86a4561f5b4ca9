"""Every role against every route: who is let in, and who is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from managerkit import Running, Site, running
from pageroutes import PAGES
from poolroutes import PASSWORD, routes_of

from callpool.manager.roles import ROLES

#: Letters of the roles that are let in: A administrator, L license operator, T tenant operator,
#: V viewer, U auditor; `*` whoever asks, `-` a device that signs what it says.
TABLE = {
    ("GET", "/api/v1/alarms"): "ALVU",
    ("GET", "/api/v1/alarms/history"): "ALVU",
    ("GET", "/api/v1/alarms/links"): "ALVU",
    ("POST", "/api/v1/alarms/{number}/acknowledge"): "AL",
    ("GET", "/api/v1/all-api-tokens"): "AU",
    ("DELETE", "/api/v1/all-api-tokens/{number}"): "A",
    ("GET", "/api/v1/api-tokens"): "ALTVU",
    ("POST", "/api/v1/api-tokens"): "ALTVU",
    ("DELETE", "/api/v1/api-tokens/{number}"): "ALTVU",
    ("GET", "/api/v1/audit"): "AU",
    ("GET", "/api/v1/audit/head"): "AU",
    ("POST", "/api/v1/audit/verify"): "AU",
    ("GET", "/api/v1/bulk"): "ALTVU",
    ("POST", "/api/v1/bulk"): "ALT",
    ("GET", "/api/v1/devices"): "ALTVU",
    ("POST", "/api/v1/devices"): "ALT",
    ("DELETE", "/api/v1/devices/{name}"): "ALT",
    ("GET", "/api/v1/devices/{name}"): "ALTVU",
    ("PATCH", "/api/v1/devices/{name}"): "ALT",
    ("PUT", "/api/v1/devices/{name}/allocation"): "ALT",
    ("GET", "/api/v1/devices/{name}/hitless"): "ALTVU",
    ("POST", "/api/v1/devices/{name}/hitless"): "ALT",
    ("POST", "/api/v1/devices/{name}/hitless/{action}"): "ALT",
    ("POST", "/api/v1/devices/{name}/pair"): "ALT",
    ("DELETE", "/api/v1/devices/{name}/pair/{serial}"): "ALT",
    ("POST", "/api/v1/devices/{name}/replace"): "ALT",
    ("POST", "/api/v1/devices/{name}/resend"): "ALT",
    ("DELETE", "/api/v1/devices/{name}/request"): "ALT",
    ("DELETE", "/api/v1/devices/{name}/restart"): "ALT",
    ("POST", "/api/v1/devices/{name}/restart"): "ALT",
    ("GET", "/api/v1/journal"): "ALTVU",
    ("GET", "/api/v1/me"): "ALTVU",
    ("PUT", "/api/v1/me/password"): "ALTVU",
    ("GET", "/api/v1/openapi.json"): "*",
    ("GET", "/api/v1/operators"): "AU",
    ("POST", "/api/v1/operators"): "A",
    ("DELETE", "/api/v1/operators/{username}"): "A",
    ("PATCH", "/api/v1/operators/{username}"): "A",
    ("PUT", "/api/v1/operators/{username}/password"): "A",
    ("DELETE", "/api/v1/operators/{username}/sessions"): "A",
    ("GET", "/api/v1/orders"): "ALVU",
    ("POST", "/api/v1/orders"): "AL",
    ("GET", "/api/v1/pool"): "ALTVU",
    ("GET", "/api/v1/requests"): "ALTVU",
    ("GET", "/api/v1/sessions"): "ALTVU",
    ("POST", "/api/v1/sessions"): "*",
    ("DELETE", "/api/v1/sessions/{session}"): "ALTVU",
    ("GET", "/api/v1/smart"): "ALVU",
    ("GET", "/api/v1/smart/accounts"): "ALVU",
    ("POST", "/api/v1/smart/accounts"): "AL",
    ("GET", "/api/v1/smart/alerts"): "ALVU",
    ("DELETE", "/api/v1/smart/alerts/{number}"): "AL",
    ("GET", "/api/v1/smart/entitlements"): "ALVU",
    ("GET", "/api/v1/smart/events"): "ALVU",
    ("GET", "/api/v1/smart/instances"): "ALVU",
    ("DELETE", "/api/v1/smart/instances/{name}"): "AL",
    ("POST", "/api/v1/smart/instances/{name}/move"): "AL",
    ("POST", "/api/v1/smart/instances/{name}/renew"): "AL",
    ("POST", "/api/v1/smart/instances/{name}/revoke"): "AL",
    ("GET", "/api/v1/smart/orders"): "ALVU",
    ("POST", "/api/v1/smart/orders"): "AL",
    ("GET", "/api/v1/smart/tokens"): "ALVU",
    ("POST", "/api/v1/smart/tokens"): "AL",
    ("DELETE", "/api/v1/smart/tokens/{number}"): "AL",
    ("POST", "/api/v1/smart/transfers"): "AL",
    ("POST", "/api/v1/smart/virtual-accounts"): "AL",
    ("GET", "/api/v1/tenants"): "ALTVU",
    ("POST", "/api/v1/tenants"): "AL",
    ("GET", "/api/v1/tenants/{name}"): "ALTVU",
    ("PUT", "/api/v1/tenants/{name}"): "AL",
    ("GET", "/api/v1/tokens"): "ALTVU",
    ("POST", "/api/v1/tokens"): "ALT",
    ("DELETE", "/api/v1/tokens/{number}"): "ALT",
    ("POST", "/api/v1/units/{serial}/unlock"): "ALT",
    ("POST", "/api/v1/units/{serial}/revoke"): "ALT",
    ("GET", "/api/v1/usage"): "ALTVU",
    ("GET", "/api/v1/usage/advice"): "ALTVU",
    ("POST", "/device/v1/contact"): "-",
    ("POST", "/device/v1/enrol"): "-",
    ("POST", "/device/v1/hints"): "-",
    ("GET", "/metrics"): "ALVU",
    ("POST", "/smart/v1/authorize"): "-",
    ("POST", "/smart/v1/deregister"): "-",
    ("POST", "/smart/v1/hints"): "-",
    ("POST", "/smart/v1/register"): "-",
    ("POST", "/smart/v1/renew-id"): "-",
    **PAGES,
}
LETTERS = {
    "administrator": "A",
    "license_operator": "L",
    "tenant_operator": "T",
    "viewer": "V",
    "auditor": "U",
}
#: What stands for a path's parameter: nothing that there is.
NOTHING = {"number": "999999", "session": "0123456789abcdef"}


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Running]:
    site = Site(tmp_path_factory.mktemp("roles") / "manager")
    with running(site) as made:
        made.call("POST", "/tenants", {"name": "north"}, 201)
        yield made


def test_every_route_has_its_row(tmp_path: Path) -> None:
    assert set(routes_of(Site(tmp_path / "manager"))) == set(TABLE)


def test_every_role_has_its_letter() -> None:
    assert set(LETTERS) == set(ROLES)


@pytest.mark.parametrize("role", LETTERS)
def test_a_role_is_let_in_where_the_table_says_so_and_nowhere_else(
    manager: Running, role: str
) -> None:
    name = f"one-{role}"
    tenants = ["north"] if role == "tenant_operator" else []
    body = {"username": name, "role": role, "tenants": tenants, "password": PASSWORD}
    manager.call("POST", "/operators", body, 201)
    client = manager.client(signed_in=False)
    signed = client.post("/api/v1/sessions", json={"username": name, "password": PASSWORD})
    client.headers["Authorization"] = f"Bearer {signed.json()['token']}"
    wrong = []
    for (method, path), who in TABLE.items():
        if who in "*-":
            continue
        reply = client.request(method, filled(path))
        assert reply.status_code < 500, (method, path, reply.text)
        let_in = code_of(reply) != "not_permitted"
        if let_in != (LETTERS[role] in who):
            wrong.append((method, path, reply.status_code))
        assert (reply.status_code == 403) or let_in
    assert wrong == []
    client.close()


def test_a_stranger_is_let_in_nowhere_but_at_the_door(manager: Running) -> None:
    stranger = manager.client(signed_in=False)
    for (method, path), who in TABLE.items():
        reply = stranger.request(method, filled(path))
        if who in "*-":
            # He comes as far as his own words: a body that is none is refused.
            assert reply.status_code in (200, 404, 415), (method, path, reply.text)
        elif (method, path) in PAGES and method == "GET" and path != "/live":
            assert reply.headers["location"].startswith("/sign-in?"), (method, path)
        else:
            assert (reply.status_code, code_of(reply)) == (401, "not_signed_in"), (method, path)
    stranger.close()


def filled(path: str) -> str:
    for part in path.split("/"):
        if part.startswith("{"):
            path = path.replace(part, NOTHING.get(part.strip("{}"), "nothing"))
    return path


def code_of(reply: httpx.Response) -> str:
    kind = reply.headers.get("content-type", "")
    if kind.startswith("text/html"):
        # A page that refuses says the code beside the sentence.
        said = re.search(r'role="alert">[^<]*<code>(\w+)</code>', reply.text)
        return said[1] if said else ""
    return str(reply.json()["code"]) if kind == "application/problem+json" else ""
