"""Sessions and tokens by the manager's clock, and what a role is given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from argon2 import PasswordHasher
from poolmodel import DAY, Model

from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager import operators, passwords
from callpool.manager.access import BEARER, BROWSER, IDLE_SECONDS, SESSION_SECONDS, Access
from callpool.manager.passwords import check_password, hashed_password
from callpool.manager.roles import PERMISSIONS, ROLES, SCOPES, allowed, check_scopes

WORD = "a long enough word 7"


@pytest.fixture(scope="module")
def kept() -> str:
    """A hash that is quickly verified: how slow argon2 is, is not what is tested."""
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(WORD)


@pytest.fixture
def model(kept: str) -> Iterator[Model]:
    made = Model()
    made.change(lambda c: operators.add_operator(c, "ann", kept, "license_operator"))
    yield made
    made.close()


def code(work: Any) -> str:
    with pytest.raises(CallpoolError) as error:
        work()
    return error.value.code


@pytest.mark.parametrize("kind", [BROWSER, BEARER])
async def test_a_session_ends_at_its_time_and_when_it_is_not_used(model: Model, kind: str) -> None:
    access = Access(model.manager)
    token, _ = await access.sign_in("ann", WORD, "::1", kind)
    used = 0.0
    while used + IDLE_SECONDS[kind] * 0.9 < SESSION_SECONDS:
        model.clock.advance(IDLE_SECONDS[kind] * 0.9)
        used += IDLE_SECONDS[kind] * 0.9
        assert access.by_session(token, "::1", kind).username == "ann"
    model.clock.advance(SESSION_SECONDS - used + 1)
    assert code(lambda: access.by_session(token, "::1", kind)) == "session_expired"
    idle, _ = await access.sign_in("ann", WORD, "::1", kind)
    model.clock.advance(IDLE_SECONDS[kind] + 1)
    assert code(lambda: access.by_session(idle, "::1", kind)) == "session_expired"


async def test_a_cookie_is_no_bearer_token_and_a_bearer_token_no_cookie(model: Model) -> None:
    access = Access(model.manager)
    cookie, _ = await access.sign_in("ann", WORD, "::1", BROWSER)
    assert code(lambda: access.by_session(cookie, "::1", BEARER)) == "session_expired"
    bearer, _ = await access.sign_in("ann", WORD, "::1", BEARER)
    assert code(lambda: access.by_session(bearer, "::1", BROWSER)) == "session_expired"


async def test_a_role_that_is_changed_ends_what_was_open_under_the_old_one(model: Model) -> None:
    access = Access(model.manager)
    token, who = await access.sign_in("ann", WORD, "::1", BROWSER)
    assert access.still(who)
    model.change(lambda c: operators.change_operator(c, "ann", role="viewer"))
    assert not access.still(who)
    assert code(lambda: access.by_session(token, "::1", BROWSER)) == "session_expired"


def test_an_api_token_ends_at_its_time_and_by_being_revoked(model: Model) -> None:
    access = Access(model.manager)
    made = model.change(lambda c: operators.make_api_token(c, "ann", "t", ["pool", "smart"], 10))
    who = access.by_api_token(made[1], "::1")
    assert who.via == f"token:{made[0]}"
    assert who.may("pool.change")
    assert not who.may("own")
    assert not who.may("operators.read")
    model.change(lambda c: operators.change_operator(c, "ann", role="viewer"))
    assert not access.by_api_token(made[1], "::1").may("pool.change")
    model.clock.advance(10 * DAY + 1)
    assert code(lambda: access.by_api_token(made[1], "::1")) == "token_refused"
    other = model.change(lambda c: operators.make_api_token(c, "ann", "t", ["read"], 10))
    model.change(lambda c: operators.revoke_api_token(c, other[0], "ann"))
    assert code(lambda: access.by_api_token(other[1], "::1")) == "token_refused"
    assert other[0] > made[0]


def test_a_number_of_a_removed_operators_token_is_never_given_again(model: Model) -> None:
    first = model.change(lambda c: operators.make_api_token(c, "ann", "t", ["read"], 1))[0]
    model.change(lambda c: operators.remove_operator(c, "ann"))
    second = model.change(lambda c: operators.make_api_token(c, "admin", "t", ["read"], 1))[0]
    assert second == first + 1


async def test_a_flood_of_sign_ins_is_refused_beyond_a_bounded_queue(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "MOST_WAITING", 3)
    access, argon2 = Access(model.manager), asyncio.Event()

    async def slow(_kept: str, _password: str) -> bool:
        await argon2.wait()
        return False

    monkeypatch.setattr(access._verifier, "matches", slow)
    tries = [
        asyncio.ensure_future(access.by_password("ann", "wrong", f"10.0.0.{n}")) for n in range(20)
    ]
    done: set[Any] = set()
    while len(done) < 17:
        done, _ = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
    assert {t.exception().code for t in done} == {"too_many_sign_ins"}
    argon2.set()
    left, _ = await asyncio.wait(set(tries) - done)
    assert [t.exception().code for t in left] == ["bad_credentials"] * 3  # type: ignore[union-attr]


async def test_a_password_that_was_changed_is_not_remembered(model: Model) -> None:
    access = Access(model.manager)
    assert (await access.by_password("ann", WORD, "::1")).via == "password"
    assert (await access.by_password("ann", WORD, "::1")).via == "password"
    signed = model.manager.database.read(
        lambda tx: tx.value("SELECT count(*) FROM journal WHERE cause = 'signed_in'")
    )
    assert signed == 1  # once for as long as it is in use, not at each request
    model.change(lambda c: operators.set_password(c, "ann", hashed_password("other" + WORD)))
    with pytest.raises(CallpoolError, match="wrong"):
        await access.by_password("ann", WORD, "::1")


async def test_a_name_that_there_is_not_is_not_written_down(model: Model) -> None:
    access = Access(model.manager)
    with pytest.raises(CallpoolError, match="wrong"):
        await access.by_password("my secret by mistake", "x", "::1")
    said = model.manager.database.read(lambda tx: str(tx.rows("SELECT * FROM journal")))
    assert "by mistake" not in said
    assert "sign_in_failed" in said


def test_no_scope_opens_more_than_its_owners_role_and_none_opens_ones_own() -> None:
    for role, has in ROLES.items():
        for scope in SCOPES:
            assert allowed(role, (scope,)) <= has
            assert "own" not in allowed(role, (scope,))
        assert allowed(role, None) == has
        assert has <= PERMISSIONS.keys()
    with pytest.raises(LicenseError, match="has nothing that audit opens"):
        check_scopes(["audit"], "viewer")


@pytest.mark.parametrize("word", ["short", "aaaaaaaaaaaaaaaa", "my name is ANN, yes", "x" * 257])
def test_a_weak_password_is_refused(word: str) -> None:
    with pytest.raises(LicenseError) as error:
        check_password(word, "ann")
    assert error.value.code == "weak_password"


def test_the_last_administrator_who_is_let_in_stays_one(model: Model, kept: str) -> None:
    model.change(lambda c: operators.add_operator(c, "boss", kept))
    model.change(lambda c: operators.change_operator(c, "admin", disabled=True))
    for work in (
        lambda c: operators.remove_operator(c, "boss"),
        lambda c: operators.change_operator(c, "boss", disabled=True),
        lambda c: operators.change_operator(c, "boss", role="auditor"),
    ):
        assert code(lambda work=work: model.change(work)) == "last_administrator"
    model.change(lambda c: operators.remove_operator(c, "admin"))


def test_a_password_of_nobody_takes_as_long_to_verify_as_anybodys() -> None:
    """Its hash is written down: with the cost that ours have."""
    assert not passwords._HASHER.check_needs_rehash(passwords.NOBODY)
