"""Use that devices report: taken once, kept by minute, hour and day, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from managerkit import Device, Running, Site, cli, eventually, load, running

from callpool.host.clock import LabClock
from callpool.licensing.usage import DAY, HOUR, aligned
from callpool.wire.envelope import CONTACT, sign
from callpool.wire.messages import UsageCount, UsageMinute

MAIN = "import sys; from callpool.cli import main; sys.exit(main())"


@contextmanager
def manager(tmp_path: Path, **settings: Any) -> Iterator[tuple[Site, Running]]:
    site = Site(tmp_path, **settings)
    with running(site) as made:
        made.import_order(site.order("PO-1", sbc_sessions=1000, far_end_users=100))
        yield site, made


def minutes(start: int, *peaks: int, cap: int = 10, refused: int = 0) -> tuple[UsageMinute, ...]:
    return tuple(
        UsageMinute(
            at=start + 60 * n,
            types={"sbc_sessions": UsageCount(peak, float(peak), cap, refused, refused, 2)},
        )
        for n, peak in enumerate(peaks)
    )


def points(made: Running, by: str, **more: Any) -> list[dict[str, Any]]:
    asked = "&".join(f"{k}={v}" for k, v in {"by": by, **more}.items())
    series = made.call("GET", f"/usage?{asked}", status=200)["series"]
    assert len(series) <= 1
    return list(series[0]["points"]) if series else []


def now_of(made: Running) -> float:
    return float(made.call("GET", "/pool")["time"])


def unit(made: Running, name: str = "a", **more: Any) -> Device:
    made.add(name, f"S-{name}", apply="live", **more)
    return made.device(f"S-{name}")


def test_a_minute_that_comes_twice_is_counted_once(tmp_path: Path) -> None:
    with manager(tmp_path) as (site, made):
        device = unit(made)
        start = aligned(now_of(made) - DAY, DAY) + 9 * HOUR  # its minutes are kept, at any hour
        first = device.request(usage=minutes(start, 3, 5, 4, refused=1))
        envelope = sign(device.key, CONTACT, first)
        reply = device.send(first)
        assert reply.usage_seconds == 300.0
        device.post("/device/v1/contact", envelope)  # the same bytes again
        device.take(reply)
        # As after a lost reply: the next contact tells two of the minutes again, and a new one.
        device.contact(usage=minutes(start + 60, 5, 4, 9, refused=1))
        (hour,) = points(made, "hour")
        assert hour == {
            "at": start, "minutes": 4, "peak": 9, "mean": 5.25, "cap": 10, "admitted": 8,
            "refused": 4, "repeated": 4, "worst": 1,
        }  # fmt: skip
        assert points(made, "day") == [hour | {"at": start - 9 * HOUR}]
        assert [p["peak"] for p in points(made, "minute")] == [3, 5, 4, 9]
        ((report,),) = site.sql("SELECT report FROM unit")
        assert msgspec.json.decode(report)["usage"] == []


def test_what_cannot_be_is_passed_over_and_costs_no_lease(tmp_path: Path) -> None:
    with manager(tmp_path) as (_, made):
        device = unit(made)
        now = aligned(now_of(made), 60) - 600
        odd = (
            *minutes(now + 7, 1),
            *minutes(now + 2 * DAY, 1),
            *minutes(now - 70 * DAY, 1),
            *minutes(-60, 1),
            UsageMinute(at=now, types={"no_such_type": UsageCount(1)}),
            UsageMinute(at=now, types={"sbc_sessions": UsageCount(-1)}),
            UsageMinute(at=now, types={"sbc_sessions": UsageCount(10**15)}),
        )
        reply = device.contact(usage=odd)
        assert reply.lease_seconds > 0
        assert points(made, "hour") == []
        device.contact(usage=minutes(now, 6))
        assert [p["peak"] for p in points(made, "hour")] == [6]


def test_what_is_old_is_pruned_a_few_units_at_a_time_silent_ones_too(tmp_path: Path) -> None:
    with manager(tmp_path, usage_minute_days=2, usage_hour_days=4, usage_day_days=5) as (
        site,
        made,
    ):
        silent, device = unit(made, "a"), unit(made, "b")
        now = aligned(now_of(made), 60)
        silent.contact(usage=minutes(now - 86_400 * 3 // 2, 7))
        site.alter("UPDATE usage_hour SET at = at - 86400 * 3")
        site.alter("UPDATE usage_day SET at = at - 86400 * 5")
        device.contact(usage=minutes(now - DAY * 21 // 10 // 60 * 60, 1))
        device.contact(usage=minutes(now - 600, 1))
        # The clock prunes once a day.
        LabClock(site.clock_file).advance(DAY)

        left = (
            "SELECT (SELECT count(*) FROM usage_hour WHERE serial = 'S-a'),"
            " (SELECT count(*) FROM usage_day WHERE serial = 'S-a')"
        )
        eventually(lambda: site.sql(left) == [(0, 0)])
        kept = site.sql("SELECT detail IS NULL FROM usage_hour WHERE serial = 'S-b' ORDER BY at")
        assert kept == [(1,), (0,)], "the minutes of an old hour are gone, a young one has them"


def test_the_operator_learns_who_can_spare_and_who_is_short(tmp_path: Path) -> None:
    with manager(tmp_path) as (site, made):
        made.call("POST", "/tenants", {"name": "north", "shares": {}}, 201)
        calm, busy = unit(made, "calm", tenant="north"), unit(made, "busy", tenant="north")
        far = unit(made, "far")
        made.call("PUT", "/devices/calm/allocation", {"sbc_sessions": 250}, 200)
        made.call("PUT", "/devices/busy/allocation", {"sbc_sessions": 10}, 200)
        today = aligned(now_of(made), DAY)
        for back in range(6, 0, -1):
            start = today - back * DAY + 10 * HOUR
            # An hour of minutes and two of quiet, so that there is enough to judge by.
            calm.contact(usage=minutes(start, *[100 + 10 * back] * 60, *[5] * 90, cap=250))
            busy.contact(usage=minutes(start, *[10] * 150, refused=1 if back in (2, 4) else 0))
        # Who was heard of a day ago only is not judged, and yesterday's ten o'clock may be longer.
        calm.contact(usage=minutes(aligned(now_of(made), 60) - 600, 6, cap=250))
        value = made.call("GET", "/usage/advice?tenant=north", status=200)
        (spare,) = value["can_spare"]
        assert (spare["device"], spare["type"], spare["spare"]) == ("calm", "sbc_sessions", 74)
        assert spare["answer"] == "can spare 74 (peak 160 of 250 in 7 days, falling 10.0 a day)"
        (short,) = value["is_short"]
        assert (short["device"], short["allocate"]) == ("busy", 17)
        assert short["answer"].startswith(
            "short: 300 true refusals on 2 days; peak at the cap since"
        )
        (sums,) = [t for t in value["tenants"] if t["type"] == "sbc_sessions"]
        assert (sums["allocated"], sums["peak"], sums["refused"]) == (260, 170, 300)
        everyone = made.call("GET", "/usage/advice", status=200)
        assert {t["tenant"] for t in everyone["tenants"]} == {"default", "north"}
        assert {d["answer"] for d in everyone["devices"] if d["device"] == "far"} == {
            "too little data"
        }
        far.contact()
        env = {
            "CALLPOOL_MANAGER": made.url, "CALLPOOL_CA_FILE": str(site.layout.ca),
            "CALLPOOL_PASSWORD": site.password,
        }  # fmt: skip
        status, out, err = cli(MAIN, "pool", "usage", "--tenant", "north", env=env)
        assert status == 0, err
        assert "calm, sbc_sessions: can spare 74" in out
        assert "busy, sbc_sessions: short: 300 true refusals" in out
        assert "-10.0 a day" in out
        assert "█" in out
        status, out, _ = cli(
            MAIN, "pool", "usage", "--device", "calm", "--by", "hour", "--json", env=env
        )
        told = load(out)
        assert told["by"] == "hour"
        assert [p["peak"] for p in told["series"][0]["points"]].count(5) == 12
        status, out, _ = cli(MAIN, "pool", "usage", "--device", "calm", "--by", "day", env=env)
        assert status == 0
        assert out.count("63.0") == 1, "the mean of 60 minutes at 150 and 90 at 5"


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ("by=week", 400, "bad_request"),
        ("from=yesterday", 400, "bad_request"),
        ("from=20&to=10", 400, "bad_request"),
        ("since=0", 400, "bad_request"),
        ("since=1e9", 400, "bad_request"),
        ("colour=red", 400, "bad_request"),
        ("type=teapots", 400, "unknown_license_type"),
        ("tenant=nobody", 404, "unknown_tenant"),
        ("device=nothing", 404, "unknown_device"),
    ],
)
def test_a_bad_question_gets_one_clear_sentence(
    door: Running, asked: str, status: int, code: str
) -> None:
    for path in ("/usage", "/usage/advice"):
        told = door.call("GET", f"{path}?{asked}", status=status)
        assert told["code"] == code
        assert told["detail"].endswith(".")


@pytest.fixture(scope="module")
def door(module_path: Path, engine: str) -> Iterator[Running]:
    with manager(module_path / engine) as (_, made):
        yield made


def test_strangers_learn_nothing(door: Running) -> None:
    with door.client(signed_in=False) as http:
        assert http.get("/api/v1/usage").status_code == 401
        assert http.get("/api/v1/usage/advice").status_code == 401


def test_a_bad_window_is_refused_by_the_command(tmp_path: Path) -> None:
    env = {"CALLPOOL_MANAGER": "https://127.0.0.1:1", "CALLPOOL_PASSWORD": "x"}
    status, _, err = cli(MAIN, "pool", "usage", "--since", "soon", env=env)
    assert (status, "bad_duration" in err) == (1, True)
