"""Telling a device once more that there is something to fetch, or an instance to renew."""

from __future__ import annotations

from litestar import post
from litestar.params import FromPath

from callpool.manager.authority import instance_by_id
from callpool.manager.authority_alerts import event
from callpool.manager.authority_ledger import hint_instance
from callpool.manager.change import Change
from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest, do
from callpool.manager.inventory import device_by_name
from callpool.manager.ledger import units_of
from callpool.manager.shapes import pool, smart
from callpool.manager.store.tx import Row


def resend(change: Change, name: str) -> list[str]:
    """Tell a device's units to fetch what is theirs; returns their serial numbers.

    Raises LicenseError as `device_by_name`.
    """
    device = device_by_name(change, name)
    serials = [u["serial"] for u in units_of(change, device["device_id"])]
    for serial in serials:
        change.hint(serial)
    change.journal("resend_asked", device=name)
    return serials


def renew(change: Change, instance: str) -> Row:
    """Ask an instance, by its id or serial number, to renew its authorization at once.

    Raises LicenseError `unknown_instance`.
    """
    found = instance_by_id(change, instance)
    number = found["instance_id"]
    hint_instance(change, number)
    said = f"{number} ({found['serial']}) was asked to renew its authorization."
    event(change, "renewal_asked", said, va=found["va_id"], instance=number)
    return found


@post(
    "/api/v1/devices/{name:str}/resend", status_code=202, opt=api("pool.change", answer=pool.Resent)
)
async def resend_device(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Tell a device once more that there is something to fetch."""
    return await do(
        request,
        lambda change: resend(change, name),
        then=lambda serials: {"name": name, "serials": serials},
        status=202,
    )


@post(
    "/api/v1/smart/instances/{name:str}/renew",
    status_code=202,
    opt=api("smart.change", answer=smart.InstanceChanged),
)
async def renew_instance(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Ask an instance to renew its authorization at once."""
    return await do(
        request,
        lambda change: renew(change, name),
        then=lambda row: {"instance_id": row["instance_id"], "serial": row["serial"]},
        status=202,
    )


HANDLERS = (resend_device, renew_instance)
