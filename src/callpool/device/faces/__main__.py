"""The faces' process: `python -m callpool.device.faces DIR`, started by the core.

It ends when its standard input closes, so a core that is killed leaves no faces behind.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvicorn

from callpool.device.faces.certificate import keep_certificate
from callpool.device.faces.pages import make_app
from callpool.device.faces.reader import Reader
from callpool.device.faces.syslog.face import serve_syslog
from callpool.device.logs import configure_log
from callpool.device.settings import Layout
from callpool.host import structs
from callpool.host.addresses import address
from callpool.host.process import closed_input
from callpool.host.syslog.sender import SyslogSender


async def serve(layout: Layout) -> None:
    """Serve pages, SNMP and syslog until standard input closes or a signal comes."""
    reader = Reader(layout.control)
    tasks = [asyncio.create_task(closed_input())]
    senders: dict[str, SyslogSender] = {}  # filled in once there are some
    server = _pages_server(layout, reader, senders)
    if server is not None:
        tasks.append(asyncio.create_task(server.serve()))
    if layout.snmp.exists():
        # Loaded only where it is used: the library costs half a second and 20 MB.
        from callpool.device.faces.snmp.agent import serve_snmp

        structs.ready_for_threads()
        tasks.append(asyncio.create_task(serve_snmp(layout, reader)))
    if layout.syslog.exists():
        tasks.append(asyncio.create_task(serve_syslog(layout, senders)))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if server is not None:
        server.should_exit = True
        await tasks.pop(1)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


def _pages_server(
    layout: Layout, reader: Reader, senders: dict[str, SyslogSender]
) -> uvicorn.Server | None:
    pages = layout.load().pages
    if not pages:
        return None
    host, port = address(pages)
    keep_certificate(layout, host)
    return uvicorn.Server(
        uvicorn.Config(
            make_app(
                reader,
                layout.smart_log,
                control=layout.control,
                serial=layout.load().serial,
                metrics_token=layout.metrics_token,
                senders=senders,
            ),
            host=host,
            port=port,
            ssl_certfile=str(layout.pages_certificate),
            ssl_keyfile=str(layout.pages_key),
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=128,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
        )
    )


def main() -> None:
    """Run the faces of the device in the directory that is named."""
    os.nice(5)  # the core's timers come first
    configure_log()
    structs.ready_for_threads()
    asyncio.run(serve(Layout(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
