"""Composition: the doors of the manager's two roles on one HTTPS port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import uvicorn
from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from callpool.host.console import say
from callpool.licensing.errors import CallpoolError
from callpool.manager import (
    access_api,
    alarms_api,
    audit_api,
    authority_api,
    bulk_api,
    device_api,
    metrics,
    openapi_api,
    operator_api,
    restart_api,
    smart_api,
    usage_api,
)
from callpool.manager.access import Access
from callpool.manager.console import routes as console
from callpool.manager.console.live import Feed
from callpool.manager.core import Manager
from callpool.manager.declare import declared
from callpool.manager.guard import guard
from callpool.manager.headers import secure
from callpool.manager.hints import Hub
from callpool.manager.keeper import alarm_process
from callpool.manager.own_alarms import OwnAlarms
from callpool.manager.settings import split_listen
from callpool.manager.web import in_thread, refuse, refuse_bug, refuse_http

#: Real seconds between two looks at what the clock brings.
_SWEEP: Final = 0.5
#: Real seconds between two looks at what is wrong.
_LOOK: Final = 1.0

_log = logging.getLogger(__name__)


def build(manager: Manager, port: int) -> Litestar:
    """Return the application of a manager that listens on `port`."""

    @contextlib.asynccontextmanager
    async def running(app: Litestar) -> AsyncIterator[None]:
        app.state.hub = Hub(manager)
        app.state.feed = Feed(manager)
        beside = [
            asyncio.create_task(_sweep(manager)),
            asyncio.create_task(_look(manager)),
            asyncio.create_task(alarm_process(manager.layout)),
        ]
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            with contextlib.suppress(CallpoolError):  # the next start signs what is there then
                await in_thread(lambda: manager.heads.keep(manager, at_once=True))
            await app.state.feed.stop()
            await app.state.hub.stop()

    handlers: dict[Any, Any] = {
        CallpoolError: refuse,
        HTTPException: refuse_http,
        Exception: refuse_bug,
    }
    app = Litestar(
        route_handlers=[
            *device_api.HANDLERS,
            *authority_api.HANDLERS,
            *access_api.HANDLERS,
            *audit_api.HANDLERS,
            *openapi_api.HANDLERS,
            *operator_api.HANDLERS,
            *restart_api.HANDLERS,
            *smart_api.HANDLERS,
            *usage_api.HANDLERS,
            *bulk_api.HANDLERS,
            *console.HANDLERS,
            *metrics.HANDLERS,
            *alarms_api.HANDLERS,
        ],
        lifespan=[running],
        state=State(
            {
                "manager": manager,
                "access": Access(manager),
                "assets": console.prepare(manager),
                "metrics": metrics.Metrics(manager),
                "base_urls": manager.settings.base_urls(port),
            }
        ),
        guards=[guard],
        before_send=[secure],
        exception_handlers=handlers,
        openapi_config=None,
        request_max_body_size=None,  # `web.read_body` bounds every body, with our own sentence
    )
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            if handler.http_methods != {"OPTIONS"}:  # those are the framework's own
                declared(handler)
    return app


async def _sweep(manager: Manager) -> None:
    told = ""
    while True:
        try:
            await in_thread(manager.sweep)
            await in_thread(lambda: manager.heads.keep(manager))
            told = ""
        except CallpoolError as error:
            if error.sentence != told:
                _log.warning("%s", error.sentence)
            told = error.sentence
        await asyncio.sleep(_SWEEP)


async def _look(manager: Manager) -> None:
    """Look at what is wrong again and again: the manager's own alarms."""
    own = OwnAlarms(manager)
    while True:
        began = time.monotonic()
        try:
            await in_thread(partial(own.look, began))
        except CallpoolError as error:
            _log.warning("%s", error.sentence)
        # Where there is much to look at, it is looked at less often.
        await asyncio.sleep(max(_LOOK, 10 * (time.monotonic() - began)))


class Server(uvicorn.Server):
    """Ends the open streams of hints and pages when it is told to stop, so that it does stop."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Take a signal."""
        app = self.config.app
        if isinstance(app, Litestar) and "hub" in app.state:
            app.state.hub.close()
            app.state.feed.close()
        super().handle_exit(sig, frame)


def serve(manager: Manager, listen: str) -> None:
    """Serve until a signal ends it.

    Raises CallpoolError `port_in_use` or `cannot_listen`.
    """
    # Uvicorn raises the signal that ended it once more: a manager that was told to stop has
    # done what it was told, and its status is 0.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: sys.exit(0))
    address, port = split_listen(listen)
    listener = _listen(address, port)
    port = listener.getsockname()[1]
    manager.identity.renew_tls(manager.settings.hosts)
    say(f"callpool manager: {manager.settings.url(port)}")
    config = uvicorn.Config(
        build(manager, port),
        ssl_certfile=str(manager.layout.certificate),
        ssl_keyfile=str(manager.layout.certificate_key),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,
        lifespan="on",
    )
    Server(config).run(sockets=[listener])


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by every connection: without it a reply in two writes waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == 98:
            raise CallpoolError(
                "port_in_use", f"Port {port} on {address} is in use by another program."
            ) from error
        raise CallpoolError(
            "cannot_listen", f"Cannot listen on {address} port {port}: {error.strerror}."
        ) from error
    return listener
