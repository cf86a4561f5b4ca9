"""Moving a product instance to another virtual account of its account."""

from __future__ import annotations

from callpool.licensing.errors import LicenseError
from callpool.manager.authority import instance_by_id, virtual_account
from callpool.manager.authority_alerts import event
from callpool.manager.authority_instances import names_of
from callpool.manager.authority_ledger import hint_instance, settle_all
from callpool.manager.change import Change
from callpool.manager.store.tx import Row


def move_instance(change: Change, instance_id: str, target: str) -> Row:
    """Move an instance, with what it has configured, to virtual account `target`.

    Both virtual accounts are weighed anew and whoever is affected is told, the instance in any
    case. Returns the target's row. Raises LicenseError `unknown_instance`,
    `unknown_virtual_account`, `same_virtual_account`.
    """
    instance = instance_by_id(change, instance_id)
    account, source = names_of(change, instance["va_id"])
    taker = virtual_account(change, account, target)
    number = instance["instance_id"]
    if taker["va_id"] == instance["va_id"]:
        raise LicenseError(
            "same_virtual_account", f"{number} is in virtual account {taker['name']} already."
        )
    for statement in (
        "UPDATE product_instance SET va_id = :va WHERE instance_id = :instance",
        "UPDATE smart_alert SET va_id = :va WHERE instance_id = :instance AND cleared_at IS NULL",
    ):
        change.tx.run(statement, va=taker["va_id"], instance=number)
    message = f"{number} ({instance['serial']}) was moved from {source} to {taker['name']}."
    for va in (instance["va_id"], taker["va_id"]):
        event(change, "instance_moved", message, va=va, instance=number)
        settle_all(change, va)
    hint_instance(change, number)
    return taker
