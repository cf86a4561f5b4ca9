"""What is read of the audit log: lines by filter, a page at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from callpool.manager.store.database import Row, Tx


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lines are asked for; an empty text stands for all. Times: seconds since 1970."""

    who: str = ""
    role: str = ""
    cause: str = ""
    outcome: str = ""
    source: str = ""
    tenant: str = ""
    #: From this time on, and up to this one, which is not included.
    since: float = 0.0
    until: float = 1e12
    #: Only lines before this one.
    before: int = 2**62
    limit: int = 100


def lines(tx: Tx, asked: Filters) -> list[dict[str, Any]]:
    """Return lines of the audit log, the newest first."""
    return [
        shown(r)
        for r in tx.rows(
            "SELECT j.*, t.name AS tenant FROM journal j"
            " LEFT JOIN tenant t ON t.tenant_id = j.tenant_id WHERE j.entry < :before"
            " AND (:who = '' OR j.who = :who) AND (:role = '' OR j.role = :role)"
            " AND (:cause = '' OR j.cause = :cause) AND (:outcome = '' OR j.outcome = :outcome)"
            " AND (:source = '' OR j.source = :source) AND (:tenant = '' OR t.name = :tenant)"
            " AND j.at >= :since AND j.at < :until ORDER BY j.entry DESC LIMIT :limit",
            **msgspec.structs.asdict(asked),
        )
    ]


def shown(r: Row) -> dict[str, Any]:
    """Return one line for people and programs."""
    return {
        "entry": r["entry"],
        "at": r["at"],
        "who": r["who"],
        "role": r["role"],
        "via": r["via"],
        "source": r["source"],
        "cause": r["cause"],
        "outcome": r["outcome"],
        "tenant": r["tenant"],
        "detail": msgspec.json.decode(r["detail"]),
        "hash": r["hash"],
    }
