"""What a unit's own last word says of whether the pool may give it anything.

A device in smart mode uses nothing of the pool, and one that was reset to factory defaults has
dropped what it had. Neither is given units; what is allocated to it stays the operator's wish,
and is given again once smart licensing is off, or the device is enrolled anew.
"""

from __future__ import annotations

from typing import Any

import msgspec

from callpool.manager.change import Change
from callpool.manager.store.tx import Row
from callpool.wire.messages import FACTORY_RESET, MODE_SMART


def _report(unit: Row) -> dict[str, Any]:
    return msgspec.json.decode(unit["report"]) if unit["report"] else {}


def is_reset(unit: Row) -> bool:
    """Tell whether a unit has said that it is being reset, and has not enrolled since."""
    # An enrolment clears the last contact.
    return unit["last_contact"] is not None and _report(unit).get("reason") == FACTORY_RESET


def in_smart_mode(unit: Row) -> bool:
    """Tell whether a unit last reported smart mode."""
    return _report(unit).get("mode") == MODE_SMART


def takes(unit: Row) -> bool:
    """Tell whether the pool may give a unit anything."""
    return not is_reset(unit) and not in_smart_mode(unit)


def waits_for(unit: Row) -> str:
    """Tell what a unit's share that is being taken back waits for.

    `calls`: the smaller grant is in force, calls or registrations in progress stand above it;
    `restart`: it was received and waits for a restart with save; `contact`: the unit has not
    reported it yet. In any case the units come back when the lease ends.
    """
    report = _report(unit)
    if report.get("applied_version") == unit["grant_version"]:
        return "calls"
    if report.get("remote_version") == unit["grant_version"]:
        return "restart"
    return "contact"


def note_reset(change: Change, unit: Row) -> None:
    """Take a unit's word that it is reset: nothing that was ever sent to it counts any more.

    Only where it reports nothing received and nothing applied (its SIP service has restarted on
    the local key); otherwise its lease must end. Calls in progress on pool units stay held until
    then: nobody will report their end.
    """
    report = _report(unit)
    if not report.get("remote_version") and not report.get("applied_version"):
        change.tx.run(
            "UPDATE unit SET floor_version = grant_version + 1 WHERE serial = :serial",
            serial=unit["serial"],
        )
    change.journal("factory_reset", serial=unit["serial"], in_use=report.get("remote_in_use"))
