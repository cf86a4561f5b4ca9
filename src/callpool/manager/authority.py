"""What operators do at the authority: accounts, tokens, orders, moving licenses, instances.

Each function runs inside one `Change`. A device without a virtual account can be given no
token, and so no count (design.md).
"""

from __future__ import annotations

from typing import Final

from callpool.licensing.capacity import check_count
from callpool.licensing.compliance import DAY
from callpool.licensing.errors import LicenseError
from callpool.licensing.order import PurchaseOrder, check_for
from callpool.manager.authority_alerts import (
    DISMISSABLE,
    EXPIRED,
    EXPIRING,
    EventKind,
    clear_alert,
    event,
)
from callpool.manager.authority_ledger import (
    REGISTERED,
    REMOVED,
    REVOKED,
    hint_instance,
    leave,
    look_at_end,
    plan,
    settle,
)
from callpool.manager.change import Change
from callpool.manager.inventory import check_name
from callpool.manager.store.tx import Row
from callpool.wire.tokens import hashed, new_secret

#: The virtual account that every account begins with.
DEFAULT: Final = "default"
MOST_TOKEN_DAYS: Final = 365
MOST_TOKEN_USES: Final = 10_000


def account_by_name(change: Change, name: str) -> Row:
    """Return an account's row; the only account where `name` is empty.

    Raises LicenseError `no_account` (there is none at all), `unknown_account`,
    `account_needed` (there are several).
    """
    known = change.tx.rows("SELECT * FROM smart_account ORDER BY name")
    if not known:
        raise LicenseError(
            "no_account",
            "There is no smart licensing account yet: make one with `callpool smart account NAME`.",
        )
    if not name and len(known) > 1:
        raise LicenseError(
            "account_needed", f"There are {len(known)} accounts: say which one is meant."
        )
    for row in known:
        if row["name"] == name or not name:
            return row
    raise LicenseError("unknown_account", f"There is no account named {name[:64]!r}.")


def virtual_account(change: Change, account: str, name: str) -> Row:
    """Return a virtual account's row with its account's name as `account`.

    Raises LicenseError as `account_by_name`, `unknown_virtual_account`.
    """
    owner = account_by_name(change, account)
    row = change.tx.row(
        "SELECT v.*, :owner AS account FROM virtual_account v"
        " WHERE v.account_id = :account AND v.name = :name",
        owner=owner["name"],
        account=owner["account_id"],
        name=name or DEFAULT,
    )
    if row is None:
        raise LicenseError(
            "unknown_virtual_account",
            f"Account {owner['name']} has no virtual account named {name[:64]!r}.",
        )
    return row


def add_account(change: Change, name: str) -> None:
    """Add an account with its virtual account `default`.

    Raises LicenseError `bad_name`, `account_exists`.
    """
    check_name(name, "An account's name")
    if change.tx.row("SELECT 1 FROM smart_account WHERE name = :name", name=name):
        raise LicenseError("account_exists", f"There is already an account named {name}.")
    change.tx.run(
        "INSERT INTO smart_account (name, made_at) VALUES (:name, :now)", name=name, now=change.now
    )
    account = account_by_name(change, name)["account_id"]
    event(change, "account_added", f"Account {name} was added.", account=account)
    add_virtual_account(change, name, DEFAULT)


def add_virtual_account(change: Change, account: str, name: str) -> None:
    """Add a virtual account.

    Raises LicenseError `bad_name`, `virtual_account_exists`, or as `account_by_name`.
    """
    check_name(name, "A virtual account's name")
    owner = account_by_name(change, account)
    if change.tx.row(
        "SELECT 1 FROM virtual_account WHERE account_id = :account AND name = :name",
        account=owner["account_id"],
        name=name,
    ):
        raise LicenseError(
            "virtual_account_exists",
            f"Account {owner['name']} already has a virtual account named {name}.",
        )
    change.tx.run(
        "INSERT INTO virtual_account (account_id, name, made_at) VALUES (:account, :name, :now)",
        account=owner["account_id"],
        name=name,
        now=change.now,
    )
    va = virtual_account(change, owner["name"], name)["va_id"]
    event(change, "virtual_account_added", f"Virtual account {name} was added.", va=va)


def make_token(
    change: Change,
    account: str,
    name: str,
    *,
    description: str,
    days: float,
    uses: int,
    export_allowed: bool,
) -> tuple[int, str]:
    """Make a registration token of a virtual account; returns its number and its secret.

    The secret is kept hashed. Raises LicenseError `bad_request`, or as `virtual_account`.
    """
    va = virtual_account(change, account, name)
    if not 1 <= uses <= MOST_TOKEN_USES or not 0 < days <= MOST_TOKEN_DAYS:
        raise LicenseError(
            "bad_request",
            f"A token is for 1 to {MOST_TOKEN_USES} uses within more than 0 and at most "
            f"{MOST_TOKEN_DAYS} days.",
        )
    if len(description) > 200 or not (description.isprintable()):
        raise LicenseError("bad_request", "A description is at most 200 printable characters.")
    secret = new_secret()
    change.tx.run(
        "INSERT INTO smart_token (va_id, hash, description, uses_left, expires, export_allowed,"
        " made_at, made_by) VALUES (:va, :hash, :description, :uses, :expires, :export, :now,"
        " :who)",
        va=va["va_id"],
        hash=hashed(secret),
        description=description,
        uses=uses,
        expires=change.now + days * DAY,
        export=export_allowed,
        now=change.now,
        who=change.who,
    )
    number = int(
        change.tx.value("SELECT token_id FROM smart_token WHERE hash = :h", h=hashed(secret))
    )
    event(
        change,
        "token_made",
        f"Token {number} was made: {uses} use{'s' if uses > 1 else ''} within {days:g} days"
        f"{', export-controlled functionality allowed' if export_allowed else ''}.",
        va=va["va_id"],
    )
    return number, secret


def revoke_token(change: Change, number: int) -> None:
    """Revoke a registration token; raises LicenseError `unknown_token`."""
    token = change.tx.row("SELECT * FROM smart_token WHERE token_id = :number", number=number)
    if token is None:
        raise LicenseError(
            "unknown_token", f"There is no token {number}; `callpool smart tokens` lists them."
        )
    change.tx.run("UPDATE smart_token SET revoked = TRUE WHERE token_id = :n", n=number)
    event(change, "token_revoked", f"Token {number} was revoked.", va=token["va_id"])


def import_order(
    change: Change, order: PurchaseOrder, envelope: str, account: str, name: str
) -> Row:
    """Import a verified order into a virtual account; returns the account's row.

    Raises LicenseError as `virtual_account`, `order_for_another_manager`,
    `order_out_of_date`, `order_already_imported`.
    """
    va = virtual_account(change, account, name)
    check_for(order, change.tx.meta("product_key"), change.now)
    if change.tx.row("SELECT 1 FROM smart_order WHERE order_id = :o", o=order.order_id):
        raise LicenseError(
            "order_already_imported", f"Order {order.order_id} has been imported already."
        )
    change.tx.run(
        "INSERT INTO smart_order (order_id, starts, ends, issued_at, imported_at, envelope)"
        " VALUES (:order, :starts, :ends, :issued, :now, :envelope)",
        order=order.order_id,
        starts=order.starts,
        ends=order.ends,
        issued=order.issued_at,
        now=change.now,
        envelope=envelope,
    )
    for tag, count in order.counts:
        _give(change, order.order_id, tag, va["va_id"], count)
        event(
            change,
            "licenses_added",
            f"{count} {tag} of order {order.order_id} were added.",
            va=va["va_id"],
            tag=tag,
        )
        settle(change, va["va_id"], tag)
    _look(change, va["va_id"])
    plan(change)
    return va


def _give(change: Change, order_id: str, tag: str, va: int, count: int) -> None:
    change.tx.run(
        "INSERT INTO entitlement (order_id, tag, va_id, count) VALUES (:order, :tag, :va, :count)"
        " ON CONFLICT (order_id, tag, va_id) DO UPDATE SET"
        " count = entitlement.count + excluded.count",
        order=order_id,
        tag=tag,
        va=va,
        count=count,
    )


def _look(change: Change, va: int) -> None:
    """Bring the alerts about ends in line with what a virtual account has now."""
    for row in change.tx.rows(
        "SELECT e.*, o.ends FROM entitlement e JOIN smart_order o ON o.order_id = e.order_id"
        " WHERE e.va_id = :va",
        va=va,
    ):
        if row["count"] > 0:
            look_at_end(change, row)
        else:
            about = f"{row['order_id']}/{row['tag']}/{va}"
            clear_alert(change, EXPIRING, about)
            clear_alert(change, EXPIRED, about)


def transfer(
    change: Change, account: str, tag: str, count: int, source: str, target: str, order_id: str
) -> None:
    """Move `count` licenses of an entitlement between two virtual accounts of one account.

    Those of `order_id`, or, where that is empty, those that end last. More may be moved than is
    left over: then the source is out of compliance at once. Raises LicenseError `bad_count`,
    `not_enough_licenses`, `same_virtual_account`, or as `virtual_account`.
    """
    if check_count(count) < 1:
        raise LicenseError("bad_count", "Move at least 1 license.")
    giver = virtual_account(change, account, source)
    taker = virtual_account(change, account, target)
    if giver["va_id"] == taker["va_id"]:
        raise LicenseError("same_virtual_account", "Name two different virtual accounts.")
    lots = change.tx.rows(
        "SELECT e.order_id, e.count FROM entitlement e JOIN smart_order o"
        " ON o.order_id = e.order_id WHERE e.va_id = :va AND e.tag = :tag AND o.ends > :now"
        " AND (:order = '' OR e.order_id = :order) ORDER BY o.ends DESC, e.order_id",
        va=giver["va_id"],
        tag=tag,
        now=change.now,
        order=order_id,
    )
    there = sum(lot["count"] for lot in lots)
    if there < count:
        raise LicenseError(
            "not_enough_licenses",
            f"Virtual account {giver['name']} has {there} {tag} that can be moved, not {count}.",
        )
    left = count
    for lot in lots:
        part = min(left, lot["count"])
        if part:
            change.tx.run(
                "UPDATE entitlement SET count = count - :part"
                " WHERE order_id = :order AND tag = :tag AND va_id = :va",
                part=part,
                order=lot["order_id"],
                tag=tag,
                va=giver["va_id"],
            )
            _give(change, lot["order_id"], tag, taker["va_id"], part)
            left -= part
    message = f"{count} {tag} were moved from {giver['name']} to {taker['name']}."
    for va in (giver["va_id"], taker["va_id"]):
        event(change, "licenses_moved", message, va=va, tag=tag)
        settle(change, va, tag)
        _look(change, va)
    plan(change)


def instance_by_id(change: Change, instance_id: str) -> Row:
    """Return the row of an instance on the list; raises LicenseError `unknown_instance`."""
    row = change.tx.row(
        "SELECT * FROM product_instance WHERE state = :state"
        " AND (instance_id = :instance OR serial = :instance)",
        state=REGISTERED,
        instance=instance_id,
    )
    if row is None:
        raise LicenseError(
            "unknown_instance",
            f"There is no registered instance {instance_id[:64]!r}; `callpool smart instances` "
            "lists them.",
        )
    return row


def remove_instance(change: Change, instance_id: str) -> Row:
    """Take an instance off the list; it has to register again. Returns its row.

    Raises LicenseError `unknown_instance`.
    """
    return _off(change, instance_id, REMOVED, "instance_removed", "was removed")


def revoke_instance(change: Change, instance_id: str) -> Row:
    """Revoke an instance's ID certificate: its key is good for nothing any more.

    Raises LicenseError `unknown_instance`.
    """
    return _off(
        change, instance_id, REVOKED, "certificate_revoked", "has its ID certificate revoked"
    )


def _off(change: Change, instance_id: str, state: str, kind: EventKind, what: str) -> Row:
    found = instance_by_id(change, instance_id)
    number = found["instance_id"]
    event(change, kind, f"{number} ({found['serial']}) {what}.", va=found["va_id"], instance=number)
    leave(change, found, state)
    hint_instance(change, number)
    return found


def dismiss(change: Change, number: int) -> None:
    """Dismiss an alert about what has happened.

    Raises LicenseError `unknown_alert`, `alert_holds` (it ends with its cause).
    """
    row = change.tx.row(
        "SELECT * FROM smart_alert WHERE alert_id = :number AND cleared_at IS NULL", number=number
    )
    if row is None:
        raise LicenseError("unknown_alert", f"There is no open alert {number}.")
    if row["kind"] not in DISMISSABLE:
        raise LicenseError("alert_holds", "This alert holds; it ends when its cause does.")
    clear_alert(change, row["kind"], row["about"])
    event(
        change,
        "alert_dismissed",
        f"Alert {number} was dismissed: {row['message']}",
        va=row["va_id"],
        instance=row["instance_id"],
    )


__all__ = [
    "add_account",
    "add_virtual_account",
    "dismiss",
    "import_order",
    "instance_by_id",
    "make_token",
    "remove_instance",
    "revoke_instance",
    "revoke_token",
    "transfer",
    "virtual_account",
]
