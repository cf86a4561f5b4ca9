"""What people see of the authority: accounts, licenses, instances, alerts, events.

Times are seconds since 1970 by the manager's clock; counts are calls a second.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from callpool.licensing.errors import LicenseError
from callpool.manager.authority_ledger import REGISTERED
from callpool.manager.paging import MOST, PAGE, Column, Number, Page, page_rows
from callpool.manager.store.tx import Row, Tx

#: Seconds since 1970 before and after all that there is.
_FAR: Final = 1e12
Time = Annotated[float, msgspec.Meta(ge=-_FAR, le=_FAR)]


class SmartQuery(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of a list, within an account or a virtual account where one is named."""

    account: str = ""
    virtual_account: str = ""


class InstanceQuery(SmartQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which product instances."""

    #: `1`: with those that have left.
    all: Literal["", "1"] = ""
    #: A part of the name or the serial number.
    q: str = ""


class AlertQuery(SmartQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which alerts."""

    #: `1`: with those that have ended.
    all: Literal["", "1"] = ""
    #: One of `authority_alerts.KINDS`.
    kind: str = ""


class EventQuery(SmartQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events; the newest first. Times: seconds since 1970, `until` not included."""

    #: CSV may have more lines than a page.
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = PAGE
    kind: str = ""
    #: The instance's id, or its serial number.
    instance: str = ""
    tag: str = ""
    since: Time = -_FAR
    until: Time = _FAR
    #: Only events before this one.
    before: Number = 2**62
    #: `csv` gives all events, whatever the limit, unless one is given.
    format: Literal["", "json", "csv"] = ""


def _within(tx: Tx, asked: SmartQuery) -> dict[str, str]:
    """Return the names to look within; raises LicenseError for one that does not exist."""
    account, name = asked.account, asked.virtual_account
    found = tx.row(
        "SELECT max(CASE WHEN account = :account THEN 1 ELSE 0 END) AS account,"
        " max(CASE WHEN virtual_account = :name AND (:account = '' OR account = :account)"
        " THEN 1 ELSE 0 END) AS name FROM virtual_account_name",
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


_OF: Final = (
    " AND (:account = '' OR account = :account)"
    " AND (:virtual_account = '' OR virtual_account = :virtual_account)"
)
_ACCOUNT: Final = Column("account", "account", str)
_VIRTUAL: Final = Column("virtual_account", "virtual_account", str)


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


def entitlements(tx: Tx, asked: SmartQuery) -> dict[str, Any]:
    """Return Purchased, In use and Balance per entitlement of each virtual account."""
    rows, following = page_rows(
        tx,
        f"SELECT * FROM smart_compliance JOIN virtual_account_name USING (va_id) WHERE TRUE{_OF}",  # noqa: S608  constants only
        {"account": (_ACCOUNT, _VIRTUAL, Column("tag", "tag", str))},
        asked,
        "account",
        _within(tx, asked),
    )
    found = [
        {
            **_named(r),
            "tag": r["tag"],
            "purchased": r["purchased"],
            "in_use": r["in_use"],
            "balance": r["purchased"] - r["in_use"],
            "status": "out_of_compliance" if r["out_since"] else "in_compliance",
            "out_of_compliance_since": r["out_since"] or None,
        }
        for r in rows
    ]
    return {"entitlements": found, "next": following}


def orders(tx: Tx, now: float, asked: SmartQuery) -> dict[str, Any]:
    """Return what each virtual account has of each order, the one that ends last first."""
    rows, following = page_rows(
        tx,
        "SELECT * FROM entitlement JOIN smart_order USING (order_id)"  # noqa: S608  constants only
        f" JOIN virtual_account_name USING (va_id) WHERE count > 0{_OF}",
        {
            "ends": (
                Column("ends", "ends", float),
                Column("order_id", "order_id", str),
                Column("va_id", "va_id", int),
                Column("tag", "tag", str),
            )
        },
        asked,
        "-ends",
        _within(tx, asked),
    )
    found = [
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
        for r in rows
    ]
    return {"orders": found, "next": following}


def instances(tx: Tx, asked: InstanceQuery) -> dict[str, Any]:
    """Return product instances, the one that registered first first."""
    rows, following = page_rows(
        tx,
        "SELECT * FROM product_instance JOIN virtual_account_name USING (va_id)"  # noqa: S608  constants only
        " WHERE (state = 'registered' OR :all <> '')"
        f" AND (:q = '' OR instr(lower(name), lower(:q)) > 0"
        f" OR instr(lower(serial), lower(:q)) > 0){_OF}",
        {
            "registered": (
                Column("registered_at", "registered_at", float),
                Column("instance_id", "instance_id", str),
            )
        },
        asked,
        "registered",
        _within(tx, asked) | {"all": asked.all, "q": asked.q},
    )
    out = {r["instance_id"]: _instance(r) for r in rows}
    for r in tx.rows(
        "SELECT * FROM smart_authorization WHERE instance_id IN TEXTS(:ids)"
        " ORDER BY instance_id, tag",
        ids=msgspec.json.encode(list(out)).decode(),
    ):
        out[r["instance_id"]]["authorizations"].append(
            {name: r[name] for name in r if name != "instance_id"}
        )
    return {"instances": list(out.values()), "next": following}


def _instance(r: Row) -> dict[str, Any]:
    silent, listed = bool(r["silent"]), r["state"] == REGISTERED
    return {
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


def tokens(tx: Tx, now: float, asked: SmartQuery) -> dict[str, Any]:
    """Return registration tokens, the newest first, without their secrets."""
    rows, following = page_rows(
        tx,
        f"SELECT * FROM smart_token JOIN virtual_account_name USING (va_id) WHERE TRUE{_OF}",  # noqa: S608  constants only
        {"id": (Column("token_id", "token_id", int),)},
        asked,
        "-id",
        _within(tx, asked),
    )
    found = [
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
        for r in rows
    ]
    return {"tokens": found, "next": following}


def alerts(tx: Tx, asked: AlertQuery) -> dict[str, Any]:
    """Return open alerts, the worst and newest first; ended ones too where `all` is asked for."""
    rows, following = page_rows(
        tx,
        "SELECT *, cleared_at IS NOT NULL AS over, -raised_at AS age, -alert_id AS turn"  # noqa: S608  constants only
        " FROM smart_alert JOIN virtual_account_name USING (va_id)"
        f" WHERE (cleared_at IS NULL OR :all <> '') AND (:kind = '' OR kind = :kind){_OF}",
        {
            "worst": (
                Column("cleared_at IS NOT NULL", "over", int),
                Column("severity", "severity", str),
                Column("-raised_at", "age", float),
                Column("-alert_id", "turn", int),
            )
        },
        asked,
        "worst",
        _within(tx, asked) | {"all": asked.all, "kind": asked.kind},
    )
    found = [
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
        for r in rows
    ]
    return {"alerts": found, "next": following}


def events(tx: Tx, asked: EventQuery) -> dict[str, Any]:
    """Return a page of the event log, the newest first."""
    rows, following = page_rows(
        tx,
        "SELECT t.*, a.name AS account, v.name AS virtual_account FROM smart_event t"
        " LEFT JOIN virtual_account v ON v.va_id = t.va_id LEFT JOIN smart_account a"
        " ON a.account_id = t.account_id WHERE t.event_id < :before"
        " AND (:kind = '' OR t.kind = :kind) AND (:instance = '' OR t.instance_id = :instance"
        " OR t.instance_id IN (SELECT instance_id FROM product_instance"
        " WHERE serial = :instance)) AND t.at >= :since AND t.at < :until"
        " AND (:tag = '' OR t.tag = :tag) AND (:account = '' OR a.name = :account)"
        " AND (:virtual_account = '' OR v.name = :virtual_account)",
        {"id": (Column("t.event_id", "event_id", int),)},
        asked,
        "-id",
        {
            "before": asked.before,
            "kind": asked.kind,
            "instance": asked.instance,
            "tag": asked.tag,
            "since": asked.since,
            "until": asked.until,
            **_within(tx, asked),
        },
    )
    found = [
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
        for r in rows
    ]
    return {"events": found, "next": following}


def overview(tx: Tx) -> dict[str, Any]:
    """Return the whole of it on one page: licenses, instances, open alerts.

    Of each list at most the first `paging.MOST`.
    """
    return {
        "accounts": accounts(tx),
        "entitlements": entitlements(tx, SmartQuery(limit=MOST))["entitlements"],
        "instances": instances(tx, InstanceQuery(limit=MOST))["instances"],
        "alerts": alerts(tx, AlertQuery(limit=MOST))["alerts"],
    }
