"""Tenants, devices, serial numbers and registration tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from callpool.licensing.capacity import LICENSE_TYPES, POOL_TYPES, check_count, check_type
from callpool.licensing.errors import LicenseError
from callpool.licensing.key import check_serial
from callpool.licensing.lease import APPLY_LIVE, APPLY_RESTART
from callpool.manager.change import Change
from callpool.manager.hitless_store import end_for
from callpool.manager.ledger import (
    ACTIVE,
    FIXED,
    REMOVED,
    REPLACED,
    REVOKED,
    device_by_id,
    regrant,
    settle_unit,
    unit_by_serial,
    units_of,
)
from callpool.manager.pools import purchased
from callpool.manager.queue import drop, kept, moving_elsewhere
from callpool.manager.store.tx import Row
from callpool.wire.tokens import hashed, new_secret

#: The tenant of devices that are added without one; its share is not limited.
DEFAULT_TENANT: Final = "default"
#: Seconds for which a token that unlocks one serial number is good.
UNLOCK_SECONDS: Final = 86_400.0


def check_name(name: object, what: str) -> str:
    """Return `name` if it can name a device or tenant; raises LicenseError `bad_name`."""
    if (
        not isinstance(name, str)
        or not 1 <= len(name) <= 64
        or not name.isascii()
        or not all(c.isalnum() or c in "-_." for c in name)
    ):
        raise LicenseError(
            "bad_name", f"{what} is 1 to 64 letters, digits, dashes, dots and underscores."
        )
    return name


def tenant_by_name(change: Change, name: str) -> Row:
    """Return a tenant's row; raises LicenseError `unknown_tenant` (the same for one not mine)."""
    row = change.tx.row("SELECT * FROM tenant WHERE name = :name AND MINE(tenant_id)", name=name)
    if row is None:
        raise LicenseError("unknown_tenant", f"There is no tenant named {name[:64]!r}.")
    return row


def add_tenant(change: Change, name: str, shares: Mapping[str, object]) -> None:
    """Add a tenant with its shares; raises LicenseError `tenant_exists`, or as `set_shares`."""
    check_name(name, "A tenant's name")
    if change.tx.row("SELECT 1 FROM tenant WHERE name = :name", name=name):
        raise LicenseError("tenant_exists", f"There is already a tenant named {name}.")
    change.tx.run("INSERT INTO tenant (name) VALUES (:name)", name=name)
    tenant_id = tenant_by_name(change, name)["tenant_id"]
    for kind in POOL_TYPES:
        change.tx.run(
            "INSERT INTO tenant_share (tenant_id, type) VALUES (:tenant, :type)",
            tenant=tenant_id,
            type=kind,
        )
    change.journal("tenant_added", tenant=name)
    set_shares(change, name, shares)


def set_shares(change: Change, name: str, shares: Mapping[str, object]) -> None:
    """Set a tenant's shares (None: bounded by the pool alone).

    Raises LicenseError `unknown_tenant`, `share_below_held` (its devices hold more),
    `pool_exceeded` (all shares together exceed what is purchased and in date).
    """
    tenant = tenant_by_name(change, name)
    for kind, share in shares.items():
        label = LICENSE_TYPES[check_type(kind, pooled=True)].label
        count = None if share is None else check_count(share, kind)
        held, tenant_share, others, free_others = _shares(change, tenant["tenant_id"], kind)
        if count is not None and count < held:
            raise LicenseError(
                "share_below_held",
                f"The tenant's devices hold {held} {label}; take them back before its share "
                f"becomes {count}.",
            )
        most = max(0, purchased(change, kind) - others - free_others)
        # What moves to a device elsewhere is not free to be set aside.
        has = held if tenant_share is None else tenant_share
        moving = moving_elsewhere(change, tenant["tenant_id"], kind)
        most = min(most, has + max(0, most - has - moving))
        if count is not None and count > most:
            raise LicenseError(
                "pool_exceeded",
                f"{count} {label} cannot be set aside: the pool can give this tenant at most "
                f"{most}.",
            )
        change.tx.run(
            "UPDATE tenant_share SET share = :share WHERE tenant_id = :tenant AND type = :type",
            share=count,
            tenant=tenant["tenant_id"],
            type=kind,
        )
    if shares:
        change.journal("tenant_shares_set", tenant=name, shares=dict(shares))
        change.freed = True


def _shares(change: Change, tenant_id: int, kind: str) -> tuple[int, int | None, int, int]:
    """Return what a tenant holds, its share, what others have set aside, and hold without one."""
    row = change.tx.row(
        "SELECT (SELECT held FROM tenant_share WHERE tenant_id = :tenant AND type = :type) AS held,"
        " (SELECT share FROM tenant_share WHERE tenant_id = :tenant AND type = :type) AS share,"
        " (SELECT coalesce(sum(share), 0) FROM tenant_share WHERE tenant_id <> :tenant"
        "   AND type = :type AND share IS NOT NULL) AS aside,"
        " (SELECT coalesce(sum(held), 0) FROM tenant_share WHERE tenant_id <> :tenant"
        "   AND type = :type AND share IS NULL) AS loose",
        tenant=tenant_id,
        type=kind,
    )
    assert row is not None  # a SELECT without FROM has one row
    return row["held"], row["share"], row["aside"], row["loose"]


def device_by_name(change: Change, name: str, within: str = "") -> Row:
    """Return the row of a device in the inventory, `within` a tenant's own if one is named.

    Raises LicenseError `unknown_device` (the same for another tenant's), `unknown_tenant`, or
    `half_of_pair` where `name` is a serial number of an HA pair, whose units are never treated
    apart.
    """
    row = change.tx.row(
        "SELECT * FROM device WHERE name = :name AND removed_at IS NULL AND MINE(tenant_id)",
        name=name,
    )
    if within and (row is None or row["tenant_id"] != tenant_by_name(change, within)["tenant_id"]):
        raise LicenseError("unknown_device", f"Tenant {within} has no device named {name[:64]!r}.")
    if row is not None:
        return row
    unit = _my_unit(change, name)
    if unit is None or unit["state"] != ACTIVE:
        raise LicenseError("unknown_device", f"There is no device named {name[:64]!r}.")
    device = device_by_id(change, unit["device_id"])
    if len(units_of(change, unit["device_id"])) > 1:
        raise LicenseError(
            "half_of_pair",
            f"{name} is one unit of the HA pair {device['name']}, which is allocated as one: both "
            f"units get the same. Name {device['name']}.",
        )
    raise LicenseError(
        "unknown_device",
        f"There is no device named {name}; it is the serial number of {device['name']}.",
    )


def _my_unit(change: Change, serial: str) -> Row | None:
    """Return a unit of a device that the asker sees."""
    return change.tx.row(
        "SELECT u.* FROM unit u JOIN device d ON d.device_id = u.device_id"
        " WHERE u.serial = :serial AND MINE(d.tenant_id)",
        serial=serial,
    )


def check_apply(apply: str) -> str:
    """Return an apply mode; raises LicenseError `bad_apply`."""
    if apply not in (APPLY_RESTART, APPLY_LIVE):
        raise LicenseError("bad_apply", "A device applies by 'restart' or 'live'.")
    return apply


def add_device(change: Change, name: str, serials: Sequence[str], tenant: str, apply: str) -> Row:
    """Add a device with its serial number, or the two of an HA pair.

    Raises LicenseError `bad_name`, `bad_serial`, `bad_apply`, `unknown_tenant`,
    `device_exists`, `duplicate_serial`.
    """
    check_name(name, "A device's name")
    if not 1 <= len(serials) <= 2:
        raise LicenseError("bad_serial", "A device has one serial number, an HA pair two.")
    if change.tx.row("SELECT 1 FROM device WHERE name = :name AND removed_at IS NULL", name=name):
        raise LicenseError("device_exists", f"There is already a device named {name}.")
    owner = tenant_by_name(change, tenant)
    change.tx.run(
        "INSERT INTO device (name, tenant_id, apply, mode, added_at)"
        " VALUES (:name, :tenant, :apply, :mode, :now)",
        name=name,
        tenant=owner["tenant_id"],
        apply=check_apply(apply),
        mode=FIXED,
        now=change.now,
    )
    device = device_by_name(change, name)
    for role, serial in enumerate(serials):
        add_unit(change, device, serial, role)
    change.journal("device_added", device=name, serials=list(serials), tenant=tenant, apply=apply)
    return device


def add_unit(change: Change, device: Row, serial: str, role: int) -> None:
    """Let a serial number be a device's first (`role` 0) or second unit.

    Raises LicenseError `bad_serial`, `duplicate_serial`, `serial_still_holds`.
    """
    found = unit_by_serial(change, check_serial(serial))
    if found is None:
        change.tx.run(
            "INSERT INTO unit (serial, device_id, role) VALUES (:serial, :device, :role)",
            serial=serial,
            device=device["device_id"],
            role=role,
        )
        return
    if found["state"] == ACTIVE:
        raise LicenseError("duplicate_serial", f"Serial number {serial} is listed already.")
    if change.tx.row("SELECT 1 FROM holding WHERE serial = :serial", serial=serial):
        raise LicenseError(
            "serial_still_holds",
            f"Serial number {serial} was removed but may still use its licenses; it can be "
            "added again once it has confirmed, or its lease has ended.",
        )
    # Known from before: its key, contact value and versions go on.
    change.tx.run(
        "UPDATE unit SET device_id = :device, role = :role, state = 'active'"
        " WHERE serial = :serial",
        serial=serial,
        device=device["device_id"],
        role=role,
    )
    change.hint(serial)


def change_device(
    change: Change, name: str, *, tenant: str | None, apply: str | None, mode: str | None
) -> None:
    """Change a device's tenant, way to apply, or mode ('fixed' or 'none').

    Raises LicenseError `unknown_device`, `unknown_tenant`, `tenant_exceeded` (the other
    tenant's share has no room for what the device holds), `requests_waiting` (its requests have
    asked for that room before), `bad_apply`, `bad_mode`.
    """
    device = device_by_name(change, name)
    device_id = device["device_id"]
    if tenant is not None or apply is not None or mode is not None:
        end_for(change, device)
    if tenant is not None:
        _move(change, device, tenant)
    if apply is not None and check_apply(apply) != device["apply"]:
        change.tx.run(
            "UPDATE device SET apply = :apply WHERE device_id = :device",
            apply=apply,
            device=device_id,
        )
        for unit in units_of(change, device_id):
            change.tx.run(
                "UPDATE unit SET grant_version = grant_version + 1 WHERE serial = :serial",
                serial=unit["serial"],
            )
            change.hint(unit["serial"])
    if mode is not None:
        if mode not in (FIXED, "none"):
            raise LicenseError("bad_mode", "A device's mode is 'fixed' or 'none'.")
        change.tx.run(
            "UPDATE device SET mode = :mode WHERE device_id = :device", mode=mode, device=device_id
        )
        _reclaim(change, device_id)
        for unit in units_of(change, device_id):
            change.hint(unit["serial"])
        change.freed = True
    change.journal("device_changed", device=name, tenant=tenant, apply=apply, mode=mode)


def _move(change: Change, device: Row, tenant: str) -> None:
    owner = tenant_by_name(change, tenant)["tenant_id"]
    if owner == device["tenant_id"]:
        return
    # The tenant that it leaves is told so, and no more.
    change.journal("device_left", device=device["name"])
    # It was asked of the other tenant.
    drop(change, device["device_id"], "request_cancelled")
    for kind in POOL_TYPES:
        held = change.tx.value(
            "SELECT coalesce(sum(h.held), 0) FROM holding h JOIN unit u ON u.serial = h.serial"
            " WHERE u.device_id = :device AND h.type = :type AND h.since = 0",
            device=device["device_id"],
            type=kind,
        )
        left = change.tx.value(
            "SELECT share - held FROM tenant_share WHERE tenant_id = :tenant AND type = :type",
            tenant=owner,
            type=kind,
        )
        if left is not None and held > left:
            raise LicenseError(
                "tenant_exceeded",
                f"The device holds {held} {LICENSE_TYPES[kind].label}; tenant {tenant} has "
                f"room for {left}.",
            )
        waited = kept(change, owner, kind, waiting=True, elsewhere=False)
        if left is not None and held > max(0, left - waited):
            raise LicenseError(
                "requests_waiting",
                f"The device holds {held} {LICENSE_TYPES[kind].label}; requests of tenant {tenant} "
                f"have waited longer and leave room for {max(0, left - waited)}.",
            )
    change.tx.run(
        "UPDATE holding SET tenant_id = :tenant WHERE serial IN"
        " (SELECT serial FROM unit WHERE device_id = :device)",
        tenant=owner,
        device=device["device_id"],
    )
    change.tx.run(
        "UPDATE device SET tenant_id = :tenant WHERE device_id = :device",
        tenant=owner,
        device=device["device_id"],
    )
    for unit in units_of(change, device["device_id"]):
        # A request that waits there is told what it does not use.
        change.hint(unit["serial"])


def _reclaim(change: Change, device_id: int) -> None:
    device = change.tx.row("SELECT * FROM device WHERE device_id = :device", device=device_id)
    assert device is not None  # the caller has just read it
    regrant(change, device)
    for unit in change.tx.rows("SELECT * FROM unit WHERE device_id = :device", device=device_id):
        settle_unit(change, unit)


def remove_device(change: Change, name: str) -> None:
    """Take a device out of the inventory.

    What its units may still use stays held until they confirm that they dropped it, or their
    leases end (they are not renewed). Raises LicenseError `unknown_device`, `hitless_running`.
    """
    device = device_by_name(change, name)
    device_id = device["device_id"]
    end_for(change, device)
    change.tx.run(
        "UPDATE device SET removed_at = :now WHERE device_id = :device",
        now=change.now,
        device=device_id,
    )
    change.tx.run("DELETE FROM allocation WHERE device_id = :device", device=device_id)
    for unit in units_of(change, device_id):
        change.hint(unit["serial"])
    change.tx.run(
        "UPDATE unit SET state = :state WHERE device_id = :device AND state = 'active'",
        state=REMOVED,
        device=device_id,
    )
    _reclaim(change, device_id)
    change.journal("device_removed", device=name)


def replace_serial(change: Change, name: str, serial: str, by: str, *, old_is_off: bool) -> None:
    """Let serial number `by` take the place of `serial` in a device.

    With the operator's statement that the old unit is off, what it held is free at once, and
    the new one has it; without it the old unit's lease must have ended. Raises LicenseError
    `unknown_device`, `unknown_serial`, `duplicate_serial`, `old_unit_may_be_on`.
    """
    device = device_by_name(change, name)
    end_for(change, device)
    old = unit_by_serial(change, serial)
    if old is None or old["device_id"] != device["device_id"] or old["state"] != ACTIVE:
        raise LicenseError("unknown_serial", f"{name} has no serial number {serial[:32]!r}.")
    if old["leased"] and not old_is_off:
        raise LicenseError(
            "old_unit_may_be_on",
            f"{serial} may still use its licenses: state that it is off, or wait for its lease "
            "to end.",
        )
    change.tx.run(
        "UPDATE unit SET state = :state, leased = FALSE, floor_version = grant_version + 1"
        " WHERE serial = :serial",
        state=REPLACED,
        serial=serial,
    )
    change.tx.run("DELETE FROM holding WHERE serial = :serial", serial=serial)
    add_unit(change, device, by, old["role"])
    regrant(change, device)
    change.freed = True
    change.journal(
        "serial_replaced", device=name, serial=serial, by=by, stated_old_is_off=old_is_off
    )


def make_token(
    change: Change, *, uses: int, seconds: float, serial: str | None = None, tenant: str = ""
) -> tuple[int, str]:
    """Make a registration token; returns its number and its secret, which is kept hashed.

    `uses` enrolments within `seconds`; with `serial` it enrols that serial number only, with
    `tenant` those of this tenant only. Raises LicenseError `unknown_tenant`, or `tenant_needed`
    where a tenant's operator has several and names none.
    """
    secret = new_secret()
    owner = _owner(change, serial, tenant)
    change.tx.run(
        "INSERT INTO registration_token (hash, uses_left, expires, serial, tenant_id, made_at)"
        " VALUES (:hash, :uses, :expires, :serial, :tenant, :now)",
        hash=hashed(secret),
        tenant=owner["tenant_id"] if owner else None,
        uses=uses,
        expires=change.now + seconds,
        serial=serial,
        now=change.now,
    )
    number = change.tx.value(
        "SELECT token_id FROM registration_token WHERE hash = :hash", hash=hashed(secret)
    )
    change.journal(
        "token_made",
        token=number,
        uses=uses,
        seconds=seconds,
        serial=serial,
        tenant=owner["name"] if owner else None,
    )
    return int(number), secret


def _owner(change: Change, serial: str | None, tenant: str) -> Row | None:
    """Return the tenant whose serial numbers alone a token enrols, None for all."""
    if tenant:
        return tenant_by_name(change, tenant)
    if change.tx.scope.whole:
        return None
    if serial is not None:
        return change.tx.row(
            "SELECT t.* FROM unit u JOIN device d ON d.device_id = u.device_id"
            " JOIN tenant t ON t.tenant_id = d.tenant_id WHERE u.serial = :serial"
            " AND MINE(t.tenant_id)",
            serial=serial,
        )
    own = change.tx.rows("SELECT * FROM tenant WHERE TRUE AND MINE(tenant_id)")
    if len(own) != 1:
        raise LicenseError("tenant_needed", "Name the tenant whose devices the token enrols.")
    return own[0]


def revoke_token(change: Change, number: int) -> None:
    """Revoke a registration token; raises LicenseError `unknown_token`."""
    if not change.tx.run(
        "UPDATE registration_token SET revoked = TRUE WHERE token_id = :number AND MINE(tenant_id)",
        number=number,
    ):
        raise LicenseError("unknown_token", f"There is no registration token {number}.")
    tenant = change.tx.value(
        "SELECT t.name FROM registration_token r JOIN tenant t ON t.tenant_id = r.tenant_id"
        " WHERE r.token_id = :number",
        number=number,
    )
    change.journal("token_revoked", token=number, tenant=tenant)


def revoke(change: Change, serial: str, reason: str) -> None:
    """Revoke a unit's identity: a device that is lost or stolen gets no lease any more.

    Its share stays held until its lease has ended (law 1); `unlock` gives the serial number to a
    machine again. Raises LicenseError `unknown_serial`.
    """
    unit = _my_unit(change, serial)
    if unit is None or unit["state"] != ACTIVE:
        raise LicenseError("unknown_serial", f"Serial number {serial[:32]!r} is not listed.")
    change.tx.run(
        "UPDATE unit SET locked = :why WHERE serial = :serial", why=REVOKED, serial=serial
    )
    change.journal("identity_revoked", serial=serial, reason=reason)


def unlock(change: Change, serial: str) -> tuple[int, str]:
    """Release a unit's identity so that one machine, and one only, can go on as it.

    The key, certificate and contact values that the serial number had are void from now on:
    whoever holds them, original or clone, is refused. The returned token enrols this serial
    number once, within a day: the operator carries it to the machine that is to go on.
    Raises LicenseError `unknown_serial`.
    """
    unit = _my_unit(change, serial)
    if unit is None or unit["state"] != ACTIVE:
        raise LicenseError("unknown_serial", f"Serial number {serial[:32]!r} is not listed.")
    change.tx.run(
        "UPDATE unit SET locked = NULL, released = TRUE, public_key = NULL, kid = NULL,"
        " certificate = NULL, enrol_token = NULL, contact_current = NULL,"
        " contact_previous = NULL, last_request = NULL, last_reply = NULL"
        " WHERE serial = :serial",
        serial=serial,
    )
    change.journal("unit_unlocked", serial=serial, was=unit["locked"])
    return make_token(change, uses=1, seconds=UNLOCK_SECONDS, serial=serial)
