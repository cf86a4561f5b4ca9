"""Keeps the faces up: processes of their own, started and watched by the core's."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Final

from callpool.device.core import Core

#: Seconds before faces that died are started again; doubled each time up to the second.
FACES_BACKOFF: Final = (0.5, 30.0)


class Faces:
    """Faces: a process of their own, whose load and death never touch the core."""

    def __init__(self, root: Path, core: Core, module: str = "callpool.device.faces") -> None:
        """Run `module` for the device in `root` once started."""
        self._root, self._core, self._module = root, core, module
        self._process: asyncio.subprocess.Process | None = None
        #: How often they have been started in this run of the core.
        self.starts = 0

    @property
    def pid(self) -> int:
        """The faces' process id, 0 while there are none."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def run(self) -> None:
        """Keep the faces up until cancelled; then end them."""
        shortest, longest = FACES_BACKOFF
        backoff = shortest
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                # They end by themselves when their standard input closes: a core that is
                # killed leaves none behind on the pages' port.
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    self._module,
                    str(self._root),
                    stdin=asyncio.subprocess.PIPE,
                )
                self.starts += 1
                status = await self._process.wait()
                self._core.note("faces_ended", status=status, module=self._module)
                backoff = shortest if loop.time() - began > 10.0 else min(backoff * 2, longest)
                await asyncio.sleep(backoff)
        finally:
            await self._end()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(5.0):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
