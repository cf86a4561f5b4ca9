"""The hint stream: kept open while there is a standing with the manager that it belongs to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from callpool.device.errors import LinkError
from callpool.device.manager_link import SPREAD
from callpool.device.ports import Link
from callpool.device.schedule import SHIFT
from callpool.licensing.errors import CallpoolError

#: The shortest and longest wait in seconds before the stream is opened again.
BACKOFF: Final = (0.5, 60.0)
#: The longest time in seconds over which a manager can have its fleet's streams spread.
MOST_SPREAD: Final = 600.0
#: A stream that stood this long, in seconds, was a good one.
GOOD: Final = 10.0
#: The least real time in seconds between two hints of the authority that are heeded.
SMART_PACE: Final = 0.2


class HintStream:
    """Opens one stream, again and again; a hint says nothing but that a pull is worth it."""

    def __init__(
        self,
        link: Link | None,
        path: str,
        *,
        request: Callable[[], str],
        heard: Callable[[str], None],
        pace: float = 0.0,
    ) -> None:
        """Open `path` of `link` (None for no manager) with the envelope that `request` signs.

        `heard` is told of each opening and each hint, in the event loop; after each, nothing
        is heeded for `pace` seconds.
        """
        self._pace = pace
        self._link, self._path, self._request, self._heard = link, path, request, heard
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Seconds over which the fleet is to spread the next opening, as the manager last said.
        self.spread = 0.0
        #: Whether the stream stands.
        self.up = False

    def want(self, on: bool) -> None:
        """Say whether there is a standing to listen under."""
        if on:
            self._wanted.set()
        else:
            self._wanted.clear()

    def start(self) -> None:
        """Begin to listen as soon as it is wanted."""
        if self._link is not None:
            self._task = asyncio.create_task(self._listen(self._link))

    async def close(self) -> None:
        """End the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task, self.up = None, False

    async def _listen(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        shortest, longest = BACKOFF
        backoff = shortest
        while True:
            await self._wanted.wait()
            began, wait = loop.time(), 0.0
            try:
                async for name in link.hints(self._path, self._request()):
                    if not self._wanted.is_set():
                        break
                    if name.startswith(SPREAD):
                        self.spread = min(float(name.removeprefix(SPREAD)), MOST_SPREAD)
                        continue
                    self._heard(name)
                    if self.up and self._pace:
                        await asyncio.sleep(self._pace)
                    self.up = True
            except CallpoolError as error:
                wait = (error.retry_after or 0.0) if isinstance(error, LinkError) else 0.0
            self.up = False
            if loop.time() - began > GOOD:
                backoff = shortest
            # A manager that goes loses all its streams at one moment, and is back at one moment.
            spread = random.uniform(0.0, self.spread)  # noqa: S311 - spreads load, no secret
            jittered = backoff * random.uniform(0.5, 1.0)  # noqa: S311 - as above
            await asyncio.sleep(max(wait * (1.0 + SHIFT * random.random()), jittered, spread))  # noqa: S311
            backoff = min(backoff * 2, max(longest, self.spread))
