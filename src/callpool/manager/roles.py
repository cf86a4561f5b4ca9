"""Roles, permissions and scopes: the one table that says who may do what.

Every route names one permission (`declare.api`); `guard.py` holds it against this table, and the
tests hold every role against every route. A role that is bound to tenants is given only
permissions whose queries are scoped (`store.scope.Scope`).
"""

from __future__ import annotations

from typing import Final

from callpool.licensing.errors import LicenseError

ADMINISTRATOR: Final = "administrator"
LICENSE_OPERATOR: Final = "license_operator"
TENANT_OPERATOR: Final = "tenant_operator"
VIEWER: Final = "viewer"
AUDITOR: Final = "auditor"

#: No permission: whoever can reach the port, or a device that signs what it says.
PUBLIC: Final = "public"
DEVICE: Final = "device"

#: What each permission lets one do.
PERMISSIONS: Final = {
    "own": "one's own sessions, password and API tokens",
    "pool.read": "the pool, tenants, devices, requests, usage, registration tokens, its journal",
    "pool.change": "allocations, devices, requests, restarts, registration tokens",
    "supply.read": "orders, and what the whole pool has",
    "supply.change": "import orders; tenants and their shares",
    "smart.read": "accounts, entitlements, instances, alerts and events of smart licensing",
    "smart.change": "everything that changes at the authority",
    "alarms.read": "the manager's alarms, and where they are sent",
    "alarms.change": "acknowledge alarms, set where they are sent",
    "operators.read": "operators, their roles, sessions and API tokens",
    "operators.change": "add, change and remove operators, end their sessions",
    "audit.read": "the whole audit log: who did what, sign-ins, refusals",
    "metrics.read": "the numbers at /metrics",
}

_READ: Final = ("own", "pool.read", "supply.read", "smart.read", "alarms.read", "metrics.read")

ROLES: Final[dict[str, frozenset[str]]] = {
    ADMINISTRATOR: frozenset(PERMISSIONS),
    LICENSE_OPERATOR: frozenset(
        {*_READ, "pool.change", "supply.change", "smart.change", "alarms.change"}
    ),
    TENANT_OPERATOR: frozenset({"own", "pool.read", "pool.change"}),
    VIEWER: frozenset(_READ),
    AUDITOR: frozenset({*_READ, "operators.read", "audit.read"}),
}

#: What an API token's scope opens, of what its owner's role has. None opens "own": a token makes
#: no tokens, and changes no password.
SCOPES: Final[dict[str, frozenset[str]]] = {
    "read": frozenset({"pool.read", "supply.read", "smart.read", "alarms.read"}),
    "pool": frozenset(
        {"pool.read", "pool.change", "supply.read", "supply.change", "alarms.read", "alarms.change"}
    ),
    "smart": frozenset({"smart.read", "smart.change"}),
    "operators": frozenset({"operators.read", "operators.change"}),
    "audit": frozenset({"audit.read"}),
    "metrics": frozenset({"metrics.read"}),
}


def check_role(role: str) -> str:
    """Return a role; raises LicenseError `bad_role`."""
    if role not in ROLES:
        raise LicenseError("bad_role", f"A role is one of {', '.join(ROLES)}.")
    return role


def check_scopes(scopes: list[str], role: str) -> tuple[str, ...]:
    """Return the scopes of a token, in order.

    Raises LicenseError `bad_scope`: none, one that there is not, or one that would open nothing
    of what its owner's role has.
    """
    wanted = tuple(name for name in SCOPES if name in scopes)
    if not wanted or len(wanted) != len(set(scopes)):
        raise LicenseError("bad_scope", f"Scopes are one or more of {', '.join(SCOPES)}.")
    for name in wanted:
        if not SCOPES[name] & ROLES[role]:
            raise LicenseError("bad_scope", f"The role {role} has nothing that {name} opens.")
    return wanted


def allowed(role: str, scopes: tuple[str, ...] | None) -> frozenset[str]:
    """Return the permissions of a role, of which a token's `scopes` leave a part."""
    has = ROLES.get(role, frozenset())
    if scopes is None:
        return has
    return has & frozenset().union(*(SCOPES.get(name, frozenset()) for name in scopes))
