"""What people see of the authority: accounts, licenses, instances, alerts, events.

Times are seconds since 1970 by the manager's clock; counts are calls a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from callpool.licensing.errors import LicenseError
from callpool.manager.authority_ledger import REGISTERED
from callpool.manager.store.database import Row, Tx

Filters = Mapping[str, str]


def _within(tx: Tx, filters: Filters) -> dict[str, str]:
    """Return the names to look within; raises LicenseError for one that does not exist."""
    account, name = filters.get("account", ""), filters.get("virtual_account", "")
    found = tx.row(
        "SELECT max(account = :account) AS account, max(virtual_account = :name"
        " AND (:account = '' OR account = :account)) AS name FROM virtual_account_name",
        account=account,
        name=name,
    )
    if account and not (found and found["account"]):
        raise LicenseError("unknown_account", f"There is no account named {account[:64]!r}.")
    if name and not (found and found["name"]):
        raise LicenseError(
            "unknown_virtual_account", f"There is no virtual account named {name[:64]!r} there."
        )
    return {"account": account, "virtual_account": name}


def _named(row: Row) -> dict[str, str]:
    return {"account": row["account"], "virtual_account": row["virtual_account"]}


def accounts(tx: Tx) -> list[dict[str, Any]]:
    """Return the accounts with the names of their virtual accounts."""
    out: dict[str, dict[str, Any]] = {}
    for r in tx.rows(
        "SELECT a.name AS account, v.name FROM smart_account a JOIN virtual_account v"
        " ON v.account_id = a.account_id ORDER BY a.name, v.name"
    ):
        account = out.setdefault(r["account"], {"name": r["account"], "virtual_accounts": []})
        account["virtual_accounts"].append(r["name"])
    return list(out.values())


def entitlements(tx: Tx, filters: Filters) -> list[dict[str, Any]]:
    """Return Purchased, In use and Balance per entitlement of each virtual account."""
    return [
        {
            **_named(r),
            "tag": r["tag"],
            "purchased": r["purchased"],
            "in_use": r["in_use"],
            "balance": r["purchased"] - r["in_use"],
            "status": "out_of_compliance" if r["out_since"] else "in_compliance",
            "out_of_compliance_since": r["out_since"] or None,
        }
        for r in tx.rows(
            "SELECT * FROM smart_compliance JOIN virtual_account_name USING (va_id) WHERE"
            " (:account = '' OR account = :account)"
            " AND (:virtual_account = '' OR virtual_account = :virtual_account)"
            " ORDER BY account, virtual_account, tag",
            **_within(tx, filters),
        )
    ]


def orders(tx: Tx, now: float, filters: Filters) -> list[dict[str, Any]]:
    """Return what each virtual account has of each order, the one that ends last first."""
    return [
        {
            **_named(r),
            "order_id": r["order_id"],
            "tag": r["tag"],
            "count": r["count"],
            "starts": r["starts"],
            "ends": r["ends"],
            "in_date": r["starts"] <= now < r["ends"],
            "imported_at": r["imported_at"],
        }
        for r in tx.rows(
            "SELECT * FROM entitlement JOIN smart_order USING (order_id)"
            " JOIN virtual_account_name USING (va_id) WHERE count > 0 AND"
            " (:account = '' OR account = :account)"
            " AND (:virtual_account = '' OR virtual_account = :virtual_account)"
            " ORDER BY ends DESC, order_id, virtual_account",
            **_within(tx, filters),
        )
    ]


def instances(tx: Tx, filters: Filters) -> list[dict[str, Any]]:
    """Return product instances; those that have left only where the filter `all` is set."""
    out: dict[str, dict[str, Any]] = {}
    for r in tx.rows(
        "SELECT * FROM product_instance JOIN virtual_account_name USING (va_id)"
        " WHERE (state = 'registered' OR :all <> '') AND"
        " (:account = '' OR account = :account)"
        " AND (:virtual_account = '' OR virtual_account = :virtual_account)"
        " ORDER BY registered_at, instance_id",
        all=filters.get("all", ""),
        **_within(tx, filters),
    ):
        silent, listed = bool(r["silent"]), r["state"] == REGISTERED
        out[r["instance_id"]] = {
            "instance_id": r["instance_id"],
            **_named(r),
            "serial": r["serial"],
            "name": r["name"],
            "status": "locked" if r["locked"] else "silent" if silent and listed else r["state"],
            "counted": listed and not silent,
            "agent_state": r["agent_state"],
            "software": r["software"],
            "maximum": r["maximum"],
            "export_allowed": bool(r["export_allowed"]),
            "registered_at": r["registered_at"],
            "left_at": r["left_at"],
            "last_contact": r["last_contact"],
            "hint_waiting": r["hint_seq"] > r["hint_seen"],
            "certificate": {
                "not_before": r["certificate_from"],
                "renew_at": r["certificate_renew"],
                "not_after": r["certificate_until"],
            },
            "authorizations": [],
        }
    for r in tx.rows("SELECT * FROM smart_authorization ORDER BY instance_id, tag"):
        if r["instance_id"] in out:
            out[r["instance_id"]]["authorizations"].append(
                {name: r[name] for name in r if name != "instance_id"}
            )
    return list(out.values())


def tokens(tx: Tx, now: float, filters: Filters) -> list[dict[str, Any]]:
    """Return registration tokens, without their secrets."""
    return [
        {
            "id": r["token_id"],
            **_named(r),
            "description": r["description"],
            "uses_left": r["uses_left"],
            "expires": r["expires"],
            "export_allowed": bool(r["export_allowed"]),
            "revoked": bool(r["revoked"]),
            "usable": not r["revoked"] and r["uses_left"] > 0 and r["expires"] > now,
            "made_at": r["made_at"],
            "made_by": r["made_by"],
        }
        for r in tx.rows(
            "SELECT * FROM smart_token JOIN virtual_account_name USING (va_id) WHERE"
            " (:account = '' OR account = :account)"
            " AND (:virtual_account = '' OR virtual_account = :virtual_account)"
            " ORDER BY token_id DESC LIMIT 500",
            **_within(tx, filters),
        )
    ]


def alerts(tx: Tx, filters: Filters) -> list[dict[str, Any]]:
    """Return open alerts, the worst and newest first; ended ones too with the filter `all`."""
    return [
        {
            "id": r["alert_id"],
            "kind": r["kind"],
            "severity": r["severity"],
            **_named(r),
            "instance": r["instance_id"],
            "message": r["message"],
            "action": r["action"],
            "action_due": r["action_due"],
            "raised_at": r["raised_at"],
            "cleared_at": r["cleared_at"],
        }
        for r in tx.rows(
            "SELECT * FROM smart_alert JOIN virtual_account_name USING (va_id)"
            " WHERE (cleared_at IS NULL OR :all <> '') AND (:kind = '' OR kind = :kind) AND"
            " (:account = '' OR account = :account)"
            " AND (:virtual_account = '' OR virtual_account = :virtual_account)"
            " ORDER BY cleared_at IS NOT NULL, severity, raised_at DESC, alert_id DESC LIMIT 500",
            all=filters.get("all", ""),
            kind=filters.get("kind", ""),
            **_within(tx, filters),
        )
    ]


def events(tx: Tx, limit: int, before: int | None, filters: Filters) -> list[dict[str, Any]]:
    """Return the event log, the newest first, those before event `before`.

    Filters: `account`, `virtual_account`, `kind`, `instance` (its id or serial number), `tag`,
    and `since` up to, and not including, `until`, in seconds since 1970.
    """
    return [
        {
            "id": r["event_id"],
            "at": r["at"],
            "who": r["who"],
            "source": r["source"],
            "kind": r["kind"],
            "account": r["account"],
            "virtual_account": r["virtual_account"],
            "instance": r["instance_id"],
            "tag": r["tag"],
            "message": r["message"],
        }
        for r in tx.rows(
            "SELECT t.*, a.name AS account, v.name AS virtual_account FROM smart_event t"
            " LEFT JOIN virtual_account v ON v.va_id = t.va_id LEFT JOIN smart_account a"
            " ON a.account_id = t.account_id WHERE t.event_id < :before"
            " AND (:kind = '' OR t.kind = :kind) AND (:instance = '' OR t.instance_id = :instance"
            " OR t.instance_id IN (SELECT instance_id FROM product_instance"
            " WHERE serial = :instance)) AND t.at >= :since AND t.at < :until"
            " AND (:tag = '' OR t.tag = :tag) AND (:account = '' OR a.name = :account)"
            " AND (:virtual_account = '' OR v.name = :virtual_account)"
            " ORDER BY t.event_id DESC LIMIT :limit",
            before=before if before is not None else 2**62,
            kind=filters.get("kind", ""),
            instance=filters.get("instance", ""),
            tag=filters.get("tag", ""),
            since=float(filters.get("since", "-inf")),
            until=float(filters.get("until", "inf")),
            limit=limit,
            **_within(tx, filters),
        )
    ]


def overview(tx: Tx) -> dict[str, Any]:
    """Return the whole of it on one page: licenses, instances, open alerts."""
    nothing: Filters = {}
    return {
        "accounts": accounts(tx),
        "entitlements": entitlements(tx, nothing),
        "instances": instances(tx, nothing),
        "alerts": alerts(tx, nothing),
    }
