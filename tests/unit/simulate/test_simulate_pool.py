"""A pool on virtual time: what comes of a script, and which scripts are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from callpool.licensing.errors import LicenseError
from callpool.manager.core import Manager
from callpool.manager.settings import Layout, Settings
from callpool.simulate.pool import AnyLine, Line, Refusal, Total, run_script
from callpool.simulate.pool_script import read_pool_script

DAY = 86_400.0
LEASE = 7 * DAY
SESSIONS, USERS = "sbc_sessions", "far_end_users"


@pytest.fixture(scope="module")
def made(module_path: Path) -> Layout:
    """A manager's directory, made once: tables, keys and argon2 cost time."""
    layout = Layout(module_path / "manager")
    Manager.create(layout, Settings(listen="127.0.0.1:0")).close()
    return layout


@pytest.fixture(autouse=True)
def made_once(made: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(layout: Layout, _settings: Settings) -> Manager:
        shutil.copytree(made.directory, layout.directory)
        return Manager(layout)

    monkeypatch.setattr(Manager, "create", create)


def at(seconds: float, do: str, device: str = "", **fields: Any) -> dict[str, Any]:
    named = {"device": device} if device else {}
    return {"at_seconds": seconds, "do": do, **named, **fields}


def device(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "apply": "live", **fields}


def simulate(
    *events: dict[str, Any], devices: list[dict[str, Any]], days: float = 10, **fields: Any
) -> list[AnyLine]:
    script = {"devices": devices, "until_days": days, "events": events, **fields}
    lines = list(run_script(read_pool_script(json.dumps(script).encode())))
    total = lines[-1]
    assert isinstance(total, Total)
    assert total.violations == 0
    assert total.checked > len(events)
    return lines


def of(lines: list[AnyLine], name: str) -> list[Line]:
    return [line for line in lines if isinstance(line, Line) and line.device == name]


def actual(lines: list[AnyLine], name: str, kind: str = SESSIONS) -> list[tuple[float, int]]:
    """Return (seconds, Actual) for each change of Actual."""
    found: list[tuple[float, int]] = []
    for line in of(lines, name):
        if not found or found[-1][1] != line.actual[kind]:
            found.append((line.at_seconds, line.actual[kind]))
    return found


def refusals(lines: list[AnyLine]) -> list[tuple[float, str]]:
    return [(line.at_seconds, line.refused) for line in lines if isinstance(line, Refusal)]


def test_twenty_far_end_users_as_the_seed_has_them() -> None:
    lines = simulate(
        at(0, "allocate", "A", far_end_users=10),
        at(0, "allocate", "B", far_end_users=8),
        at(0, "allocate", "C", far_end_users=2),
        at(60, "allocate", "C", far_end_users=3),
        at(120, "allocate", "A", far_end_users=5),
        at(180, "allocate", "B", far_end_users=11),
        at(180, "allocate", "C", far_end_users=4),
        devices=[device("A"), device("B"), device("C")],
        purchased={USERS: 20},
    )
    assert refusals(lines) == [(60, "pool_exceeded")]
    assert actual(lines, "A", USERS) == [(0, 0), (0, 10), (120, 5)]
    assert actual(lines, "B", USERS) == [(0, 0), (0, 8), (180, 11)]
    assert actual(lines, "C", USERS) == [(0, 0), (0, 2), (180, 4)]


def test_a_restart_with_save_applies_and_one_without_does_not() -> None:
    lines = simulate(
        at(0, "allocate", "A", sbc_sessions=10),
        at(10, "restart", "A", save=False),
        at(20, "restart", "A"),
        devices=[{"name": "A", "local": {SESSIONS: 3}}],
        purchased={SESSIONS: 10},
    )
    assert [
        (line.at_seconds, line.remote[SESSIONS], line.applied[SESSIONS], line.actual[SESSIONS])
        for line in of(lines, "A")
    ] == [(0, 0, 0, 3), (0, 10, 0, 3), (20, 10, 10, 13)]
    assert [line.pending_restart for line in of(lines, "A")] == [False, True, False]
    assert [line.cause for line in of(lines, "A")] == ["start", "allocate", "restart"]
    assert all(line.in_service for line in of(lines, "A"))
    assert of(lines, "A")[0].local == {SESSIONS: 3, USERS: 0}


def test_a_device_cut_off_for_8_days_falls_back_at_its_lease_end_and_its_units_are_free() -> None:
    lines = simulate(
        at(0, "allocate", "A", sbc_sessions=10),
        at(DAY + 5, "contact_lost", "A"),
        at(DAY + 6, "allocate", "A", sbc_sessions=0),
        at(DAY + LEASE + 30, "allocate", "B", sbc_sessions=10),
        at(DAY + LEASE + 61, "allocate", "B", sbc_sessions=10),
        at(DAY + 8 * DAY, "contact_back", "A"),
        at(DAY + 8 * DAY + 1, "allocate", "B", sbc_sessions=4),
        at(DAY + 8 * DAY + 2, "allocate", "A", sbc_sessions=6),
        devices=[device("A", local={SESSIONS: 2}), device("B")],
        purchased={SESSIONS: 10},
        days=12,
    )
    # The last poll was made a day after the start; the lease counts from it.
    assert actual(lines, "A") == [(0, 2), (0, 12), (DAY + LEASE, 2), (9 * DAY + 2, 8)]
    ended = next(line for line in of(lines, "A") if line.at_seconds == DAY + LEASE)
    assert (ended.cause, ended.in_service) == ("lease_ended", True)
    # Until the manager's margin of a minute is over, the units are held.
    assert refusals(lines) == [(DAY + LEASE + 30, "pool_exceeded")]
    assert actual(lines, "B") == [(0, 0), (DAY + LEASE + 61, 10), (9 * DAY + 1, 4)]


def test_a_share_that_stays_comes_back_with_the_contact() -> None:
    lines = simulate(
        at(0, "allocate", "A", sbc_sessions=10),
        at(1, "contact_lost", "A"),
        at(LEASE + 100, "contact_back", "A"),
        devices=[device("A")],
        purchased={SESSIONS: 10},
    )
    assert actual(lines, "A") == [(0, 0), (0, 10), (LEASE, 0), (LEASE + 100, 10)]
    assert [line.in_service for line in of(lines, "A")] == [False, True, False, True]


def test_an_order_that_ends_steps_caps_down_on_time_with_the_manager_away() -> None:
    lines = simulate(
        at(0, "order", sbc_sessions=30, ends_at_seconds=3 * DAY),
        at(0, "allocate", "A", sbc_sessions=20),
        at(0, "allocate", "B", sbc_sessions=30),
        at(60, "contact_lost", "A"),
        devices=[device("A"), device("B")],
        purchased={SESSIONS: 20},
        days=5,
    )
    before = {name: actual(lines, name)[1][1] for name in "AB"}
    assert before == {"A": 20, "B": 30}
    after = {name: actual(lines, name)[-1] for name in "AB"}
    assert sum(count for _, count in after.values()) == 20
    changed = [line for line in lines if isinstance(line, Line) and line.at_seconds > 60]
    assert {(line.at_seconds, line.cause) for line in changed} == {(3 * DAY, "order_ended")}


def test_what_an_order_begins_with_is_given_to_those_who_wait_for_it() -> None:
    lines = simulate(
        at(0, "order", sbc_sessions=10, ends_at_seconds=2 * DAY),
        at(0, "allocate", "A", sbc_sessions=10),
        at(3 * DAY, "order", sbc_sessions=8),
        devices=[device("A")],
    )
    assert actual(lines, "A") == [(0, 0), (0, 10), (2 * DAY, 0), (3 * DAY, 8)]


def test_calls_in_progress_hold_what_they_use_until_they_end() -> None:
    lines = simulate(
        at(0, "allocate", "A", sbc_sessions=10),
        at(1, "active", "A", sbc_sessions=8),
        at(2, "active", "A", sbc_sessions=11),
        at(3, "allocate", "A", sbc_sessions=5),
        at(4, "allocate", "B", sbc_sessions=5),
        at(5, "active", "A", sbc_sessions=9),
        at(6, "active", "A", sbc_sessions=6),
        at(7, "allocate", "B", sbc_sessions=4),
        at(8, "active", "A", sbc_sessions=6),
        at(9, "active", "A", sbc_sessions=5),
        at(10, "allocate", "B", sbc_sessions=5),
        devices=[device("A"), device("B")],
        purchased={SESSIONS: 10},
    )
    assert refusals(lines) == [
        (2, "session_limit"),
        (4, "pool_exceeded"),
        (5, "session_limit"),
    ]
    assert actual(lines, "A") == [(0, 0), (0, 10), (3, 5)]
    assert actual(lines, "B") == [(0, 0), (7, 4), (10, 5)]


def test_more_than_the_maximum_is_clipped() -> None:
    lines = simulate(
        at(0, "allocate", "A", sbc_sessions=300),
        at(1, "local_key", "A", sbc_sessions=20),
        at(2, "allocate", "A", sbc_sessions=100),
        devices=[device("A", maximum={SESSIONS: 250})],
        purchased={SESSIONS: 300},
    )
    assert [
        (line.remote[SESSIONS], line.local[SESSIONS], line.actual[SESSIONS])
        for line in of(lines, "A")
    ] == [(0, 0, 0), (300, 0, 250), (300, 20, 250), (100, 20, 120)]


def test_tenants_bound_their_devices() -> None:
    lines = simulate(
        at(0, "allocate", "A", sbc_sessions=11),
        at(1, "allocate", "A", sbc_sessions=10),
        at(2, "allocate", "B", sbc_sessions=11),
        at(3, "tenant", tenant="t1", sbc_sessions=9),
        at(4, "tenant", tenant="t2", sbc_sessions=1),
        at(5, "tenant", tenant="t1", sbc_sessions=12),
        at(6, "allocate", "A", sbc_sessions=12),
        at(7, "tenant", tenant="t3", sbc_sessions=1),
        devices=[device("A", tenant="t1"), device("B")],
        purchased={SESSIONS: 20},
        tenants={"t1": {SESSIONS: 10}, "t2": {SESSIONS: 5}},
    )
    assert refusals(lines) == [
        (0, "tenant_exceeded"),
        (2, "pool_exceeded"),
        (3, "share_below_held"),
        (7, "unknown_tenant"),
    ]
    assert actual(lines, "A") == [(0, 0), (1, 10), (6, 12)]


def tenant_of_500(apply: str, *events: dict[str, Any]) -> list[AnyLine]:
    """The seed's example: A and B full with 250 each, C requires 50."""
    return simulate(
        at(0, "allocate", "A", sbc_sessions=250),
        at(0, "allocate", "B", sbc_sessions=250),
        at(0, "restart", "A"),
        at(0, "restart", "B"),
        at(60, "active", "A", sbc_sessions=250),
        at(60, "active", "B", sbc_sessions=250),
        at(100, "allocate", "C", sbc_sessions=50),
        at(120, "allocate", "C", sbc_sessions=50, wait=True),
        *events,
        devices=[device(name, tenant="t1", apply=apply, maximum={SESSIONS: 250}) for name in "ABC"],
        purchased={SESSIONS: 500},
        tenants={"t1": {SESSIONS: 500}},
    )


def test_the_tenant_of_500_serves_the_one_that_waits_as_calls_end() -> None:
    lines = tenant_of_500(
        "live",
        at(7200, "active", "A", sbc_sessions=220),
        at(7260, "active", "B", sbc_sessions=231),
        at(7300, "active", "B", sbc_sessions=230),
        at(9000, "active", "A", sbc_sessions=221),
    )
    assert refusals(lines) == [(100, "pool_exceeded"), (9000, "session_limit")]
    start, waits, granted = of(lines, "C")
    assert (start.in_service, waits.in_service, granted.in_service) == (False, False, True)
    assert (waits.at_seconds, waits.cause) == (120, "waits")
    assert 7300 <= granted.at_seconds <= 7305
    assert granted.cause == "request_granted"
    assert granted.actual[SESSIONS] == 50
    # A and B are untouched until then, and lose exactly what they do not use.
    assert [count for _, count in actual(lines, "A")] == [0, 250, 220]
    assert [count for _, count in actual(lines, "B")] == [0, 250, 230]
    assert all(7300 <= actual(lines, name)[-1][0] <= 7305 for name in "AB")


def test_devices_that_restart_keep_the_request_waiting_for_it() -> None:
    lines = tenant_of_500(
        "restart",
        at(7200, "active", "A", sbc_sessions=200),
        at(8000, "restart", "A", save=False),
        at(9000, "restart", "A"),
        at(9100, "restart", "C"),
    )
    pending = [line for line in of(lines, "A") if line.pending_restart and line.at_seconds > 1]
    assert 7200 <= pending[0].at_seconds <= 7205
    assert pending[0].remote[SESSIONS] == 200
    assert actual(lines, "A")[-1] == (9000, 200)
    assert actual(lines, "B")[-1][1] == 250
    assert actual(lines, "C") == [(0, 0), (9100, 50)]


def test_a_request_is_served_whole_and_none_overtakes_another() -> None:
    lines = simulate(
        at(0, "allocate", "A", sbc_sessions=10),
        at(1, "active", "A", sbc_sessions=10),
        at(2, "allocate", "B", sbc_sessions=6, wait=True),
        at(3, "allocate", "C", sbc_sessions=2, wait=True),
        at(60, "active", "A", sbc_sessions=7),
        at(3600, "active", "A", sbc_sessions=2),
        devices=[device(name) for name in "ABC"],
        purchased={SESSIONS: 10},
    )
    assert [count for _, count in actual(lines, "A")] == [0, 10, 2]
    for name, count in (("B", 6), ("C", 2)):
        (_, none), (when, some) = actual(lines, name)
        assert (none, some) == (0, count)
        assert 3600 <= when <= 3605


def test_a_removed_device_gives_back_what_it_had() -> None:
    lines = simulate(
        at(0, "allocate", "A", sbc_sessions=10),
        at(1, "remove", "A"),
        at(2, "allocate", "A", sbc_sessions=1),
        at(3, "allocate", "B", sbc_sessions=10),
        at(4, "restart", "A"),
        devices=[device("A", local={SESSIONS: 1}), device("B")],
        purchased={SESSIONS: 10},
    )
    assert actual(lines, "A") == [(0, 1), (0, 11), (1, 1)]
    assert refusals(lines) == [(2, "unknown_device")]
    assert actual(lines, "B") == [(0, 0), (3, 10)]


def test_a_factory_reset_leaves_the_local_key_until_it_is_enrolled_anew() -> None:
    lines = simulate(
        at(0, "allocate", "A", sbc_sessions=10),
        at(1, "factory_reset", "A"),
        at(DAY, "contact_back", "A"),
        devices=[device("A", local={SESSIONS: 2})],
        purchased={SESSIONS: 10},
    )
    assert actual(lines, "A") == [(0, 2), (0, 12), (1, 2), (DAY, 12)]


@pytest.mark.parametrize("do", ["active", "allocate"])
def test_an_unknown_device_is_a_refusal_and_the_run_goes_on(do: str) -> None:
    lines = simulate(
        at(0, do, "X", sbc_sessions=1),
        at(1, "restart", "X"),
        at(1, "allocate", "A", sbc_sessions=1),
        devices=[device("A")],
        purchased={SESSIONS: 1},
    )
    refused = [line for line in lines if isinstance(line, Refusal)]
    assert [(line.refused, line.device) for line in refused] == [("unknown_device", "X")] * 2
    assert actual(lines, "A") == [(0, 0), (1, 1)]


def test_orders_that_make_no_sense_are_refused() -> None:
    lines = simulate(
        at(10, "order", sbc_sessions=1, ends_at_seconds=5),
        at(10, "order", sbc_sessions=0),
        devices=[],
    )
    assert refusals(lines) == [(10, "bad_document"), (10, "bad_document")]


SCRIPT = {"devices": [], "until_days": 1}


@pytest.mark.parametrize(
    ("script", "place"),
    [
        ("{", "no JSON"),
        ("[]", "at $:"),
        ({"until_days": 1}, "devices"),
        (SCRIPT | {"until_days": 0}, "$.until_days"),
        (SCRIPT | {"purchased": {"sbc_sessions": -1}}, "$.purchased.sbc_sessions"),
        (SCRIPT | {"purchased": {"cps": 1}}, "$.purchased"),
        (SCRIPT | {"tenants": {"t": {"sbc_sessions": 1}}}, "$.tenants.t"),
        (SCRIPT | {"devices": [{"name": "A b"}]}, "$.devices[0]"),
        (SCRIPT | {"devices": [{"name": "A"}, {"name": "A"}]}, "$.devices[1].name"),
        (SCRIPT | {"devices": [{"name": "A", "tenant": "t"}]}, "$.devices[0]"),
        (SCRIPT | {"devices": [{"name": "A", "apply": "soon"}]}, "$.devices[0].apply"),
        (SCRIPT | {"events": [{"at_seconds": 1, "do": "dance"}]}, "$.events[0]"),
        (SCRIPT | {"events": [{"at_seconds": 86401, "do": "order"}]}, "$.events[0].at_seconds"),
        (SCRIPT | {"events": [{"at_seconds": 1, "do": "order"}]}, "$.events[0]:"),
        (
            SCRIPT | {"events": [{"at_seconds": 1, "do": "restart", "device": "A", "save": 1}]},
            "$.events[0].save",
        ),
    ],
)
def test_a_malformed_script_is_refused_with_the_place(script: Any, place: str) -> None:
    raw = script if isinstance(script, str) else json.dumps(script)
    with pytest.raises(LicenseError) as error:
        list(run_script(read_pool_script(raw.encode())))
    assert error.value.code == "bad_script"
    assert place in error.value.sentence


def test_what_a_request_was_granted_is_not_taken_for_the_one_behind_it() -> None:
    full = [at(0, "allocate", n, sbc_sessions=250) for n in "AB"]
    full += [at(1, "active", n, sbc_sessions=250) for n in "AB"]
    lines = simulate(
        *full,
        at(60, "allocate", "C", sbc_sessions=30, wait=True),
        at(60, "allocate", "D", sbc_sessions=10, wait=True),
        at(200, "active", "A", sbc_sessions=220),
        at(300, "active", "A", sbc_sessions=210),
        # A request made later may take what C still does not use.
        at(400, "allocate", "E", sbc_sessions=20, wait=True),
        purchased={SESSIONS: 500},
        devices=[device(n) for n in "ABCDE"],
        days=1,
    )
    assert actual(lines, "C")[:2] == [(0.0, 0), (200.0, 30)]
    assert actual(lines, "D")[:2] == [(0.0, 0), (300.0, 10)]
    (taken,) = actual(lines, "C")[2:]
    assert taken[1] < 30
    assert taken[0] >= 400.0
    assert actual(lines, "E")[-1][1] == 20
