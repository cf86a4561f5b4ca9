"""Bad input at the operator's command line: one sentence, a stable code, exit 1, nothing done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from managerkit import POOL, Running, Site, cli, running

from callpool.host.console import run
from callpool.manager.pool_commands import pool_app
from callpool.wire.envelope import ORDER, sign, unverified

S = "sbc_sessions"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Site:
    return Site(tmp_path_factory.mktemp("bad") / "manager")


@pytest.fixture(scope="module")
def manager(site: Site) -> Iterator[Running]:
    """100 sessions; tenant `east` has 30 of them; `pair` is an HA pair, `wide` supports 20."""
    with running(site) as made:
        made.import_order(site.order("PO-1", sbc_sessions=100))
        made.call("POST", "/tenants", {"name": "east", "shares": {S: 30}}, 201)
        made.add("a", "A1")
        made.add("e", "E1", tenant="east")
        made.add("pair", "P1", "P2")
        made.add("wide", "W1", apply="live")
        device = made.device("W1")
        device.maximum = {S: 20}
        device.contact()
        yield made
        site.check_sums()


@pytest.fixture
def words(
    site: Site, manager: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Path]:
    """Point the command line at the manager; returns a directory for its files."""
    monkeypatch.setenv("CALLPOOL_MANAGER", manager.url)
    monkeypatch.setenv("CALLPOOL_CA_FILE", str(site.layout.ca))
    monkeypatch.setenv("CALLPOOL_PASSWORD", site.password)
    before = contents(manager)
    yield tmp_path
    assert contents(manager) == before


def contents(manager: Running) -> list[Any]:
    """Return what is allocated and imported."""
    pool = manager.pool()
    return [
        [(d["name"], d["tenant"], d["apply"], d["allocation"]) for d in pool["devices"]],
        pool["tenants"],
        manager.call("GET", "/orders"),
    ]


def check(capsys: pytest.CaptureFixture[str], code: str, said: str, *asked: str) -> None:
    status = run(pool_app, asked)
    out, error = capsys.readouterr()
    assert (status, out) == (1, ""), (out, error)
    assert error.startswith("callpool: "), error
    assert error.endswith(f" [{code}]\n"), error
    assert error.count("\n") == 1, error
    assert said in error


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (("allocate", "nobody", "5"), "unknown_device", "no device named 'nobody'"),
        (("allocate", "a", "5", "--tenant", "east"), "unknown_device", "Tenant east has no"),
        (("allocate", "a", "5", "--tenant", "west"), "unknown_tenant", "named 'west'"),
        (("allocate", "P2", "5"), "half_of_pair", "allocated as one"),
        (("allocate", "a", "71"), "pool_exceeded", "at most 70"),
        (("allocate", "pair", "36"), "pool_exceeded", "at most 35 (an HA pair costs 2"),
        (("allocate", "e", "31"), "tenant_exceeded", "at most 30"),
        (("allocate", "a", "-1"), "bad_count", "not '-1'"),
        (("allocate", "a", "1.5"), "bad_count", "not '1.5'"),
        (("allocate", "a", "cps=5"), "unknown_license_type", "'cps'"),
        (("allocate", "a", "71", "--preview"), "pool_exceeded", "at most 70"),
        (("tenant", "east", "101"), "pool_exceeded", "at most 100"),
        (("set", "a", "--tenant", "west"), "unknown_tenant", "'west'"),
        (("set", "a", "--apply", "soon"), "bad_apply", "'restart' or 'live'"),
        (("remove", "nobody", "--preview"), "unknown_device", "'nobody'"),
        (("restart", "P1"), "half_of_pair", "pair"),
    ],
)
def test_what_cannot_be_is_refused(
    words: Path, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...], code: str, said: str
) -> None:
    check(capsys, code, said, *asked)


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        ("f.csv", "device,sbc_sessions\na,5\nnobody,5\n", "bad_row", "Row 2 (nobody): There is no"),
        ("f.csv", "device,sbc_sessions\na,5\nP1,5\n", "bad_row", "Row 2 (P1): "),
        ("f.csv", "device,sbc_sessions\na,5\ne,31\n", "bad_row", "Row 2 (e): 31 SBC Sessions"),
        ("f.csv", "device,sbc_sessions\na,5\na,6\n", "bad_row", "Row 2 (a): Row 1 names it"),
        ("f.csv", "device,sbc_sessions\na,5\ne,-1\n", "bad_row", "Row 2 (e): sbc_sessions is a"),
        ("f.csv", "device,sbc_sessions\na,5\ne\n", "bad_row", "Row 2 (e): It has 1 fields"),
        ("f.csv", "device,sessions\na,5\n", "bad_bulk_file", "names the columns"),
        ("f.csv", 'device,sbc_sessions\n"a,5\n', "bad_bulk_file", "not well-formed CSV"),
        ("f.csv", "", "bad_bulk_file", "names the columns"),
        ("f.json", "[", "bad_bulk_file", "not well-formed JSON"),
        ("f.json", '[{"device": "a", "sessions": 5}]', "bad_row", "Row 1 (a): 'sessions'"),
        ("f.json", '[{"device": "a", "sbc_sessions": true}]', "bad_row", "Row 1 (a): "),
        ("f.txt", "device\na\n", "bad_bulk_file", "ends in .csv or .json"),
    ],
)
def test_a_file_with_one_bad_row_does_nothing(
    words: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    code: str,
    said: str,
) -> None:
    file = words / name
    file.write_text(text)
    check(capsys, code, said, "bulk", str(file))


def test_a_file_that_is_not_there_or_names_another_tenants_device(
    words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(capsys, "no_such_file", "no such file", "bulk", str(words / "none.csv"))
    file = words / "f.csv"
    file.write_text("device,sbc_sessions\ne,5\na,5\n")
    said = "Row 2 (a): Tenant east has no device named 'a'. Nothing was changed."
    check(capsys, "bad_row", said, "bulk", str(file), "--tenant", "east")


def test_orders_that_cannot_be_imported(
    words: Path, capsys: pytest.CaptureFixture[str], site: Site
) -> None:
    order = json.loads(unverified(site.order("PO-2", sbc_sessions=5)))
    backward = {**order, "starts": order["ends"], "ends": order["starts"]}
    other = Site(words / "other")
    good = site.order("PO-3", sbc_sessions=5)
    head, dot, rest = good.partition(".")
    for envelope, code, said in (
        (sign(site.vendor, ORDER, backward), "bad_document", "An order must end after it starts."),
        (
            sign(site.vendor, ORDER, {**order, "ends": order["starts"]}),
            "bad_document",
            "must end after",
        ),
        (other.order("PO-4", sbc_sessions=5), "unknown_signer", ""),
        (head + dot + rest[:8] + ("B" if rest[8] == "A" else "A") + rest[9:], "bad_signature", ""),
        (
            sign(site.vendor, ORDER, {**order, "product_key": "CP-X"}),
            "order_for_another_manager",
            "bound to another product key",
        ),
        (
            site.order("PO-5", starts=int(time.time()) - 90_000, days=1, sbc_sessions=5),
            "order_out_of_date",
            "has already ended",
        ),
        (site.order("PO-1", sbc_sessions=100), "order_already_imported", "already"),
        ("this is no order", "bad_envelope", ""),
    ):
        file = words / "order.jose"
        file.write_text(envelope)
        check(capsys, code, said, "order", str(file))


def test_the_preview_of_an_order_imports_nothing(
    words: Path, capsys: pytest.CaptureFixture[str], site: Site
) -> None:
    file = words / "order.jose"
    file.write_text(site.order("PO-9", sbc_sessions=5))
    assert run(pool_app, ["order", str(file), "--preview"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Preview: nothing is changed."
    assert "Pool, SBC Sessions: purchased 100 -> 105, free 100 -> 105." in said


def test_above_the_devices_maximum_is_accepted_clipped_and_said(
    site: Site, manager: Running, words: Path
) -> None:
    env = {
        "CALLPOOL_MANAGER": manager.url,
        "CALLPOOL_CA_FILE": str(site.layout.ca),
        "CALLPOOL_PASSWORD": site.password,
    }
    status, out, _ = cli(POOL, "allocate", "wide", "25", "--preview", env=env)
    assert status == 0
    assert "25 with the local key are clipped to the device's maximum of 20" in out
    status, out, _ = cli(POOL, "allocate", "wide", "25", env=env)
    assert status == 0
    assert "Note: W1 supports at most 20 SBC Sessions: 0 local and 25 allocated" in out
    (device,) = [d for d in manager.pool()["devices"] if d["name"] == "wide"]
    assert device["allocation"][S] == 25
    manager.call("PUT", "/devices/wide/allocation", {S: 0}, 200)
