"""The state of a manager that was restored from a backup: nothing grows until it has learned."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from callpool.licensing.errors import LicenseError
from callpool.manager.store.tx import Tx

_STATE: Final = "restored"
#: When the last such state ended, seconds since 1970.
ENDED: Final = "restore_ended"


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """Since when, by both clocks, and what is known."""

    since: float
    #: The counter of elapsed time.
    elapsed: float
    #: It is over at the latest then, both clocks agreeing: a lease length and the margin later.
    until: float
    #: How it was noticed.
    reason: str
    #: Whether the grant journal told all that is in force; otherwise no lease is renewed.
    agreed: bool
    #: Serial numbers that the journal knows to hold something and this database does not know.
    unknown: tuple[str, ...] = ()

    def passed(self, now: float, elapsed: float) -> bool:
        """Tell whether a lease length has passed by both clocks, with the margin."""
        return now >= self.until and elapsed - self.elapsed >= self.until - self.since


def restored(tx: Tx) -> Restored | None:
    """Return the state, None where this manager knows what its devices hold."""
    text = tx.meta(_STATE)
    return msgspec.json.decode(text, type=Restored) if text else None


def keep(tx: Tx, state: Restored | None) -> None:
    """Write the state down."""
    tx.set_meta(_STATE, msgspec.json.encode(state).decode() if state else "")


def waiting_for(tx: Tx, state: Restored) -> list[str]:
    """Return the units that may hold something and have not reported since."""
    rows = tx.rows(
        "SELECT u.serial FROM unit u JOIN device d ON d.device_id = u.device_id WHERE u.leased"
        " AND (u.last_contact IS NULL OR u.last_contact <= :since) AND MINE(d.tenant_id)"
        " ORDER BY u.serial",
        since=state.since,
    )
    return [*(r["serial"] for r in rows), *(state.unknown if tx.scope.whole else ())]


def check_may_grow(tx: Tx) -> None:
    """Refuse what would give more than is held: LicenseError `manager_restored`."""
    if restored(tx) is not None:
        raise LicenseError(
            "manager_restored",
            "This manager was restored from a backup; nothing grows until every device has "
            "reported or a lease length has passed (`callpool pool show` says who is missing).",
        )


def shown(tx: Tx) -> dict[str, Any] | None:
    """Return the state for operators, None where there is nothing to say."""
    state = restored(tx)
    if state is None:
        return None
    return {
        "since": state.since,
        "reason": state.reason,
        "journal_agrees": state.agreed,
        "waiting_for": waiting_for(tx, state),
        "ends_at_latest": state.until,
    }
