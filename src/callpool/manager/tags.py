"""Entity tags: what an operator has read of a thing, so that he does not change what he has not.

A tag stands for what operators set (of a device its tenant, mode, way to apply, allocation and
serial numbers), not for what devices report: use that changes every second is no lost update.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager.store.tx import Row, Tx

_TAGS: Final = re.compile(r'\s*(?:W/)?"[^"\x00-\x20]*"\s*')


def tag_of(*parts: object) -> str:
    """Return the tag of a thing, quotes included, as it stands in a header."""
    raw = msgspec.json.encode(parts)
    return f'"{hashlib.sha256(raw).hexdigest()[:20]}"'


def device_tag(row: Row, allocation: Mapping[str, int], serials: Sequence[str]) -> str:
    """Return a device's tag: `row` has its name, tenant, mode and apply."""
    wanted = [allocation.get(kind, 0) for kind in POOL_TYPES]
    return tag_of(row["name"], row["tenant"], row["mode"], row["apply"], wanted, list(serials))


def device_tag_now(tx: Tx, device: Row) -> str:
    """Return the tag of a device, by its row."""
    device_id = device["device_id"]
    tenant = tx.value("SELECT name FROM tenant WHERE tenant_id = :t", t=device["tenant_id"])
    allocation = {
        r["type"]: r["target"]
        for r in tx.rows("SELECT type, target FROM allocation WHERE device_id = :d", d=device_id)
    }
    serials = [
        r["serial"]
        for r in tx.rows(
            "SELECT serial FROM unit WHERE device_id = :d AND state = 'active' ORDER BY role",
            d=device_id,
        )
    ]
    named = {"tenant": tenant, **{key: device[key] for key in ("name", "mode", "apply")}}
    return device_tag(named, allocation, serials)


def tenant_tag(name: str, shares: Mapping[str, int | None]) -> str:
    """Return a tenant's tag."""
    return tag_of(name, [shares.get(kind) for kind in POOL_TYPES])


def tenant_tag_now(tx: Tx, tenant: Row) -> str:
    """Return the tag of a tenant, by its row."""
    shares = {
        r["type"]: r["share"]
        for r in tx.rows(
            "SELECT type, share FROM tenant_share WHERE tenant_id = :t", t=tenant["tenant_id"]
        )
    }
    return tenant_tag(tenant["name"], shares)


def check_match(header: str, tag: str, what: str) -> None:
    """Refuse a change of what was changed since it was read.

    Raises LicenseError `bad_request` (the header is none), CallpoolError `changed_meanwhile`.
    """
    if header.strip() == "*":
        return
    parts = header.split(",")
    if not all(_TAGS.fullmatch(part) for part in parts):
        raise LicenseError("bad_request", "If-Match is a tag in quotes, or *.")
    # A weak tag matches nothing here (RFC 9110, 13.1.1).
    if tag not in (part.strip() for part in parts):
        raise CallpoolError(
            "changed_meanwhile",
            f"{what} was changed since you read it, and nothing was done; read it again, then "
            "decide anew.",
        )
