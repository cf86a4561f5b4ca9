"""The shell's process: `python -m callpool.device.faces.shell DIR`, started by the core.

It ends when its standard input closes, so a core that is killed leaves no shell behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from callpool.device.faces.shell.server import ShellServer
from callpool.device.settings import Layout
from callpool.device.ssh_settings import read_ssh
from callpool.host import structs
from callpool.host.process import closed_input
from callpool.licensing.errors import CallpoolError


async def serve(layout: Layout) -> None:
    """Serve the shell until standard input closes; raises CallpoolError, OSError."""
    settings = read_ssh(layout.ssh)
    if settings is None:
        return
    server = asyncio.create_task(ShellServer(layout).serve(settings.listen))
    closed = asyncio.create_task(closed_input())
    await asyncio.wait({server, closed}, return_when=asyncio.FIRST_COMPLETED)
    for task in (server, closed):
        task.cancel()
    for result in await asyncio.gather(server, closed, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


def main() -> None:
    """Run the shell of the device in the directory that is named."""
    os.nice(5)  # the core's timers come first
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)  # strangers' mistakes are no news
    structs.ready_for_threads()
    layout = Layout(Path(sys.argv[1]))
    try:
        asyncio.run(serve(layout))
    except (CallpoolError, OSError) as error:
        sys.exit(f"callpool: the shell cannot listen: {error}")


if __name__ == "__main__":
    main()
