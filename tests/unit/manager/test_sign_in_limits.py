"""Failed sign-ins: guesses are few, whoever they are for and wherever they come from."""

from __future__ import annotations

import pytest

from callpool.licensing.errors import CallpoolError
from callpool.manager import sign_in_limits
from callpool.manager.sign_in_limits import (
    ADDRESS_FAILURES,
    ADDRESS_SECONDS,
    NAME_FAILURES,
    NAME_SECONDS,
    Limits,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def refused(limits: Limits, name: str, source: str) -> bool:
    try:
        limits.check(name, source)
    except CallpoolError as error:
        return error.code == "too_many_failures"
    return False


def test_an_address_is_shut_out_after_ten_failures_whatever_the_names() -> None:
    clock = Clock()
    limits = Limits(clock)
    lasts = [limits.failed(f"name-{n}", "a") for n in range(ADDRESS_FAILURES)]
    assert lasts == [False] * (ADDRESS_FAILURES - 1) + [True]
    assert refused(limits, "another", "a")
    assert not refused(limits, "another", "b")
    clock.now = ADDRESS_SECONDS + 0.1
    assert not refused(limits, "another", "a")


def test_a_name_is_shut_out_from_addresses_that_it_is_not_known_to_come_from() -> None:
    clock = Clock()
    limits = Limits(clock)
    limits.succeeded("admin", "office")
    for n in range(NAME_FAILURES):
        assert not refused(limits, "admin", f"bot-{n}")
        limits.failed("admin", f"bot-{n}")
    assert refused(limits, "admin", "bot-new")
    # A stranger cannot shut an operator out of where he works.
    assert not refused(limits, "admin", "office")
    assert not refused(limits, "other", "bot-new")
    clock.now = NAME_SECONDS + 0.1
    assert not refused(limits, "admin", "bot-new")


def test_failures_from_where_a_name_works_do_not_count_against_it_elsewhere() -> None:
    limits = Limits(Clock())
    limits.succeeded("admin", "office")
    for _ in range(ADDRESS_FAILURES):
        limits.failed("admin", "office")
    assert refused(limits, "admin", "office")  # by address it is shut out all the same
    assert not refused(limits, "admin", "home")


def test_the_tables_do_not_grow_and_what_is_under_attack_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sign_in_limits, "MOST_ROWS", 50)
    limits = Limits(Clock())
    for n in range(1_000):
        limits.failed("admin" if n % 10 == 0 else f"noise-{n}", f"bot-{n}")
        limits.succeeded(f"good-{n}", "x")
    assert len(limits._addresses) == len(limits._names) == len(limits._known) == 50
    assert refused(limits, "admin", "bot-new")
