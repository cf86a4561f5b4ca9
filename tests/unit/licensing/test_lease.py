from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.licensing.capacity import SBC_SESSIONS, Capacity
from callpool.licensing.errors import TrustError
from callpool.licensing.lease import APPLY_LIVE, APPLY_RESTART, DeviceLicense, Grant, Slice

NOW = 1_800_000_000.0
DAY = 86_400.0


def grant(
    version: int, sessions: int, *, apply: str = APPLY_RESTART, serial: str = "S1", users: int = 0
) -> Grant:
    part = Slice(
        order_id="PO-1",
        since=0.0,
        until=NOW + 365 * DAY,
        counts=Capacity.of(sbc_sessions=sessions, far_end_users=users),
    )
    return Grant(serial=serial, version=version, slices=(part,), apply=apply)


def device(**changes: object) -> DeviceLicense:
    return replace(DeviceLicense(serial="S1", local=Capacity.of(sbc_sessions=5)), **changes)  # type: ignore[arg-type]


times = st.floats(0.0, 40 * DAY, allow_nan=False)
slices = st.builds(
    lambda since, length, sessions, users: Slice(
        order_id=f"PO-{since}",
        since=NOW + since,
        until=NOW + since + length,
        counts=Capacity.of(sbc_sessions=sessions, far_end_users=users),
    ),
    st.floats(-10 * DAY, 20 * DAY),
    st.floats(1.0, 20 * DAY),
    st.integers(0, 500),
    st.integers(0, 500),
)
grants = st.builds(
    lambda parts, version: Grant(serial="S1", version=version, slices=tuple(parts)),
    st.lists(slices, max_size=6),
    st.integers(1, 1000),
)
licenses = st.builds(
    lambda local, maximum, applied, remote, lease, ends: DeviceLicense(
        serial="S1",
        local=Capacity.of(sbc_sessions=local),
        local_end=None if ends is None else NOW + ends,
        maximum={SBC_SESSIONS: maximum},
        applied=applied,
        remote=remote,
        lease_end=NOW + lease,
    ),
    st.integers(0, 500),
    st.integers(0, 1000),
    st.none() | grants,
    st.none() | grants,
    times,
    st.none() | times,
)


@given(licenses, times)
def test_actual_is_local_plus_applied_remote_up_to_the_maximum(
    held: DeviceLicense, later: float
) -> None:
    time = NOW + later
    remote = held.applied.at(time) if held.applied and time < held.lease_end else Capacity()
    wanted = held.local_at(time) + remote
    actual = held.actual_at(time)
    assert actual.get(SBC_SESSIONS) == min(wanted.get(SBC_SESSIONS), held.maximum[SBC_SESSIONS])
    assert actual.get("far_end_users") == wanted.get("far_end_users"), "no maximum: not clipped"


@given(licenses, times, st.floats(-1e6, 1e6), st.lists(times, min_size=1, max_size=10))
def test_a_policys_steps_are_actual_at_every_instant(
    held: DeviceLicense, begin: float, offset: float, later: list[float]
) -> None:
    time = NOW + begin
    policy = held.policy(time, wall_offset=offset)
    edges = [s.until - offset for s in policy.steps if s.until is not None]
    for moment in [time, *(time + t for t in later), *(e + 1.0 for e in edges)]:
        if any(abs(moment - e) < 1e-3 for e in edges):
            continue  # where float rounding decides which side of an edge it is
        caps = policy.at(moment + offset).caps
        actual = held.actual_at(moment)
        assert caps["sbc_sessions"] == actual.get("sbc_sessions")
        assert caps["far_end_users"] == actual.get("far_end_users")


@given(licenses, times)
def test_without_trusted_time_only_the_local_key_counts(held: DeviceLicense, begin: float) -> None:
    policy = held.policy(NOW + begin, wall_offset=0.0, trusted=False)
    assert len(policy.steps) <= 2
    for time in (NOW + begin, NOW + begin + 50 * DAY):
        local = held.clip(held.local_at(time)).get("sbc_sessions")
        assert policy.at(time).caps["sbc_sessions"] == local


def test_a_policy_with_more_edges_than_the_gate_holds_falls_to_local_early_never_late() -> None:
    many = tuple(
        Slice(order_id=f"PO-{n}", since=0.0, until=NOW + n, counts=Capacity.of(sbc_sessions=1))
        for n in range(1, 100)
    )
    held = device(applied=Grant(serial="S1", version=1, slices=many), lease_end=NOW + 1000)
    policy = held.policy(NOW, wall_offset=0.0)
    for second in range(1100):
        allowed = held.actual_at(NOW + second).get(SBC_SESSIONS)
        assert policy.at(NOW + second).caps[SBC_SESSIONS] <= allowed


def test_only_a_restart_with_save_applies_what_the_pool_sent() -> None:
    held = device().receive(grant(1, 10), NOW + DAY, NOW)
    assert held.pending
    assert held.remote_at(NOW).get(SBC_SESSIONS) == 10
    assert held.actual_at(NOW).get(SBC_SESSIONS) == 5
    assert held.restarted(save=False) == held
    saved = held.restarted(save=True)
    assert not saved.pending
    assert saved.actual_at(NOW).get(SBC_SESSIONS) == 15


def test_live_is_applied_as_it_arrives_up_and_down() -> None:
    held = device()
    for version, sessions in ((1, 10), (2, 3), (3, 0), (4, 7)):
        held = held.receive(grant(version, sessions, apply=APPLY_LIVE), NOW + DAY, NOW)
        assert held.actual_at(NOW).get(SBC_SESSIONS) == 5 + sessions
        assert not held.pending


def test_a_renewal_of_the_same_counts_needs_no_restart() -> None:
    held = device().receive(grant(1, 10), NOW + DAY, NOW).restarted(save=True)
    renewed = held.receive(grant(2, 10), NOW + 9 * DAY, NOW + DAY - 1)
    assert not renewed.pending
    assert renewed.actual_at(NOW + 8 * DAY).get(SBC_SESSIONS) == 15


@given(st.integers(0, 50), st.integers(0, 50))
def test_an_older_or_a_foreign_grant_changes_nothing(seen: int, version: int) -> None:
    held = device(seen_version=seen)
    if version < seen:
        with pytest.raises(TrustError) as caught:
            held.receive(grant(version, 99), NOW + DAY, NOW)
        assert caught.value.code == "older_grant"
    else:
        assert held.receive(grant(version, 9), NOW + DAY, NOW).seen_version == version
    with pytest.raises(TrustError) as caught:
        held.receive(grant(99, 9, serial="S2"), NOW + DAY, NOW)
    assert caught.value.code == "grant_for_another_serial"


def test_the_highest_version_survives_a_discard() -> None:
    held = device().receive(grant(7, 10), NOW + DAY, NOW).restarted(save=True).discarded()
    assert held.actual_at(NOW).get(SBC_SESSIONS) == 5
    with pytest.raises(TrustError):
        held.receive(grant(6, 10), NOW + DAY, NOW)


def test_a_lease_ends_at_its_second_and_then_only_local_counts() -> None:
    held = device().receive(grant(1, 10), NOW + DAY, NOW).restarted(save=True)
    assert not held.ended(NOW + DAY - 0.001)
    assert held.ended(NOW + DAY)
    assert held.actual_at(NOW + DAY - 0.001).get(SBC_SESSIONS) == 15
    assert held.actual_at(NOW + DAY).get(SBC_SESSIONS) == 5
    assert not device().ended(NOW), "what was never held cannot end"


def test_above_the_maximum_it_is_clipped_and_said() -> None:
    held = device(maximum={SBC_SESSIONS: 12}).receive(grant(1, 10), NOW + DAY, NOW)
    assert held.over_allocated(NOW) == Capacity.of(sbc_sessions=3)
    assert held.restarted(save=True).actual_at(NOW).get(SBC_SESSIONS) == 12


def test_the_local_key_is_used_first() -> None:
    held = device()
    assert held.remote_in_use(Capacity.of(sbc_sessions=4), NOW) == Capacity()
    assert held.remote_in_use(Capacity.of(sbc_sessions=9), NOW) == Capacity.of(sbc_sessions=4)


def test_a_local_key_that_ends_is_a_step_of_the_policy_with_or_without_a_grant() -> None:
    held = device(local_end=NOW + 2 * DAY, local=Capacity.of(sbc_sessions=5, cps=7))
    alone = held.policy(NOW, wall_offset=10.0)
    assert [s.until for s in alone.steps] == [NOW + 2 * DAY + 10.0, None]
    assert [s.caps["sbc_sessions"] for s in alone.steps] == [5, 0]
    assert [s.caps["cps"] for s in alone.steps] == [7, 7], "the end of a key lifts no limit"
    behind = held.policy(NOW, wall_offset=0.0, trusted=False)
    assert [s.caps["sbc_sessions"] for s in behind.steps] == [5, 0]
    leased = replace(held, applied=grant(1, 10), remote=grant(1, 10), lease_end=NOW + DAY)
    assert [s.caps["sbc_sessions"] for s in leased.policy(NOW, wall_offset=0.0).steps] == [15, 5, 0]
    longer = replace(leased, lease_end=NOW + 3 * DAY)
    steps = longer.policy(NOW, wall_offset=0.0).steps
    assert [s.caps["sbc_sessions"] for s in steps] == [15, 10, 0]
    assert longer.remote_in_use(Capacity.of(sbc_sessions=9), NOW + 2 * DAY) == Capacity.of(
        sbc_sessions=9
    ), "calls that the ended key no longer covers stand on the pool's units"


def test_over_allocation_is_judged_at_receipt_and_at_application() -> None:
    held = device(maximum={SBC_SESSIONS: 20})
    received = held.receive(grant(1, 40), NOW + 7 * DAY, NOW)
    assert received.over_allocated(NOW) == Capacity.of(sbc_sessions=25)
    assert not received.over_applied(NOW)
    applied = received.restarted(save=True)
    assert applied.actual_at(NOW).get(SBC_SESSIONS) == 20
    assert applied.over_applied(NOW) == Capacity.of(sbc_sessions=25)
    better = applied.receive(grant(2, 10), NOW + 7 * DAY, NOW)
    assert not better.over_allocated(NOW)
    assert better.over_applied(NOW), "until it is applied"
    assert not better.restarted(save=True).over_applied(NOW)
