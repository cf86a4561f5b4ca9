"""The audit log: the journal, each line chained to the one before by its hash.

A line's hash covers the hash before it and all that the line says, so a line that is altered,
taken out, put in or moved shows at that line. That lines were cut off at the end shows by the
chain's head, which is kept outside the database (`audit_heads.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from callpool.manager.store.tx import Row, Tx

#: What was asked for was done, or was refused for want of permission.
DONE: Final = "done"
REFUSED: Final = "refused"

#: The line that tells of lines which a signed head knows and the log has no more, and the one by
#: which an administrator accepts it.
LOST: Final = "audit_lines_lost"
ACCEPTED: Final = "audit_loss_accepted"
#: What a cause of smart licensing begins with.
SMART: Final = "smart_"
#: What concerns access alone: in the audit log, not in what is shown as the pool's journal.
ACCESS_CAUSES: Final = (
    "sign_in_failed",
    "sign_in_blocked",
    "signed_in",
    "signed_out",
    "permission_refused",
    "operator_added",
    "operator_changed",
    "operator_removed",
    "password_changed",
    "sessions_ended",
    "api_token_made",
    "api_token_revoked",
    LOST,
    ACCEPTED,
)


def line_hash(before: str, line: Row) -> str:
    """Return the hash of a line of the journal that comes after one with the hash `before`.

    The form never changes: what is in a database is verified by it for ever.
    """
    said = [
        line["entry"],
        float(line["at"]),
        line["who"],
        line["role"],
        line["via"],
        line["source"],
        line["cause"],
        line["detail"],
        line["outcome"],
        line["tenant_id"],
        bool(line["elsewhere"]),
    ]
    raw = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{before}\n{raw}".encode(errors="surrogatepass")).hexdigest()


@dataclass(slots=True)
class Chain:
    """The end of the chain within one transaction: appends lines."""

    tx: Tx
    #: The last line's number and hash; None until it is looked up.
    _last: tuple[int, str] | None = field(default=None)
    #: Lines written in this transaction.
    written: int = 0

    def append(
        self,
        *,
        at: float,
        who: str,
        role: str,
        via: str,
        source: str,
        cause: str,
        detail: Mapping[str, Any],
        outcome: str = DONE,
        asked_within: int | None = None,
        whole: bool = True,
    ) -> int:
        """Write a line; returns its number.

        `asked_within` is the tenant of a device that asked, `whole` whether the one who asked is
        of no tenant; they decide whether the tenant that the line concerns is told who it was.
        """
        number, before = self._last or self._read()
        tenant = _concerns(self.tx, detail)
        line: dict[str, Any] = {
            "entry": number + 1,
            "at": at,
            "who": who,
            "role": role,
            "via": via,
            "source": source,
            "cause": cause,
            "detail": msgspec.json.encode(detail).decode(),
            "outcome": outcome,
            "tenant_id": tenant,
            "elsewhere": not whole and tenant is not None and not self._of(tenant, asked_within),
        }
        line["hash"] = line_hash(before, line)
        self.tx.later(
            "INSERT INTO journal (entry, at, who, role, via, source, cause, detail, outcome,"
            " tenant_id, elsewhere, hash) VALUES (:entry, :at, :who, :role, :via, :source, :cause,"
            " :detail, :outcome, :tenant_id, :elsewhere, :hash)",
            **line,
        )
        self._last = (number + 1, line["hash"])
        self.written += 1
        return number + 1

    def _read(self) -> tuple[int, str]:
        row = self.tx.row("SELECT entry, hash FROM journal ORDER BY entry DESC LIMIT 1")
        return (row["entry"], row["hash"]) if row else (0, "")

    def _of(self, tenant: int, asked_within: int | None) -> bool:
        if asked_within is not None:
            return asked_within == tenant
        return not self.tx.scope.whole and bool(
            self.tx.value(
                "SELECT 1 FROM tenant WHERE tenant_id = :tenant AND MINE(tenant_id)", tenant=tenant
            )
        )


def _concerns(tx: Tx, detail: Mapping[str, Any]) -> int | None:
    """Return the tenant that a line is about, None where it is about the whole pool."""
    for name, statement in _ABOUT.items():
        said = detail.get(name)
        if isinstance(said, str) and said:
            found = tx.value(statement, it=said)
            if found is not None:
                return int(found)
    return None


#: How a detail names whom it is about, the nearest first.
_ABOUT: Final = {
    "device": "SELECT tenant_id FROM device WHERE name = :it"
    " ORDER BY removed_at IS NOT NULL, device_id DESC LIMIT 1",
    "serial": "SELECT d.tenant_id FROM unit u JOIN device d ON d.device_id = u.device_id"
    " WHERE u.serial = :it",
    "tenant": "SELECT tenant_id FROM tenant WHERE name = :it",
}


def tenant_of_unit(tx: Tx, serial: str) -> int | None:
    """Return the tenant of a unit, None where it is not known."""
    found = tx.value(_ABOUT["serial"], it=serial)
    return None if found is None else int(found)
