from __future__ import annotations

import pytest

from callpool.licensing.admission import MAX_STEPS, AdmissionPolicy, Step, limited
from callpool.licensing.errors import LicenseError

LAST = Step(caps=limited(sessions=1, users=1))


def policy(*ends: float | None) -> AdmissionPolicy:
    return AdmissionPolicy(steps=tuple(Step(until=e) for e in ends))


def test_a_step_holds_up_to_its_end_and_not_at_it() -> None:
    made = AdmissionPolicy(steps=(Step(until=10.0), Step(until=20.0), LAST))
    assert made.at(9.999) is made.steps[0]
    assert made.at(10.0) is made.steps[1]
    assert made.at(20.0) is LAST
    assert made.at(1e12) is LAST


@pytest.mark.parametrize(
    "ends",
    [(), (10.0,), (None, None), (10.0, None, 20.0, None), (20.0, 10.0, None), (10.0, 10.0, None)],
)
def test_a_policy_whose_ends_do_not_rise_to_one_without_end_is_refused(
    ends: tuple[float | None, ...],
) -> None:
    with pytest.raises(LicenseError) as caught:
        policy(*ends)
    assert caught.value.code == "bad_policy"


def test_a_policy_has_at_most_as_many_steps_as_the_gate_can_hold() -> None:
    most = [float(n) for n in range(MAX_STEPS - 1)]
    assert len(policy(*most, None).steps) == MAX_STEPS
    with pytest.raises(LicenseError):
        policy(*most, 1e9, None)


@pytest.mark.parametrize("reason", ["", "no policy", "a\r\nb", "_", "a;b"])
def test_a_refusing_step_names_a_plain_word(reason: str) -> None:
    with pytest.raises(LicenseError):
        AdmissionPolicy(steps=(Step(admit=False, reason=reason),))


def test_caps_are_counts_of_known_types() -> None:
    for caps in ({"sbc_sessions": -1}, {"sbc_sessions": 10**9}, {"calls": 1}):
        with pytest.raises(LicenseError):
            AdmissionPolicy(steps=(Step(caps=caps),))


def test_calls_per_second_are_capped_only_where_told() -> None:
    assert "cps" not in limited(sessions=1, users=2)
    assert limited(sessions=1, users=2, cps=0)["cps"] == 0
