"""Keeps a child process up: one whose load and death never touch its parent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

#: Seconds before a child that died is started again; doubled each time up to the second.
BACKOFF: Final = (0.5, 30.0)
#: A child that lived this long, in seconds, did not die of its start.
LIVED: Final = 10.0


class Keeper:
    """One child process, started, watched, started again."""

    def __init__(self, words: Sequence[str], *, ended: Callable[[int], None]) -> None:
        """Keep the process of `words` once `run`; `ended` hears its status."""
        self._words, self._ended = list(words), ended
        self._process: asyncio.subprocess.Process | None = None
        #: How often it has been started.
        self.starts = 0

    @property
    def pid(self) -> int:
        """Its process id, 0 while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def run(self) -> None:
        """Keep it up until cancelled; then end it."""
        shortest, longest = BACKOFF
        backoff = shortest
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                # It ends by itself when its standard input closes: a parent that is killed
                # leaves none behind on its port.
                self._process = await asyncio.create_subprocess_exec(
                    *self._words, stdin=asyncio.subprocess.PIPE
                )
                self.starts += 1
                self._ended(await self._process.wait())
                backoff = shortest if loop.time() - began > LIVED else min(backoff * 2, longest)
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
