"""What is changed of one device, by the functions behind the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote

from litestar import post
from litestar.params import FromPath

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager import hitless_runs, inventory, pools, requests, windows
from callpool.manager.change import Change
from callpool.manager.console.device import device_page
from callpool.manager.console.page import (
    REFUSALS,
    AnyRequest,
    Page,
    act,
    back,
    change,
    form_of,
    fragment,
    look,
    looked,
    return_to,
)
from callpool.manager.console.pool import devices_page
from callpool.manager.console.pool_actions import check_token, uses_and_days, wanted_of
from callpool.manager.console.words import counts
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.hitless_api import ACTIONS
from callpool.manager.resend import resend
from callpool.manager.settings import Settings
from callpool.manager.tags import check_match, device_tag_now
from callpool.wire.tokens import join

T = TypeVar("T")

_DAY: Final = 86_400.0
_OPT: Final[dict[str, Any]] = {
    "status_code": 200,
    "opt": api("pool.change"),
    "exception_handlers": REFUSALS,
}


def _unchanged(made: Change, name: str, typed: Mapping[str, str]) -> Any:
    """Return a device's row; refuses what was changed since it was read (`changed_meanwhile`)."""
    device = inventory.device_by_name(made, name)
    if typed.get("etag"):
        check_match(typed["etag"], device_tag_now(made.tx, device), f"Device {name}")
    return device


async def _do(
    request: AnyRequest,
    name: str,
    typed: Mapping[str, str],
    work: Callable[[Change], T],
    said: Callable[[T], str] | str,
    form: str,
    fields: Mapping[str, str] | None = None,
) -> Page:
    """Carry out a change of a device and lead back to the page that its form was on."""
    to = return_to(typed, f"/devices/{quote(name)}")
    in_pool = to.partition("?")[0] == "/pool"

    async def page(**refused: Any) -> Page:
        if in_pool:
            query = dict(parse_qsl(to.partition("?")[2]))
            return await devices_page(request, query=query | {"edit": name}, **refused)
        return await device_page(request, name, **refused)

    return await act(
        request, work, to=to, said=said, page=page, form=form, typed=typed, fields=fields
    )


def _allocation(name: str, typed: Mapping[str, str]) -> Callable[[Change], tuple[list[str], bool]]:
    wanted = wanted_of(dict(typed))
    if not wanted:
        raise LicenseError("bad_count", "Type how many the device is to have.")

    def work(made: Change) -> tuple[list[str], bool]:
        device = _unchanged(made, name, typed)
        if typed.get("wait") == "yes":
            return requests.allocate_or_wait(made, device, wanted)
        return pools.allocate(made, device, wanted), False

    return work


@post("/devices/{name:str}/allocation", **_OPT)
async def allocate(request: AnyRequest, name: FromPath[str]) -> Page:
    """Set what a device is to have."""
    typed = await form_of(request)

    def said(done: tuple[list[str], bool]) -> str:
        wanted = counts(wanted_of(typed))
        notes = f" {' '.join(done[0])}" if done[0] else ""
        if done[1]:
            return f"{name} waits for {wanted}; it keeps what it has until then.{notes}"
        return f"{name} is allocated {wanted}.{notes}"

    # The field that caused it is the one whose license the sentence names.
    kinds = {"bad_count": _blamed(typed)}
    return await _do(
        request,
        name,
        typed,
        lambda made: _allocation(name, typed)(made),
        said,
        "allocation",
        {"": _blamed(typed), **kinds},
    )


def _blamed(typed: Mapping[str, str]) -> str:
    """Return the first field that cannot be a count, or else the first that was typed in."""
    given = [kind for kind in POOL_TYPES if typed.get(kind)]
    for kind in given:
        if not typed[kind].isdecimal():
            return kind
    changed = [kind for kind in given if typed[kind] != typed.get(f"was_{kind}")]
    return (changed or given or [POOL_TYPES[0]])[0]


@post("/devices/{name:str}/allocation/preview", **_OPT)
async def preview_allocation(request: AnyRequest, name: FromPath[str]) -> Page:
    """Say what an allocation would do, while it is being typed."""
    typed = await form_of(request)
    try:
        said = looked(await look(request, _allocation(name, typed)))
    except CallpoolError as error:
        return fragment("preview.html.j2", said=[], wrong=error)
    return fragment("preview.html.j2", said=said, wrong=None)


@post("/devices/{name:str}/restart", **_OPT)
async def restart(request: AnyRequest, name: FromPath[str]) -> Page:
    """Ask a device to restart its SIP service, at once or in a window."""
    typed = await form_of(request)
    save, hours = typed.get("save") == "yes", typed.get("window", "")

    def work(made: Change) -> None:
        if hours:
            device = inventory.device_by_name(made, name)
            windows.ask(made, device, windows.parse(hours), save=save)
        else:
            windows.restart_now(made, name, save=save)

    when = f" in the window {hours} UTC" if hours else ""
    return await _do(
        request,
        name,
        typed,
        work,
        f"{name} is asked to restart {'with save' if save else 'without save'}{when}. "
        "Calls that are up go on.",
        "restart",
        {"bad_window": "window"},
    )


@post("/devices/{name:str}/restart/cancel", **_OPT)
async def cancel_restart(request: AnyRequest, name: FromPath[str]) -> Page:
    """Cancel a restart that waits for its window."""
    typed = await form_of(request)

    def said(given: list[str]) -> str:
        late = f" {', '.join(given)} had the order already." if given else ""
        return f"{name} is not asked to restart any more.{late}"

    return await _do(
        request,
        name,
        typed,
        lambda made: windows.cancel(made, inventory.device_by_name(made, name)),
        said,
        "restart",
    )


@post("/devices/{name:str}/resend", **_OPT)
async def send_again(request: AnyRequest, name: FromPath[str]) -> Page:
    """Tell a device once more that there is something to fetch."""
    typed = await form_of(request)
    return await _do(
        request,
        name,
        typed,
        lambda made: resend(made, name),
        f"{name} is told again that there is something to fetch; it does so when it hears it.",
        "resend",
    )


@post("/devices/{name:str}/manage", **_OPT)
async def manage(request: AnyRequest, name: FromPath[str]) -> Page:
    """Let the pool manage a device."""
    typed = await form_of(request)
    return await _do(
        request,
        name,
        typed,
        lambda made: inventory.change_device(made, name, tenant=None, apply=None, mode="fixed"),
        f"The pool manages {name}.",
        "manage",
    )


@post("/devices/{name:str}/settings", **_OPT)
async def settings(request: AnyRequest, name: FromPath[str]) -> Page:
    """Change a device's tenant, way to apply, or mode."""
    typed = await form_of(request)

    def work(made: Change) -> None:
        _unchanged(made, name, typed)
        # Only what differs from what was read.
        new = {
            key: typed[key] if typed.get(key, "") != typed.get(f"was_{key}") else None
            for key in ("tenant", "apply", "mode")
        }
        inventory.change_device(
            made, name, tenant=new["tenant"], apply=new["apply"], mode=new["mode"]
        )

    return await _do(
        request,
        name,
        typed,
        work,
        f"The settings of {name} are changed.",
        "settings",
        {"bad_apply": "apply", "bad_mode": "mode", "": "tenant"},
    )


@post("/devices/{name:str}/replace", **_OPT)
async def replace(request: AnyRequest, name: FromPath[str]) -> Page:
    """Let one serial number take the place of another."""
    typed = await form_of(request)
    old, new = typed.get("serial", ""), typed.get("by", "")
    return await _do(
        request,
        name,
        typed,
        lambda made: inventory.replace_serial(
            made, name, old, new, old_is_off=typed.get("old_is_off") == "yes"
        ),
        f"{new} takes the place of {old}; a registration token lets it enrol.",
        "replace",
        {
            "unknown_serial": "serial",
            "old_unit_may_be_on": "old_is_off",
            "bad_serial": "by",
            "duplicate_serial": "by",
            "serial_still_holds": "by",
        },
    )


@post("/devices/{name:str}/unlock", **_OPT)
async def unlock(request: AnyRequest, name: FromPath[str]) -> Page:
    """Void a unit's identity; the token by which one machine goes on is shown this once."""
    manager: Manager = request.app.state.manager
    typed = await form_of(request)
    serial = typed.get("serial", "")

    def work(made: Change) -> tuple[int, str]:
        device = inventory.device_by_name(made, name)
        unit = made.tx.row(
            "SELECT serial FROM unit WHERE serial = :serial AND device_id = :device",
            serial=serial,
            device=device["device_id"],
        )
        if unit is None:
            raise LicenseError("unknown_serial", f"{name} has no serial number {serial[:32]!r}.")
        return inventory.unlock(made, serial)

    try:
        number, secret = await change(request, work)
    except CallpoolError as error:
        return await device_page(
            request, name, refused=error, form="unlock", typed=typed, fields={"": "serial"}
        )
    token = join(secret, manager.identity.anchor.public.kid)
    return await device_page(request, name, made={"id": number, "token": token, "serial": serial})


@post("/devices/{name:str}/token", **_OPT)
async def make_token(request: AnyRequest, name: FromPath[str]) -> Page:
    """Make a registration token for a device's units; it is shown this once."""
    manager: Manager = request.app.state.manager
    typed = await form_of(request)

    def work(made: Change) -> tuple[int, str]:
        device = inventory.device_by_name(made, name)
        tenant = made.tx.value(
            "SELECT name FROM tenant WHERE tenant_id = :t", t=device["tenant_id"]
        )
        return inventory.make_token(made, uses=uses, seconds=days * _DAY, tenant=str(tenant))

    try:
        uses, days = uses_and_days(typed)
        check_token(uses, days)
        number, secret = await change(request, work)
    except CallpoolError as error:
        fields = {"bad_count": "uses", "": "days"}
        return await device_page(
            request, name, refused=error, form="token", typed=typed, fields=fields
        )
    token = join(secret, manager.identity.anchor.public.kid)
    return await device_page(request, name, made={"id": number, "token": token, "serial": ""})


@post("/devices/{name:str}/remove", **_OPT)
async def remove(request: AnyRequest, name: FromPath[str]) -> Page:
    """Take a device out of the pool; its name is typed to say that it is meant."""
    typed = await form_of(request)
    fields = {"not_confirmed": "confirm"}
    if typed.get("confirm") != name:
        error = LicenseError("not_confirmed", f"Type {name} to remove it; nothing was done.")
        return await device_page(
            request, name, refused=error, form="remove", typed=typed, fields=fields
        )
    try:
        await change(request, lambda made: inventory.remove_device(made, name))
    except CallpoolError as error:
        return await device_page(
            request, name, refused=error, form="remove", typed=typed, fields={"": "confirm"}
        )
    return back(
        "/pool", f"{name} is removed. What it may still use stays held until it confirms, or its "
        "lease ends.",
    )  # fmt: skip


@post("/devices/{name:str}/hitless", **_OPT)
async def begin_hitless(request: AnyRequest, name: FromPath[str]) -> Page:
    """Install on an HA pair what it has been given, without touching a call."""
    typed = await form_of(request)
    settings = _settings(request)

    def work(made: Change) -> None:
        hitless_runs.begin(made, inventory.device_by_name(made, name), settings)

    return await _do(request, name, typed, work, "The hitless installation has begun.", "hitless")


@post("/devices/{name:str}/hitless/{action:str}", **_OPT)
async def act_on_hitless(request: AnyRequest, name: FromPath[str], action: FromPath[str]) -> Page:
    """Resume, stop, roll back or close a hitless installation."""
    typed = await form_of(request)
    settings = _settings(request)

    def work(made: Change) -> None:
        known = action if action in ACTIONS.values() else ""
        hitless_runs.act(made, inventory.device_by_name(made, name), known, settings)

    return await _do(request, name, typed, work, "That is done.", "hitless")


def _settings(request: AnyRequest) -> Settings:
    manager: Manager = request.app.state.manager
    return manager.settings


HANDLERS = (
    begin_hitless,
    act_on_hitless,
    allocate,
    preview_allocation,
    restart,
    cancel_restart,
    send_again,
    manage,
    settings,
    replace,
    unlock,
    make_token,
    remove,
)
