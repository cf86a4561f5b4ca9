"""The event log for people and spreadsheets, and instances that move, over HTTPS."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from authoritykit import SMART, SmartDevice, buy, smart_token
from managerkit import Running, Site, cli, running


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Running]:
    with running(Site(tmp_path / "manager")) as made:
        made.call("POST", "/smart/accounts", {"name": "acme"}, 201)
        made.call("POST", "/smart/virtual-accounts", {"name": "lab"}, 201)
        yield made


def registered(manager: Running, serial: str, va: str = "default") -> SmartDevice:
    made = SmartDevice(manager, serial)
    made.register(smart_token(manager, va))
    return made


def as_csv(manager: Running, query: str, accept: str = "") -> list[dict[str, str]]:
    reply = manager.http.get(
        f"/api/v1/smart/events?{query}", headers={"accept": accept} if accept else {}
    )
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(reply.text, newline="")))


def events(manager: Running, query: str) -> list[dict[str, Any]]:
    return list(manager.call("GET", f"/smart/events?{query}", status=200)["events"])


def test_the_whole_log_comes_as_csv_beyond_one_page(manager: Running) -> None:
    made = registered(manager, "SP-1")
    for round_ in range(505):  # two events each: more than the 1000 of one read
        made.authorize(5 if round_ % 2 else 10)
    everything = as_csv(manager, "format=csv")
    numbers = [int(row["id"]) for row in everything]
    (total,) = manager.site.sql("SELECT count(*) FROM smart_event")[0]
    assert total > 1000
    assert numbers == sorted(set(numbers), reverse=True)
    assert len(numbers) == total
    assert [r["id"] for r in as_csv(manager, "limit=3", "text/csv")] == [
        str(n) for n in numbers[:3]
    ]
    assert len(as_csv(manager, "format=csv&limit=1003")) == 1003


def test_events_are_filtered_by_account_instance_kind_and_time(manager: Running) -> None:
    manager.call("POST", "/smart/accounts", {"name": "other"}, 201)
    one, two = registered(manager, "SP-1"), registered(manager, "SP-2", "lab")
    one.authorize(5)
    two.clock.advance(3600)
    between = two.clock.now().wall - 1800
    two.authorize(5)
    assert {e["account"] for e in events(manager, "account=other")} == {"other"}
    assert {e["virtual_account"] for e in events(manager, "virtual_account=lab")} == {"lab"}
    for name in ("SP-2", two.instance_id):
        found = events(manager, f"instance={name}&kind=count_set")
        assert [e["who"] for e in found] == ["SP-2"]
    late = events(manager, f"since={between}")
    assert {e["who"] for e in late if e["kind"] == "count_set"} == {"SP-2"}
    early = events(manager, f"until={between}")
    assert {e["who"] for e in early if e["kind"] == "count_set"} == {"SP-1"}
    assert len(late) + len(early) == len(events(manager, "limit=1000"))
    assert len(as_csv(manager, f"format=csv&since={between}")) == len(late)


def test_a_filter_that_cannot_be_is_refused_by_name(manager: Running) -> None:
    for query, code in (
        ("since=yesterday", "bad_request"),
        ("until=inf", "bad_request"),
        ("format=xlsx", "bad_request"),
        ("account=nobody", "unknown_account"),
        ("account=acme&virtual_account=moon", "unknown_virtual_account"),
        ("kind=count_sett", "unknown_kind"),
        ("kind=nothing&format=csv", "unknown_kind"),
    ):
        reply = manager.http.get(f"/api/v1/smart/events?{query}")
        assert (reply.json()["code"], reply.status_code // 100) == (code, 4), query
    with manager.client(signed_in=False) as stranger:
        reply = stranger.get("/api/v1/smart/events?format=csv")
        assert (reply.status_code, reply.json()["code"]) == (401, "not_signed_in")


def test_the_command_prints_csv_and_understands_days(manager: Running) -> None:
    def typed(*words: str) -> tuple[int, str, str]:
        where = ("--manager", manager.url, "--ca-file", str(manager.site.layout.ca))
        return cli(SMART, *where, *words, env={"CALLPOOL_PASSWORD": manager.site.password})

    manager.call("POST", "/smart/tokens", {"description": "=cmd()"}, 201)
    status, out, error = typed("events", "--csv")
    assert status == 0, error
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {"account_added", "virtual_account_added", "token_made"} <= {r["kind"] for r in rows}
    assert typed("events", "--csv", "--until", "2001-01-31")[1].count("\n") == 1
    assert typed("events", "--since", "2001-01-31T10:00", "--kind", "token_made")[0] == 0
    for words, code in (
        (("events", "--since", "soon"), "bad_date"),
        (("events", "--csv", "--account", "x"), "unknown_account"),
        (("events", "--kind", "count_sett"), "unknown_kind"),
        (("alerts", "--kind", "count_set"), "unknown_kind"),
        (("move", "SP-1", "--to", "lab"), "unknown_instance"),
    ):
        status, _, error = typed(*words)
        assert (status, error.strip().endswith(f"[{code}]")) == (1, True), error
        assert error.strip().count("\n") == 0


def test_moving_an_instance_weighs_both_accounts_and_tells_those_concerned(
    manager: Running,
) -> None:
    buy(manager, "PO-1", 100)
    one, two, three = (registered(manager, f"SP-{n}") for n in (1, 2, 3))
    three.authorize(10)
    other = registered(manager, "SP-4", "lab")
    assert other.status(0) == "in_compliance"
    one.authorize(60)
    assert two.status(60) == "out_of_compliance"
    for made in (one, three):
        assert made.status(60 if made is one else 10) == "out_of_compliance"
    body = {"virtual_account": "lab"}
    manager.call("POST", f"/smart/instances/{two.serial}/move", body, 200)
    rows = {r["serial"]: r for r in manager.call("GET", "/smart/instances")["instances"]}
    assert {s: r["hint_waiting"] for s, r in rows.items()} == {
        "SP-1": True,  # is in compliance again
        "SP-2": True,  # has moved
        "SP-3": True,
        "SP-4": False,  # has nothing configured
    }
    found = manager.call("GET", "/smart/entitlements")["entitlements"]
    assert [(r["virtual_account"], r["in_use"], r["balance"]) for r in found] == [
        ("default", 70, 30),
        ("lab", 60, -60),
    ]
    assert one.status(60) == "in_compliance"
    reply = two.authorize(60)
    assert (reply.virtual_account, reply.authorization.status) == ("lab", "out_of_compliance")
    kinds = {(e["virtual_account"], e["kind"]) for e in events(manager, "instance=SP-2")}
    assert {("default", "instance_moved"), ("lab", "instance_moved")} <= kinds
    again = manager.call("POST", f"/smart/instances/{two.serial}/move", body, 400)
    assert again["code"] == "same_virtual_account"
    nowhere = {"virtual_account": "moon"}
    code = manager.call("POST", f"/smart/instances/{two.serial}/move", nowhere, 404)["code"]
    assert code == "unknown_virtual_account"
