"""The operators' door to restarts: now, in a window, or no more."""

from __future__ import annotations

from litestar import delete, post
from litestar.params import FromPath

from callpool.manager import windows
from callpool.manager.change import Change
from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest, Body, body_of, do
from callpool.manager.inventory import device_by_name
from callpool.manager.shapes import pool


class RestartBody(Body, frozen=True, kw_only=True):
    """Whether the restart applies what was received, and the window that it waits for."""

    save: bool = False
    #: `HH:MM-HH:MM`, UTC; empty for at once.
    window: str = ""


@post(
    "/api/v1/devices/{name:str}/restart",
    status_code=202,
    opt=api("pool.change", answer=pool.Restarting, body=RestartBody),
)
async def restart_device(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Ask a device to restart its SIP service, at once or in its window."""
    body = await body_of(request, RestartBody)
    window = windows.parse(body.window) if body.window else None

    def work(change: Change) -> None:
        if window is None:
            windows.restart_now(change, name, save=body.save)
        else:
            windows.ask(change, device_by_name(change, name), window, save=body.save)

    return await do(
        request,
        work,
        then=lambda _: {"name": name, "save": body.save, "window": body.window or None},
        status=202,
    )


@delete(
    "/api/v1/devices/{name:str}/restart",
    status_code=200,
    opt=api("pool.change", answer=pool.RestartCancelled),
)
async def cancel_restart(request: AnyRequest, name: FromPath[str]) -> Answer:
    """Cancel a restart that waits for its window."""
    return await do(
        request,
        lambda change: windows.cancel(change, device_by_name(change, name)),
        then=lambda given: {"name": name, "given_already": given},
    )


HANDLERS = (restart_device, cancel_restart)
