"""`callpool simulate smart`: what it prints for a script, and which scripts it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from callpool.cli import build
from callpool.host.console import run
from callpool.licensing.errors import LicenseError
from callpool.simulate.script import read_script
from callpool.simulate.smart import Line, Simulation

DAY = 86400.0


def simulate(*events: dict[str, Any], **changes: Any) -> list[Line]:
    script = {"configured": 100, "purchased": 100, "until_days": 400, "events": events, **changes}
    return list(Simulation(read_script(json.dumps(script).encode())).run())


def at(days: float, do: str, **fields: Any) -> dict[str, Any]:
    return {"at_days": days, "do": do, **fields}


def states(lines: list[Line]) -> list[tuple[float, str]]:
    """Return (day, state) for each change of state."""
    found: list[tuple[float, str]] = []
    for line in lines:
        if not found or found[-1][1] != line.state:
            found.append((round(line.at_seconds / DAY, 4), line.state))
    return found


def test_without_registration_the_evaluation_ends_after_90_days() -> None:
    lines = simulate(at(0, "enable"))
    assert states(lines) == [(0, "Unidentified"), (90, "EvalExpired")]
    assert [line.calls for line in lines] == ["allow", "reject"]
    assert [line.eval_seconds_left for line in lines] == [90 * DAY, 0.0]
    assert lines[0].next_contact_seconds is None


def test_before_anything_happens_it_is_unconfigured_and_rejects() -> None:
    first = simulate(at(1, "enable"))[0]
    assert (first.at_seconds, first.state, first.calls, first.cause) == (
        0.0,
        "Unconfigured",
        "reject",
        "start",
    )


@pytest.mark.parametrize(
    "events", [[], [at(0, "cloud_down")], [at(0, "cloud_down"), at(5, "enable")]]
)
def test_the_first_line_is_always_at_the_start(events: list[dict[str, Any]]) -> None:
    first = simulate(*events)[0]
    assert (first.at_seconds, first.state, first.cause) == (0.0, "Unconfigured", "start")


def test_a_registration_that_fails_leaves_the_evaluation_running_to_its_end() -> None:
    lines = simulate(
        at(0, "cloud_down"), at(0, "enable"), at(1, "register"), at(95, "cloud_up"), until_days=96
    )
    assert states(lines)[:2] == [(0, "Unidentified"), (90, "EvalExpired")]
    ended = next(line for line in lines if line.state == "EvalExpired")
    assert (ended.calls, ended.contact, ended.eval_seconds_left) == ("reject", False, 0.0)
    assert lines[-1].state == "Authorized"


def test_a_registered_device_renews_every_30_days() -> None:
    lines = simulate(at(0, "enable"), at(0, "register"), until_days=100)
    assert states(lines)[-1] == (0, "Authorized")
    assert [line.at_seconds / DAY for line in lines if line.contact] == [0, 0, 30, 60, 90]
    assert lines[-1].next_contact_seconds == 30 * DAY


def test_a_cloud_that_is_away_leads_to_authorization_expired_and_back() -> None:
    lines = simulate(
        at(0, "enable"), at(0, "register"), at(1, "cloud_down"), at(100, "cloud_up"), until_days=120
    )
    assert states(lines)[-3:] == [
        (0, "Authorized"),
        (90, "AuthorizationExpired"),
        (100.0833, "Authorized"),
    ]
    failing = [line for line in lines if 30 * DAY <= line.at_seconds < 100 * DAY]
    assert all(line.listening and line.calls == "allow" for line in failing)
    tries = [line.at_seconds - 30 * DAY for line in failing if line.contact][:11]
    assert tries == [*(i * 900.0 for i in range(9)), 6 * 3600.0, 10 * 3600.0]


def test_a_reduced_purchase_is_pushed_and_so_is_its_return() -> None:
    lines = simulate(
        at(0, "enable"),
        at(0, "register"),
        at(10, "purchase", count=60),
        at(12.2, "purchase", count=100),
        at(20, "others", count=5),
        until_days=21,
    )
    assert states(lines)[-4:] == [
        (0, "Authorized"),
        (10, "OutOfCompliance"),
        (12.2, "Authorized"),
        (20, "OutOfCompliance"),
    ]
    tries = [
        line.at_seconds / DAY for line in lines if line.contact and line.at_seconds / DAY >= 10
    ]
    assert tries[:6] == [10, 10.5, 11, 11.5, 12, 12.2]


def test_refusals_are_counted_in_a_row() -> None:
    lines = simulate(
        at(0, "enable"), at(0, "register"), at(1, "cloud_refuse", times=3), until_days=40
    )
    assert states(lines)[-3:] == [
        (0, "Authorized"),
        (30.0208, "OutOfCompliance"),
        (30.5208, "Authorized"),
    ]


def test_true_time_is_untouched_by_a_clock_that_is_set() -> None:
    lines = simulate(
        at(0, "enable"), at(0, "register"), at(5, "clock_set", seconds=-3 * DAY), until_days=31
    )
    end = [line for line in lines if line.cause == "certificate_ended"]
    assert [line.at_seconds for line in end] == []
    assert [line.at_seconds / DAY for line in lines if line.contact] == [0, 0, 30]
    lines = simulate(
        at(0, "enable"), at(0, "register"), at(5, "clock_set", seconds=-6 * DAY), until_days=31
    )
    assert lines[-1].cause == "certificate_ended"
    assert lines[-1].at_seconds == 5 * DAY + 3600


def test_the_wall_clock_leaves_and_enters_the_dates_by_itself() -> None:
    back = simulate(
        at(0, "enable"),
        at(0, "register"),
        at(5, "clock_set", seconds=-5 * DAY - 1800),
        until_days=6,
    )
    assert [(line.cause, line.at_seconds) for line in back[-2:]] == [
        ("clock_out_of_range", 5 * DAY),
        ("clock_in_range", 5 * DAY + 1800 - 60),
    ]
    ahead = simulate(
        at(0, "enable"),
        at(0, "register"),
        at(1, "clock_set", seconds=100 * DAY),
        at(2, "cloud_down"),
        until_days=266,
    )
    assert [(line.cause, line.at_seconds) for line in ahead if not line.contact][-2:] == [
        ("clock_out_of_range", 265 * DAY + 60),
        ("certificate_ended", 265 * DAY + 60 + 3600),
    ]


def test_a_restart_loses_no_timer() -> None:
    lines = simulate(
        at(0, "enable"), at(0, "register"), *(at(d, "restart") for d in range(1, 60)), until_days=61
    )
    assert [line.at_seconds / DAY for line in lines if line.contact] == [0, 0, 30, 60]


def test_an_event_that_is_not_possible_is_told_and_changes_nothing() -> None:
    lines = simulate(at(0, "enable"), at(1, "deregister"), at(2, "enable"), until_days=3)
    assert [line.cause for line in lines] == [
        "enable",
        "deregister: not_registered",
        "enable: already_enabled",
    ]
    assert {line.state for line in lines} == {"Unidentified"}


@pytest.mark.parametrize("policy", ["cccsp-15", "cusp", "cusp-mib"])
def test_each_call_policy_can_be_asked_for(policy: str) -> None:
    lines = simulate(
        at(0, "enable"), at(0, "register"), at(1, "cloud_down"), until_days=91, policy=policy
    )
    expired = [line for line in lines if line.state == "AuthorizationExpired"]
    assert expired[0].calls == ("allow" if policy == "cccsp-15" else "reject")
    assert expired[0].listening is (policy == "cccsp-15")


@pytest.mark.parametrize(
    ("script", "place"),
    [
        ("{", "line 1, column 2"),
        ("[]", "at $"),
        ('{"configured": 100, "purchased": 100}', "until_days"),
        ('{"configured": 3, "purchased": 100, "until_days": 1}', "$.configured"),
        ('{"configured": -5, "purchased": 100, "until_days": 1}', "$.configured"),
        ('{"configured": 5, "purchased": 1.5, "until_days": 1}', "$.purchased"),
        ('{"configured": 5, "purchased": 1, "until_days": 0}', "$.until_days"),
        ('{"configured": 5, "purchased": 1, "until_days": 1, "policy": "x"}', "$.policy"),
        ('{"configured": 5, "purchased": 1, "until_days": 1, "extra": 1}', "extra"),
    ],
)
def test_a_malformed_script_is_refused_with_place_and_reason(script: str, place: str) -> None:
    with pytest.raises(LicenseError) as refused:
        read_script(script.encode())
    assert refused.value.code == "bad_script"
    assert place in refused.value.sentence


@pytest.mark.parametrize(
    ("event", "place"),
    [
        (at(0, "explode"), "$.events[1]"),
        ({"at_days": 0}, "$.events[1]"),
        ({"do": "enable"}, "$.events[1]"),
        (at(-1, "enable"), "$.events[1].at_days"),
        (at(0, "purchase"), "$.events[1]"),
        (at(0, "purchase", count=-1), "$.events[1].count"),
        (at(0, "configure", count=7), "$.events[1].count"),
        (at(0, "cloud_refuse", times="3"), "$.events[1].times"),
        (at(0, "clock_set", seconds=1e300), "$.events[1].seconds"),
        (at(0, "enable", count=5), "$.events[1]"),
        (at(401, "enable"), "$.events[1].at_days"),
    ],
)
def test_a_malformed_event_is_refused_with_place_and_reason(
    event: dict[str, Any], place: str
) -> None:
    with pytest.raises(LicenseError) as refused:
        simulate(at(0, "enable"), event)
    assert refused.value.code == "bad_script"
    assert place in refused.value.sentence


def command(*words: str) -> int:
    return run(build(words), words)


def test_the_command_prints_json_lines_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, drawing = tmp_path / "s.json", tmp_path / "s.svg"
    script.write_text(
        '{"configured": 100, "purchased": 100, "until_days": 400, "events": ['
        '{"at_days": 0, "do": "enable"}, {"at_days": 0, "do": "register"}]}'
    )
    words = ("simulate", "smart", "--script", str(script), "--json", "--plot", str(drawing))
    assert command(*words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert list(lines[0]) == [
        "at_seconds",
        "state",
        "calls",
        "listening",
        "cause",
        "contact",
        "next_contact_seconds",
        "eval_seconds_left",
    ]
    assert [line["at_seconds"] for line in lines] == sorted(line["at_seconds"] for line in lines)
    assert ElementTree.fromstring(drawing.read_text()).tag.endswith("svg")  # noqa: S314 - our own
    assert command("simulate", "smart", "--script", str(script)) == 0
    assert "Authorized" in capsys.readouterr().out


def test_the_command_refuses_a_bad_script_with_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "s.json"
    script.write_text("{}")
    assert command("simulate", "smart", "--script", str(script), "--json") == 1
    assert json.loads(capsys.readouterr().out)["code"] == "bad_script"
    assert command("simulate", "smart", "--script", str(tmp_path / "none.json")) == 1
    capsys.readouterr()
    assert command("simulate", "smart", "--script", str(tmp_path / "none.json"), "--json") == 1
    assert json.loads(capsys.readouterr().out)["code"] == "no_such_file"
    assert command("simulate", "smart", "--script", str(tmp_path)) == 1
    script.write_text('{"configured": 5, "purchased": 5, "until_days": 1}')
    nowhere = str(tmp_path / "no" / "s.svg")
    assert command("simulate", "smart", "--script", str(script), "--plot", nowhere) == 1
    assert "[cannot_write]" in capsys.readouterr().err
