"""Access: sessions, operators, API tokens, the audit log."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from callpool.manager.shapes.base import Shape

Role = Literal["administrator", "license_operator", "tenant_operator", "viewer", "auditor"]


class SignedIn(Shape, frozen=True, kw_only=True):
    """A session: `token` for bearers, `csrf` for browsers (the cookie is in its header)."""

    username: str
    role: Role
    expires: float
    token: str | msgspec.UnsetType = msgspec.UNSET
    csrf: str | msgspec.UnsetType = msgspec.UNSET


class SignedOut(Shape, frozen=True, kw_only=True):
    """A session that was ended."""

    signed_out: bool


class Me(Shape, frozen=True, kw_only=True):
    """Who asks, and what he may do."""

    username: str
    role: Role
    tenants: list[str]
    via: str
    permissions: list[str]
    expires: float | None
    csrf: str | None


class Session(Shape, frozen=True, kw_only=True):
    """A session."""

    id: str
    kind: Literal["browser", "bearer"]
    source: str
    made_at: float
    seen_at: float
    expires: float
    current: bool


class Sessions(Shape, frozen=True, kw_only=True):
    """One's own sessions."""

    sessions: list[Session]


class PasswordChanged(Shape, frozen=True, kw_only=True):
    """One's own password was changed."""

    changed: bool


class Operator(Shape, frozen=True, kw_only=True):
    """An operator."""

    username: str
    role: Role
    tenants: list[str]
    disabled: bool
    made_at: float
    password_at: float
    last_sign_in: float | None


class OperatorPage(Shape, frozen=True, kw_only=True):
    """A page of operators."""

    operators: list[Operator]
    next: str | None


class OperatorAdded(Shape, frozen=True, kw_only=True):
    """A new operator; the password where one was made."""

    username: str
    role: Role
    password: str | None


class PasswordSet(Shape, frozen=True, kw_only=True):
    """An operator's new password, where one was made."""

    username: str
    password: str | None


class OperatorNamed(Shape, frozen=True, kw_only=True):
    """The operator that was changed."""

    username: str


class SessionsEnded(Shape, frozen=True, kw_only=True):
    """How many sessions of an operator were ended."""

    username: str
    ended: int


class ApiToken(Shape, frozen=True, kw_only=True):
    """An API token, without its secret."""

    id: int
    username: str
    name: str
    scopes: list[str]
    made_at: float
    expires: float
    last_used: float | None
    usable: bool


class ApiTokenPage(Shape, frozen=True, kw_only=True):
    """A page of API tokens."""

    api_tokens: list[ApiToken]
    next: str | None


class ApiTokenMade(Shape, frozen=True, kw_only=True):
    """An API token that was made; it is shown this once."""

    id: int
    token: str
    expires: float


class AuditLine(Shape, frozen=True, kw_only=True):
    """One line of the audit log; `hash` covers it and the line before."""

    entry: int
    at: float
    who: str
    role: str
    via: str
    source: str
    cause: str
    outcome: Literal["done", "refused"]
    tenant: str | None
    detail: dict[str, Any]
    hash: str


class AuditPage(Shape, frozen=True, kw_only=True):
    """A page of the audit log."""

    lines: list[AuditLine]
    next: str | None


class AuditHead(Shape, frozen=True, kw_only=True):
    """The log as it ended at a time."""

    number: int
    hash: str
    at: float
    product_key: str


class SignedHead(Shape, frozen=True, kw_only=True):
    """The head, and the envelope that proves it."""

    head: AuditHead | None
    envelope: str


class AuditFinding(Shape, frozen=True, kw_only=True):
    """Something that is not as it was written."""

    kind: Literal["altered", "missing", "truncated", "lost", "head"]
    entry: int
    sentence: str


class AuditVerdict(Shape, frozen=True, kw_only=True):
    """What verifying the audit log found."""

    whole: bool
    lines: int
    first: int
    last: int
    hash: str
    findings: list[AuditFinding]
    more_findings: int
    accepted: list[AuditFinding]
    head: AuditHead | None
    after_head: int
