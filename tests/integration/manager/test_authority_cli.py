"""`callpool smart` and `callpool pool` as a person types them, on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from authoritykit import SMART, SmartDevice, buy, smart_order
from managerkit import POOL, Running, Site, cli, load, running

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Running]:
    with running(Site(tmp_path / "manager")) as made:
        yield made


@pytest.fixture
def typed(manager: Running) -> Typed:
    def run(*words: str, code: str = SMART) -> tuple[int, str, str]:
        return cli(
            code,
            "--manager",
            manager.url,
            "--ca-file",
            str(manager.site.layout.ca),
            *words,
            env={"CALLPOOL_PASSWORD": manager.site.password, "COLUMNS": "80"},
        )

    return run


def test_an_operator_goes_from_no_account_to_a_device_in_compliance(
    manager: Running, typed: Typed, tmp_path: Path
) -> None:
    status, _, error = typed("token")
    assert (status, "[no_account]" in error) == (1, True)
    assert typed("account", "acme")[0] == 0
    assert typed("virtual-account", "lab")[0] == 0
    file = tmp_path / "order.jws"
    file.write_text(smart_order(manager.site, "PO-1", 100))
    status, out, error = typed("order", str(file), "--virtual-account", "lab")
    assert (status, out.strip()) == (0, "Order PO-1 is imported into acme/lab: 100 cps."), error
    status, out, _ = typed("token", "--virtual-account", "lab", "--description", "first", "--json")
    made = SmartDevice(manager, "SP-1")
    made.register(load(out)["token"])
    assert made.status(60) == "in_compliance"
    status, out, _ = typed("transfer", "50", "--from", "lab", "--to", "default")
    assert status == 0
    assert made.status(60) == "out_of_compliance"
    for words in (("show",), ("tokens",), ("orders",), ("instances",), ("alerts",), ("events",)):
        status, out, error = typed(*words)
        assert status == 0, error
        assert max(len(line) for line in out.splitlines()) <= 80, out
    status, out, _ = typed("show", "--json")
    (lab,) = (e for e in load(out)["entitlements"] if e["virtual_account"] == "lab")
    assert (lab["purchased"], lab["in_use"], lab["balance"]) == (50, 60, -10)
    assert typed("remove", "SP-1")[0] == 0
    assert typed("alerts")[1].strip() == "No alert is open."
    assert typed("revoke", "1")[0] == 0
    assert typed("revoke", "PI-9")[2].strip().endswith("[unknown_instance]")
    assert "instance_removed" in typed("events", "--kind", "instance_removed", "--json")[1]


def test_what_cannot_be_moved_or_dismissed_says_so(manager: Running, typed: Typed) -> None:
    typed("account", "acme")
    typed("virtual-account", "lab")
    buy(manager, "PO-1", 100, days=20)
    for words, code in (
        (("transfer", "-5", "--from", "default", "--to", "lab"), "bad_count"),
        (("transfer", "cps=5", "--from", "default", "--to", "default"), "same_virtual_account"),
        (("transfer", "cps=5", "--from", "default", "--to", "moon"), "unknown_virtual_account"),
        (("transfer", "cps=101", "--from", "default", "--to", "lab"), "not_enough_licenses"),
        (("alerts", "--dismiss", "1"), "alert_holds"),
        (("alerts", "--dismiss", "99"), "unknown_alert"),
        (("account", "acme"), "account_exists"),
        (("virtual-account", "lab"), "virtual_account_exists"),
        (("token", "--days", "0"), "bad_request"),
    ):
        status, _, error = typed(*words)
        assert status == 1, words
        assert f"[{code}]" in error, error
        assert error.strip().count("\n") == 0


def test_the_pool_fits_80_columns_and_a_negative_count_is_refused_as_one(
    manager: Running, typed: Typed
) -> None:
    manager.import_order(manager.site.order("PO-1", sbc_sessions=6000, far_end_users=2000))
    for name in ("sbc-a", "sbc-b"):
        manager.add(name, name.upper())
    typed("allocate", "sbc-a", "1500", "far_end_users=1000", code=POOL)
    status, out, error = typed("show", code=POOL)
    assert status == 0, error
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "…" not in out, out
    assert {"1500", "1000"} <= set(out.split())
    assert typed("show", "--wide", code=POOL)[0] == 0
    status, _, error = typed("allocate", "sbc-a", "-1", code=POOL)
    assert (status, "[bad_count]" in error) == (1, True), error
