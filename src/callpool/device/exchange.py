"""A request to the manager under way: a task beside the agent's loop, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from callpool.device.errors import LinkError
from callpool.device.ports import Post
from callpool.licensing.errors import CallpoolError

#: Seconds that one exchange may take in all.
LIMIT: Final = 60.0

#: What came: the answer, or why there is none.
Answer = str | CallpoolError


class Exchange:
    """At most one request under way; an answer to one that was given up comes too late."""

    def __init__(self, post: Post, whom: str) -> None:
        """Hand answers to the loop by `post`; `whom` is who is asked, for a sentence."""
        self._post, self._whom = post, whom
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._task is not None

    def begin(
        self,
        ask: Callable[[], Awaitable[str]],
        then: Callable[[Answer], Awaitable[None]],
        limit: float = LIMIT,
    ) -> None:
        """Await `ask()` for `limit` seconds at most; the loop then does `then` with what came.

        A request that is under way is given up.
        """
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._run(ask, then, limit))

    async def give_up(self) -> None:
        """Give up the request that is under way."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(
        self,
        ask: Callable[[], Awaitable[str]],
        then: Callable[[Answer], Awaitable[None]],
        limit: float,
    ) -> None:
        answer: Answer
        try:
            async with asyncio.timeout(limit):
                answer = await ask()
        except CallpoolError as error:
            answer = error
        except TimeoutError:
            answer = LinkError("manager_unreachable", f"{self._whom} did not answer in time.")
        task = asyncio.current_task()

        async def arrived() -> None:
            if task is self._task:  # else it was given up since
                self._task = None
                await then(answer)

        self._post(arrived)
