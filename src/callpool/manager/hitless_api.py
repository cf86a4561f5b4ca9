"""The operators' door to HA pairs: formed, dissolved, and hitless installations."""

from __future__ import annotations

from typing import Any

from litestar import delete, get, post
from litestar.params import FromPath

from callpool.licensing.errors import LicenseError
from callpool.manager import hitless_runs, inventory, pairs
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest, Body, body_of, do, show
from callpool.manager.hitless_store import Found, last_run
from callpool.manager.pair_views import run_shown
from callpool.manager.shapes import hitless as shapes
from callpool.manager.store.tx import Tx
from callpool.manager.tags import device_tag_now

#: What can be done with a run, as a path names it.
ACTIONS = {"resume": "resume", "stop": "stop", "roll-back": "roll_back", "close": "close"}


class PairBody(Body, frozen=True, kw_only=True):
    """The second serial number of a pair."""

    serial: str


@post(
    "/api/v1/devices/{name:str}/pair",
    status_code=200,
    opt=api("pool.change", answer=shapes.PairChanged, body=PairBody, previews=True, matches=True),
)
async def form_pair(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Make a device an HA pair by its second serial number; it costs double from then on."""
    body = await body_of(request, PairBody)
    return await do(
        request,
        lambda change: pairs.form(change, name, body.serial),
        then=lambda _: {"name": name, "serial": body.serial},
        previews=True,
        tag=lambda change: (
            f"Device {name}",
            device_tag_now(change.tx, inventory.device_by_name(change, name)),
        ),
    )


@delete(
    "/api/v1/devices/{name:str}/pair/{serial:str}",
    status_code=200,
    opt=api("pool.change", answer=shapes.PairChanged, previews=True, matches=True),
)
async def dissolve_pair(request: AnyRequest, name: FromPath[str], serial: FromPath[str]) -> Answer:
    """Let one unit leave an HA pair; what it may still use stays held until it has dropped it."""
    return await do(
        request,
        lambda change: pairs.dissolve(change, name, serial),
        then=lambda _: {"name": name, "serial": serial},
        previews=True,
        tag=lambda change: (
            f"Device {name}",
            device_tag_now(change.tx, inventory.device_by_name(change, name)),
        ),
    )


def run_of(tx: Tx, name: str) -> dict[str, Any]:
    """Return a device's last run; raises LicenseError `unknown_device`."""
    device_id = tx.value(
        "SELECT device_id FROM device WHERE name = :name AND removed_at IS NULL"
        " AND MINE(tenant_id)",
        name=name,
    )
    if device_id is None:
        raise LicenseError("unknown_device", f"There is no device named {name[:64]!r}.")
    found = last_run(tx, device_id)
    return {"name": name, "run": None if found is None else run_shown(found)}


def _shown(name: str, found: Found) -> dict[str, Any]:
    return {"name": name, "run": run_shown(found)}


@get("/api/v1/devices/{name:str}/hitless", opt=api("pool.read", answer=shapes.DeviceRun))
async def show_run(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Show a device's last hitless installation, step by step."""
    return await show(request, lambda tx, now: run_of(tx, name))


@post(
    "/api/v1/devices/{name:str}/hitless",
    status_code=202,
    opt=api("pool.change", answer=shapes.DeviceRun),
)
async def begin_run(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Install on an HA pair what it has been given, without touching a call."""
    manager: Manager = request.app.state.manager
    return await do(
        request,
        lambda change: hitless_runs.begin(
            change, inventory.device_by_name(change, name), manager.settings
        ),
        then=lambda found: _shown(name, found),
        status=202,
    )


@post(
    "/api/v1/devices/{name:str}/hitless/{action:str}",
    status_code=200,
    opt=api("pool.change", answer=shapes.DeviceRun),
)
async def act_on_run(request: AnyRequest, name: FromPath[str], action: FromPath[str]) -> Answer:
    """Resume, stop, roll back (`roll-back`) or close a hitless installation."""
    manager: Manager = request.app.state.manager
    return await do(
        request,
        lambda change: hitless_runs.act(
            change,
            inventory.device_by_name(change, name),
            ACTIONS.get(action, ""),
            manager.settings,
        ),
        then=lambda found: _shown(name, found),
    )


HANDLERS = (form_pair, dissolve_pair, show_run, begin_run, act_on_run)
