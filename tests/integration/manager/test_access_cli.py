"""`callpool operator` and `callpool audit`: what the API can do, the command line can."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from managerkit import Running, Site, cli, load, running

PROGRAM = "from callpool.cli import main; main()"


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    site = Site(tmp_path_factory.mktemp("cli") / "manager")
    with running(site) as made:
        made.call("POST", "/tenants", {"name": "north"}, 201)
        made.add("sbc", "SN-1", tenant="north")
        yield made


def env(manager: Running, **more: str) -> dict[str, str]:
    return {
        "CALLPOOL_MANAGER": manager.url,
        "CALLPOOL_CA_FILE": str(manager.site.layout.ca),
        "CALLPOOL_PASSWORD": manager.site.password,
    } | more


def said(manager: Running, *words: str, **more: str) -> str:
    status, out, error = cli(PROGRAM, *words, env=env(manager, **more))
    assert status == 0, error or out
    return out.strip()


def test_an_operator_is_added_works_within_his_role_and_is_disabled(manager: Running) -> None:
    word = said(manager, "operator", "add", "bob", "--role", "tenant_operator", "--tenant", "north")
    as_bob = {"CALLPOOL_USERNAME": "bob", "CALLPOOL_PASSWORD": word}
    assert "tenant_operator of north" in said(manager, "operator", "me", **as_bob)
    table = said(manager, "pool", "show", **as_bob)
    assert "sbc" in table
    status, _, error = cli(PROGRAM, "operator", "list", env=env(manager, **as_bob))
    assert (status, "[not_permitted]" in error) == (1, True)
    assert "bob" in said(manager, "operator", "list")
    assert said(manager, "operator", "set", "bob", "--disable") == "bob is changed."
    status, _, error = cli(PROGRAM, "pool", "show", env=env(manager, **as_bob))
    assert (status, "[bad_credentials]" in error) == (1, True)
    new = said(manager, "operator", "password", "bob")
    assert new != word
    assert said(manager, "operator", "remove", "bob") == "bob is removed."


def test_a_session_and_an_api_token_stand_in_for_the_password(manager: Running) -> None:
    session = said(manager, "operator", "sign-in")
    by_session = {"CALLPOOL_PASSWORD": "", "CALLPOOL_TOKEN": session}
    assert "administrator" in said(manager, "operator", "me", **by_session)
    token = said(manager, "operator", "token", "reader", "--scope", "read", **by_session)
    by_token = {"CALLPOOL_PASSWORD": "", "CALLPOOL_TOKEN": token}
    assert "sbc" in said(manager, "pool", "show", **by_token)
    status, _, error = cli(PROGRAM, "pool", "remove", "sbc", env=env(manager, **by_token))
    assert (status, "[not_permitted]" in error) == (1, True)
    listed = load(said(manager, "operator", "tokens", "--json"))["api_tokens"]
    assert [t["name"] for t in listed] == ["reader"]
    assert token not in str(listed)
    said(manager, "operator", "revoke", str(listed[0]["id"]))
    status, _, error = cli(PROGRAM, "pool", "show", env=env(manager, **by_token))
    assert (status, "[token_refused]" in error) == (1, True)
    assert said(manager, "operator", "sign-out", **by_session) == "Signed out."
    status, _, error = cli(PROGRAM, "pool", "show", env=env(manager, **by_session))
    assert (status, "[session_expired]" in error) == (1, True)


def test_the_audit_log_is_shown_exported_and_verified(manager: Running, tmp_path: Path) -> None:
    assert "device_added" in said(manager, "audit", "show", "--tenant", "north")
    lines = said(manager, "audit", "export", "--format", "csv").splitlines()
    assert lines[0].startswith('"entry","time","who","role"')
    whole = [
        load(line) for line in said(manager, "audit", "export", "--format", "jsonl").split("\n")
    ]
    assert [line["entry"] for line in whole] == list(range(len(whole), 0, -1))
    head = tmp_path / "head.jws"
    head.write_text(said(manager, "audit", "head"))
    assert "The log is whole" in said(manager, "audit", "verify", "--head", str(head))
    directory = str(manager.site.layout.directory)
    assert "The log is whole" in said(manager, "audit", "verify", "--dir", directory)
    verdict = load(said(manager, "audit", "verify", "--json"))
    assert verdict["whole"]
    assert verdict["head"]["product_key"] == manager.site.product_key


def test_verify_says_what_is_wrong_and_its_status_is_1(manager: Running) -> None:
    with contextlib.closing(sqlite3.connect(manager.site.layout.database, timeout=60)) as database:
        [(was,)] = database.execute("SELECT who FROM journal WHERE entry = 2").fetchall()

        def alter(who: str) -> None:
            database.execute("UPDATE journal SET who = ? WHERE entry = 2", (who,))
            database.commit()

        alter("nobody")
        try:
            for where in ((), ("--dir", str(manager.site.layout.directory))):
                status, out, _ = cli(PROGRAM, "audit", "verify", *where, env=env(manager))
                assert status == 1
                assert "Line 2 is not what was written after line 1." in out
                assert "NOT whole" in out
        finally:
            alter(was)  # other tests find the log whole, in whichever order
