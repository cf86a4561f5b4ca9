"""Operators: their roles, tenants, passwords and API tokens, as rows of the database.

Every function runs inside one `Change`. Passwords come as argon2 hashes: hashing takes long and
is done before the transaction begins.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final, Literal

from callpool.licensing.errors import LicenseError
from callpool.manager.change import Change
from callpool.manager.inventory import check_name, tenant_by_name
from callpool.manager.paging import Column, Page, page_rows
from callpool.manager.roles import ADMINISTRATOR, TENANT_OPERATOR, check_role, check_scopes
from callpool.manager.store.tx import Row, Tx
from callpool.wire.tokens import hashed

#: What an API token begins with, so that it is told from a session, and found where it leaked.
TOKEN_MARK: Final = "cpt_"  # noqa: S105  a mark, no secret
#: Days for which an API token may be good.
MOST_TOKEN_DAYS: Final = 400.0
#: API tokens that one operator may have.
MOST_TOKENS: Final = 100
_DAY: Final = 86_400.0


def operator_row(tx: Tx, username: str) -> Row:
    """Return an operator's row; raises LicenseError `unknown_operator`."""
    row = tx.row("SELECT * FROM operator WHERE username = :name", name=username)
    if row is None:
        raise LicenseError("unknown_operator", f"There is no operator named {username[:64]!r}.")
    return row


def tenants_of(tx: Tx, username: str) -> list[str]:
    """Return the names of an operator's tenants."""
    return [
        r["name"]
        for r in tx.rows(
            "SELECT t.name FROM operator_tenant o JOIN tenant t ON t.tenant_id = o.tenant_id"
            " WHERE o.username = :name ORDER BY t.name",
            name=username,
        )
    ]


def shown(tx: Tx, row: Row) -> dict[str, Any]:
    """Return an operator for people and programs."""
    return {
        "username": row["username"],
        "role": row["role"],
        "tenants": tenants_of(tx, row["username"]),
        "disabled": bool(row["disabled"]),
        "made_at": row["made_at"],
        "password_at": row["password_at"],
        "last_sign_in": row["last_sign_in"],
    }


def add_operator(
    change: Change,
    username: str,
    password: str,
    role: str = ADMINISTRATOR,
    tenants: Sequence[str] = (),
) -> None:
    """Add an operator; `password` is its hash.

    Raises LicenseError `bad_name`, `bad_role`, `operator_exists`, `unknown_tenant`,
    `tenants_needed`, `no_tenants_here`.
    """
    check_name(username, "An operator's name")
    if change.tx.row("SELECT 1 FROM operator WHERE username = :name", name=username):
        raise LicenseError("operator_exists", f"There is already an operator named {username}.")
    change.tx.run(
        "INSERT INTO operator (username, password, role, made_at, password_at)"
        " VALUES (:username, :password, :role, :now, :now)",
        username=username,
        password=password,
        role=check_role(role),
        now=change.now,
    )
    _set_tenants(change, username, role, tenants)
    change.journal("operator_added", username=username, role=role, tenants=list(tenants))


def _set_tenants(change: Change, username: str, role: str, tenants: Sequence[str]) -> None:
    if role == TENANT_OPERATOR and not tenants:
        raise LicenseError("tenants_needed", "A tenant operator has at least one tenant.")
    if role != TENANT_OPERATOR and tenants:
        raise LicenseError("no_tenants_here", "Only a tenant operator is bound to tenants.")
    change.tx.run("DELETE FROM operator_tenant WHERE username = :name", name=username)
    for name in dict.fromkeys(tenants):
        change.tx.run(
            "INSERT INTO operator_tenant (username, tenant_id) VALUES (:name, :tenant)",
            name=username,
            tenant=tenant_by_name(change, name)["tenant_id"],
        )


def change_operator(
    change: Change,
    username: str,
    *,
    role: str | None = None,
    tenants: Sequence[str] | None = None,
    disabled: bool | None = None,
) -> None:
    """Change an operator's role, tenants, or whether he is let in.

    One who is disabled, or whose role changes, is signed out everywhere; the tokens of one who is
    disabled are revoked. Raises LicenseError `unknown_operator`, `bad_role`, `tenants_needed`,
    `no_tenants_here`, `unknown_tenant`, `last_administrator`.
    """
    row = operator_row(change.tx, username)
    new = check_role(row["role"] if role is None else role)
    if role is not None or tenants is not None:
        kept = tenants_of(change.tx, username) if new == TENANT_OPERATOR else []
        _set_tenants(change, username, new, kept if tenants is None else tenants)
    off = bool(row["disabled"]) if disabled is None else disabled
    change.tx.run(
        "UPDATE operator SET role = :role, disabled = :off WHERE username = :name",
        role=new,
        off=off,
        name=username,
    )
    if off or new != row["role"]:
        end_sessions(change, username)
    if off:
        change.tx.run("UPDATE api_token SET revoked = TRUE WHERE username = :name", name=username)
    _check_administrator(change)
    change.journal(
        "operator_changed",
        username=username,
        role=new,
        tenants=tenants_of(change.tx, username),
        disabled=off,
    )


def remove_operator(change: Change, username: str) -> None:
    """Remove an operator with his sessions and tokens; the journal keeps his name.

    Raises LicenseError `unknown_operator`, `last_administrator`.
    """
    operator_row(change.tx, username)
    for table in ("session", "api_token", "operator_tenant", "operator"):
        change.tx.run(f"DELETE FROM {table} WHERE username = :name", name=username)  # noqa: S608  named above
    _check_administrator(change)
    change.journal("operator_removed", username=username)


def _check_administrator(change: Change) -> None:
    if not change.tx.value(
        "SELECT count(*) FROM operator WHERE role = :role AND NOT disabled", role=ADMINISTRATOR
    ):
        raise LicenseError(
            "last_administrator",
            "This is the last administrator who is let in; give somebody else that role first.",
        )


def set_password(change: Change, username: str, password: str, *, keep: str = "") -> None:
    """Set a password, given as its hash; ends all sessions but the one whose hash is `keep`.

    Raises LicenseError `unknown_operator`.
    """
    operator_row(change.tx, username)
    change.tx.run(
        "UPDATE operator SET password = :password, password_at = :now WHERE username = :name",
        password=password,
        now=change.now,
        name=username,
    )
    end_sessions(change, username, keep=keep)
    change.journal("password_changed", username=username)


def reset(change: Change, username: str, password: str) -> None:
    """Let an operator in again by a new password, given as its hash (on the manager's host).

    Where there is no such operator, an administrator of that name is added.
    """
    if change.tx.row("SELECT 1 FROM operator WHERE username = :name", name=username) is None:
        add_operator(change, username, password)
        return
    change.tx.run("UPDATE operator SET disabled = FALSE WHERE username = :name", name=username)
    set_password(change, username, password)


def end_sessions(change: Change, username: str, *, keep: str = "") -> int:
    """End an operator's sessions but the one whose hash is `keep`; returns how many."""
    return change.tx.run(
        "DELETE FROM session WHERE username = :name AND hash <> :keep", name=username, keep=keep
    )


def make_api_token(
    change: Change, username: str, name: str, scopes: list[str], days: float
) -> tuple[int, str, float]:
    """Make an API token; returns its number, the token, kept as a hash only, and when it ends.

    Raises LicenseError `unknown_operator`, `bad_scope`, `bad_name`, `bad_request`,
    `too_many_tokens`.
    """
    row = operator_row(change.tx, username)
    wanted = check_scopes(scopes, row["role"])
    check_name(name, "A token's name")
    if not 0 < days <= MOST_TOKEN_DAYS:
        raise LicenseError(
            "bad_request", f"A token is good for at most {MOST_TOKEN_DAYS:.0f} days."
        )
    has = change.tx.value(
        "SELECT count(*) FROM api_token WHERE username = :name AND NOT revoked AND expires > :now",
        name=username,
        now=change.now,
    )
    if has >= MOST_TOKENS:
        raise LicenseError(
            "too_many_tokens", f"An operator has at most {MOST_TOKENS} tokens; revoke some."
        )
    token, expires = TOKEN_MARK + secrets.token_urlsafe(32), change.now + days * _DAY
    # The journal names tokens by their number: none is ever given twice.
    number = int(change.tx.meta("api_token_last") or 0) + 1
    change.tx.set_meta("api_token_last", str(number))
    change.tx.run(
        "INSERT INTO api_token (token_id, hash, username, name, scopes, made_at, expires)"
        " VALUES (:number, :hash, :username, :name, :scopes, :now, :expires)",
        number=number,
        hash=hashed(token),
        username=username,
        name=name,
        scopes=" ".join(wanted),
        now=change.now,
        expires=expires,
    )
    change.journal(
        "api_token_made", username=username, token=number, name=name, scopes=list(wanted),
        expires=expires,
    )  # fmt: skip
    return number, token, expires


def revoke_api_token(change: Change, number: int, username: str = "") -> None:
    """Revoke an API token, of one operator where he is named; LicenseError `unknown_token`."""
    row = change.tx.row(
        "SELECT username FROM api_token WHERE token_id = :number AND NOT revoked"
        " AND (:name = '' OR username = :name)",
        number=number,
        name=username,
    )
    if row is None:
        raise LicenseError("unknown_token", f"There is no API token {number}.")
    change.tx.run("UPDATE api_token SET revoked = TRUE WHERE token_id = :number", number=number)
    change.journal("api_token_revoked", username=row["username"], token=number)


class OperatorQuery(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which operators, in which order."""

    role: str = ""
    #: A part of the name.
    q: str = ""
    sort: Literal["username", "-username"] = "username"


def page(tx: Tx, asked: OperatorQuery) -> dict[str, Any]:
    """Return a page of the operators; raises LicenseError `bad_cursor`."""
    rows, following = page_rows(
        tx,
        "SELECT * FROM operator WHERE (:role = '' OR role = :role)"
        " AND (:q = '' OR instr(lower(username), lower(:q)) > 0)",
        {"username": (Column("username", "username", str),)},
        asked,
        asked.sort,
        {"role": asked.role, "q": asked.q},
    )
    return {"operators": [shown(tx, r) for r in rows], "next": following}


def api_tokens(tx: Tx, now: float, asked: Page, username: str = "") -> dict[str, Any]:
    """Return a page of API tokens, of one operator or of all, the newest first; no secrets."""
    rows, following = page_rows(
        tx,
        "SELECT * FROM api_token WHERE (:name = '' OR username = :name)",
        {"id": (Column("token_id", "token_id", int),)},
        asked,
        "-id",
        {"name": username},
    )
    found = [
        {
            "id": r["token_id"],
            "username": r["username"],
            "name": r["name"],
            "scopes": r["scopes"].split(),
            "made_at": r["made_at"],
            "expires": r["expires"],
            "last_used": r["last_used"],
            "usable": not r["revoked"] and r["expires"] > now,
        }
        for r in rows
    ]
    return {"api_tokens": found, "next": following}
