"""The queue of waiting requests: its rows, and what is kept for them.

Requests are served in order. Within a tenant nothing overtakes one that waits; once licenses are
being taken back for a request it is *moving*, and what becomes free is kept for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from callpool.manager.change import Change
from callpool.manager.store.scope import WHOLE
from callpool.manager.store.tx import Row, Tx

#: Not enough is unused yet: nothing has been taken from anybody.
WAITING: Final = "waiting"
#: What is missing is being taken back, and is kept for the request.
MOVING: Final = "moving"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One device's wish for more than can be had at once."""

    request_id: int
    device_id: int
    device: str
    tenant_id: int
    tenant: str
    #: What the device is to have, per license type.
    wanted: dict[str, int]
    #: When it was asked for, seconds since 1970, and who asked.
    asked_at: float
    who: str
    #: The number of the hint that asked its tenant's units to report.
    hint: int
    #: WAITING or MOVING.
    state: str
    #: What it waits for, per license type that is missing: a sentence for people.
    why: dict[str, str]


def requests(tx: Tx, *, mine: bool = False) -> list[Request]:
    """Return all requests, or those of the asker's tenants; the one that waits longest first."""
    return [read(r) for r in tx.rows((REQUESTS if mine else WHOLE.narrowed(REQUESTS)) + _IN_ORDER)]


def read(r: Row) -> Request:
    """Return a row of `REQUESTS` as a request."""
    return Request(
        request_id=r["request_id"],
        device_id=r["device_id"],
        device=r["device"],
        tenant_id=r["tenant_id"],
        tenant=r["tenant"],
        wanted=msgspec.json.decode(r["wanted"], type=dict[str, int]),
        asked_at=r["asked_at"],
        who=r["who"],
        hint=r["hint"],
        state=r["state"],
        why=msgspec.json.decode(r["why"], type=dict[str, str]),
    )


#: Requests of the asker's tenants, in no order.
REQUESTS: Final = (
    "SELECT r.*, d.name AS device, d.tenant_id, t.name AS tenant FROM request r"
    " JOIN device d ON d.device_id = r.device_id JOIN tenant t ON t.tenant_id = d.tenant_id"
    " WHERE TRUE AND MINE(d.tenant_id)"
)
_IN_ORDER: Final = " ORDER BY r.request_id"


def request_of(tx: Tx, device_id: int) -> Request | None:
    """Return the request of one device, or None."""
    return next((r for r in requests(tx) if r.device_id == device_id), None)


def add(change: Change, device_id: int, wanted: dict[str, int]) -> None:
    """Queue a request behind all others."""
    change.tx.run(
        "INSERT INTO request (device_id, wanted, asked_at, who, hint, state, why)"
        " VALUES (:device, :wanted, :now, :who, :hint, :state, '{}')",
        device=device_id,
        wanted=msgspec.json.encode(wanted).decode(),
        now=change.now,
        who=change.who,
        hint=change.next_hint(),
        state=WAITING,
    )


def note(change: Change, request: Request, *, state: str, why: dict[str, str]) -> None:
    """Write down how a request stands, where that has changed."""
    if (state, why) == (request.state, request.why):
        return
    change.tx.run(
        "UPDATE request SET state = :state, why = :why WHERE request_id = :request",
        state=state,
        why=msgspec.json.encode(why).decode(),
        request=request.request_id,
    )


def keep_granted(change: Change, request: Request) -> None:
    """Write down that what a request was just granted is not for those that wait behind it."""
    for name in request.wanted:
        change.tx.run(
            "UPDATE allocation SET granted_hint = :hint WHERE device_id = :device AND type = :type",
            hint=change.next_hint(),
            device=request.device_id,
            type=name,
        )


def drop(change: Change, device_id: int, cause: str) -> bool:
    """Take a device's request out of the queue; returns whether there was one."""
    request = request_of(change.tx, device_id)
    if request is None:
        return False
    change.tx.run("DELETE FROM request WHERE request_id = :request", request=request.request_id)
    change.journal(cause, device=request.device, counts=request.wanted, asked_at=request.asked_at)
    change.freed = True
    return True


def kept(
    change: Change,
    tenant_id: int,
    name: str,
    *,
    waiting: bool,
    elsewhere: bool = True,
    but: int = 0,
) -> int:
    """Return how many units of a type are kept for requests, from devices of a tenant.

    Those are what moving requests still need, of the same tenant or, where neither tenant has a
    share of its own, of another (not with `elsewhere` off); with `waiting` also what the tenant's
    waiting requests need. The request of device `but` and those behind it keep nothing from it.
    """
    total = 0
    found = requests(change.tx)
    needs = _needs(change, name) if found else {}
    for request in found:
        if request.device_id == but:
            break
        if name not in request.wanted:
            continue
        same = request.tenant_id == tenant_id
        if request.state != MOVING and not (waiting and same):
            continue
        if same or (
            elsewhere
            and not _shared(change, tenant_id, name)
            and not _shared(change, request.tenant_id, name)
        ):
            total += needs.get(request.request_id, 0)
    return total


def moving_elsewhere(change: Change, tenant_id: int, name: str) -> int:
    """Return how many units the moving requests of other tenants without a share still need."""
    needs = _needs(change, name)
    return sum(
        needs.get(request.request_id, 0)
        for request in requests(change.tx)
        if request.state == MOVING
        and name in request.wanted
        and request.tenant_id != tenant_id
        and not _shared(change, request.tenant_id, name)
    )


def _needs(change: Change, name: str) -> dict[int, int]:
    """Return how many units of a type each request still needs, by its number."""
    out: dict[int, int] = {}
    for r in change.tx.rows(
        "SELECT r.request_id, r.wanted, (SELECT coalesce(sum(h.held), 0) FROM holding h"
        " WHERE h.serial = u.serial AND h.type = :type AND h.since = 0) AS held"
        " FROM request r JOIN unit u ON u.device_id = r.device_id AND u.state = 'active'",
        type=name,
    ):
        wanted = msgspec.json.decode(r["wanted"], type=dict[str, int]).get(name, 0)
        out[r["request_id"]] = out.get(r["request_id"], 0) + max(0, wanted - int(r["held"]))
    return out


def _shared(change: Change, tenant_id: int, name: str) -> bool:
    return bool(
        change.tx.value(
            "SELECT EXISTS (SELECT 1 FROM tenant_share WHERE tenant_id = :tenant AND type = :type"
            " AND share IS NOT NULL)",
            tenant=tenant_id,
            type=name,
        )
    )


def units_held(change: Change, device_id: int, name: str) -> list[int]:
    """Return what each active unit of a device holds of a type now."""
    return [
        int(r["held"])
        for r in change.tx.rows(
            "SELECT (SELECT coalesce(sum(h.held), 0) FROM holding h WHERE h.serial = u.serial"
            " AND h.type = :type AND h.since = 0) AS held FROM unit u"
            " WHERE u.device_id = :device AND u.state = 'active' ORDER BY u.role",
            device=device_id,
            type=name,
        )
    ]


def pace(tx: Tx, tenant_id: int) -> float:
    """Return how often a tenant's units report while one of its requests waits.

    A factor on `waiting_poll_seconds`: a tenant of many devices is asked less often. 0 where no
    request of the tenant waits.
    """
    row = tx.row(
        # The units are counted only while something waits: a tenant may have a million of them.
        "SELECT CASE WHEN EXISTS (SELECT 1 FROM request r JOIN device d"
        "  ON d.device_id = r.device_id WHERE d.tenant_id = :tenant) THEN"
        " (SELECT count(*) FROM unit u JOIN device d ON d.device_id = u.device_id"
        "  WHERE d.tenant_id = :tenant AND u.state = 'active') END AS units",
        tenant=tenant_id,
    )
    assert row is not None  # a SELECT without FROM has one row
    return 0.0 if row["units"] is None else max(1.0, row["units"] / 50)
