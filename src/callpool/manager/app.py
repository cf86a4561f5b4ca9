"""Composition: the doors of the manager's two roles on one HTTPS port."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import logging
import resource
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

from callpool.host import structs
from callpool.host.console import say
from callpool.licensing.errors import CallpoolError
from callpool.manager import (
    access_api,
    alarms_api,
    audit_api,
    authority_api,
    bulk_api,
    device_api,
    hitless_api,
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
from callpool.manager.moves import running
from callpool.manager.overload import ContactRoom
from callpool.manager.own_alarms import OwnAlarms
from callpool.manager.settings import split_listen
from callpool.manager.web import in_thread, refuse, refuse_bug, refuse_http

#: Real seconds between two looks at what the clock brings.
_SWEEP: Final = 0.5
#: Real seconds between two looks at what is wrong.
_LOOK: Final = 1.0
#: Bytes that asyncio sets aside for each TLS connection. Its own 256 KiB are 5 GB for the streams
#: that one process may hold open; a record has 16 KiB, and so has a long contact.
_TLS_BUFFER: Final = 32 * 1024

#: Seconds after which a peer that vanished without a word (power cut, cable, NAT) is given up.
GONE_AFTER: Final = 120

_log = logging.getLogger(__name__)


def build(manager: Manager, port: int) -> Litestar:
    """Return the application of a manager that listens on `port`."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        app.state.hub = Hub(manager)
        app.state.feed = Feed(manager)
        app.state.desk = device_api.ContactDesk(manager, app.state.base_urls)
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
            *hitless_api.HANDLERS,
            *smart_api.HANDLERS,
            *usage_api.HANDLERS,
            *bulk_api.HANDLERS,
            *console.HANDLERS,
            *metrics.HANDLERS,
            *alarms_api.HANDLERS,
        ],
        lifespan=[lifespan],
        state=State(
            {
                "manager": manager,
                "access": Access(manager),
                "assets": console.prepare(manager),
                "metrics": metrics.Metrics(manager),
                "room": ContactRoom(
                    manager.settings.contacts_waiting, wall=lambda: manager.clock.now().wall
                ),
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
            await in_thread(manager.database.tell)
            await in_thread(manager.grants.follow)
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
    try:
        await _look_on(own)
    finally:
        own.close()


async def _look_on(own: OwnAlarms) -> None:
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

    Raises CallpoolError `port_in_use`, `cannot_listen`, `manager_runs` or `database_unusable`.
    """
    structs.ready_for_threads()
    with running(manager.layout):
        _serve(manager, listen)


def _serve(manager: Manager, listen: str) -> None:
    # Uvicorn raises the signal that ended it once more: a manager that was told to stop has
    # done what it was told, and its status is 0.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: sys.exit(0))
    address, port = split_listen(listen)
    listener = _listen(address, port)
    port = listener.getsockname()[1]
    manager.identity.renew_tls(manager.settings.hosts)
    # A database that cannot be read says so here, in one sentence.
    manager.database.read(lambda tx: tx.value("SELECT report FROM unit LIMIT 1"))
    asyncio.sslproto.SSLProtocol.max_size = _TLS_BUFFER
    _open_many_files()
    say(f"callpool manager: {manager.settings.url(port)}")
    config = uvicorn.Config(
        build(manager, port),
        ssl_certfile=str(manager.layout.certificate),
        ssl_keyfile=str(manager.layout.certificate_key),
        ssl_keyfile_password=(manager.identity.passphrase or b"").decode() or None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,
        lifespan="on",
    )
    Server(config).run(sockets=[listener])


def _open_many_files() -> None:
    """Let the process hold as many connections as the system allows it."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # a sandbox forbids it and says the limit itself
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by every connection: without it a reply in two writes waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # So is this: a peer that vanished, idle or not, keeps no connection and no stream open.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, GONE_AFTER // 2)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, GONE_AFTER // 6))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_AFTER * 1000)
    try:
        listener.bind((address, port))
        listener.listen(4096)  # the kernel's own limit bounds it (net.core.somaxconn)
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
