from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import LicenseError
from callpool.licensing.lease import Grant, Slice
from callpool.licensing.pool import (
    Holding,
    Line,
    by_line,
    check_fits,
    cover,
    reachable,
    renewals,
    settle,
    slices,
)

NOW = 1000.0
counts = st.integers(0, 30)


@st.composite
def lines_and_holdings(draw: st.DrawFn) -> tuple[list[Line], list[Holding]]:
    lines, mine = [], []
    for number in range(draw(st.integers(0, 5))):
        starts = draw(st.sampled_from([0.0, 900.0, 1500.0]))
        line = Line(
            order_id=f"PO-{number}",
            starts=starts,
            ends=starts + draw(st.sampled_from([200.0, 800.0, 5000.0])),
            free=draw(counts),
        )
        lines.append(line)
        held = draw(counts)
        if held:
            mine.append(
                Holding(order_id=line.order_id, granted=draw(st.integers(0, held)), held=held)
            )
    return lines, mine


@given(lines_and_holdings(), counts)
def test_a_cover_takes_from_no_line_more_than_it_has(
    found: tuple[list[Line], list[Holding]], target: int
) -> None:
    lines, mine = found
    held = {h.order_id: h.held for h in mine}
    granted = cover(target, mine, lines, NOW)
    for line in lines:
        in_date = line.starts <= NOW < line.ends
        most = held.get(line.order_id, 0) + line.free if in_date else 0
        assert 0 <= granted.get(line.order_id, 0) <= most
    assert sum(granted.values()) <= target


@given(lines_and_holdings(), counts)
def test_a_cover_reaches_the_target_where_it_can_and_grows_no_more_than_it_must(
    found: tuple[list[Line], list[Holding]], target: int
) -> None:
    lines, mine = found
    dates = {line.order_id: line.starts <= NOW < line.ends for line in lines}
    held = {h.order_id: h.held for h in mine if dates[h.order_id]}
    free = sum(line.free for line in lines if dates[line.order_id])
    granted = cover(target, mine, lines, NOW)
    assert sum(granted.values()) == min(target, sum(held.values()) + free)
    growth = sum(max(0, n - held.get(o, 0)) for o, n in granted.items())
    assert growth == max(0, sum(granted.values()) - sum(held.values()))


@given(st.lists(counts, min_size=1, max_size=3), counts)
def test_what_is_reachable_is_the_most_that_all_units_can_have(own: list[int], free: int) -> None:
    def cost(level: int) -> int:
        return sum(max(0, level - has) for has in own)

    level = reachable(own, free)
    assert cost(level) <= free < cost(level + 1)


@given(lines_and_holdings(), counts, st.sampled_from([NOW, 1200.0, 3000.0, 9000.0]))
def test_renewals_follow_without_gap_and_never_above_what_ends(
    found: tuple[list[Line], list[Holding]], target: int, horizon: float
) -> None:
    lines, mine = found
    granted = cover(target, mine, lines, NOW)
    later = renewals(granted, mine, lines, horizon)
    by_id = {line.order_id: line for line in lines}
    total = sum(granted.values())
    for (order_id, since), count in later.items():
        assert count > 0
        assert by_id[order_id].starts <= since < min(by_id[order_id].ends, horizon)
    for line in lines:
        assert sum(n for (o, _), n in later.items() if o == line.order_id) <= line.free
    moments = {s for _, s in later} | {line.ends for line in lines}
    for moment in moments:
        if moment >= NOW:
            now = sum(n for o, n in granted.items() if moment < by_id[o].ends)
            now += sum(n for (o, s), n in later.items() if s <= moment < by_id[o].ends)
            assert now <= total


@given(
    st.lists(st.tuples(counts, counts), min_size=1, max_size=4),
    st.lists(st.lists(counts, min_size=4, max_size=4), max_size=3),
    counts,
)
def test_settling_keeps_what_a_grant_in_force_or_a_call_may_use_and_no_more(
    sizes: list[tuple[int, int]], needed: list[list[int]], in_use: int
) -> None:
    mine = [
        Holding(order_id=f"PO-{n}", granted=min(a, b), held=max(a, b))
        for n, (a, b) in enumerate(sizes)
    ]
    grants = [{(f"PO-{n}", 0.0): count for n, count in enumerate(row)} for row in needed]
    after = settle(mine, grants, in_use)
    for was, now in zip(mine, after, strict=True):
        assert now.granted == was.granted <= now.held <= was.held
        for grant in grants:
            assert now.held >= min(was.held, grant[was.key])
    kept = sum(h.held for h in after)
    assert kept >= min(in_use, sum(h.held for h in mine))
    floor = sum(min(h.held, max([h.granted, *(g[h.key] for g in grants)])) for h in mine)
    assert kept == max(floor, min(in_use, sum(h.held for h in mine)))


def test_calls_keep_only_units_that_are_in_force() -> None:
    later = Holding(order_id="PO-2", granted=0, held=5, since=NOW + 1)
    now = Holding(order_id="PO-1", granted=2, held=5)
    assert [h.held for h in settle([now, later], [], 4)] == [4, 0]


def test_a_renewal_that_was_given_once_stays_where_it_is() -> None:
    lines = [
        Line(order_id="PO-1", starts=0, ends=2000, free=0),
        Line(order_id="PO-2", starts=0, ends=3000, free=0),
        Line(order_id="PO-3", starts=0, ends=9000, free=50),
    ]
    mine = [
        Holding(order_id="PO-1", granted=10, held=10),
        Holding(order_id="PO-2", granted=10, held=10, since=2000),
    ]
    assert renewals({"PO-1": 10}, mine, lines, 2500) == {("PO-2", 2000): 10}


def test_a_refusal_says_what_this_device_can_have_and_nothing_of_others() -> None:
    with pytest.raises(LicenseError) as refused:
        check_fits("sbc_sessions", asked=5, available=3, whose="pool", cost=2)
    assert refused.value.code == "pool_exceeded"
    assert "at most 3" in refused.value.sentence
    assert "HA pair" in refused.value.sentence
    check_fits("sbc_sessions", asked=3, available=3, whose="tenant")


def test_slices_and_lines_are_each_others_inverse() -> None:
    granted = {
        "sbc_sessions": {("PO-1", 0.0): 5, ("PO-2", 2000.0): 5},
        "far_end_users": {("PO-1", 0.0): 2},
    }
    made = slices(granted, {"PO-1": 2000.0, "PO-2": 5000.0})
    assert by_line(Grant(serial="S", version=1, slices=made), NOW) == granted
    assert by_line(Grant(serial="S", version=1, slices=made), 2000.0) == {
        "sbc_sessions": {("PO-2", 0.0): 5}
    }
    assert made[0] == Slice(
        order_id="PO-1",
        since=0.0,
        until=2000.0,
        counts=Capacity.of(far_end_users=2, sbc_sessions=5),
    )
