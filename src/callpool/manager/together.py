"""What many ask for at once is done together: who comes during a batch is in the next.

Nobody waits for company. A single request is done at once; under load a batch takes as many as
came while the one before it was done, so that one statement or one durable commit serves all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from callpool.manager.web import in_thread

A = TypeVar("A")
R = TypeVar("R")


class Together(Generic[A, R]):
    """A kind of work that is done for several at once; used from one event loop."""

    def __init__(
        self, work: Callable[[Sequence[A]], Sequence[R | Exception]], *, most: int
    ) -> None:
        """Do `work`, in a thread, for at most `most` in a batch, one batch at a time.

        It returns for each what it is given, or what it is raised. A second batch beside the first
        would make both smaller, and a contact dearer: that was measured.
        """
        self._work, self._most = work, most
        self._waiting: deque[tuple[A, asyncio.Future[R]]] = deque()
        self._running = False
        #: Held, so that it is not forgotten while it runs.
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, asked: A) -> R:
        """Return what the work gives for `asked`; raises what it gives, or what it raises."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if not self._running:
            self._running = True
            self._task = asyncio.create_task(self._go_on())
        return await answer

    async def _go_on(self) -> None:
        try:
            await self._batches()
        finally:
            # In the same step in which nobody was found waiting: whoever comes now begins anew.
            self._running = False

    async def _batches(self) -> None:
        while self._waiting:
            count = min(self._most, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            asked = [a for a, _ in batch]
            results: Sequence[R | Exception]
            try:
                results = await in_thread(lambda asked=asked: self._work(asked))  # type: ignore[misc]
            except Exception as error:  # all of them have failed by it
                results = [error] * count
            for (_, answer), result in zip(batch, results, strict=True):
                if answer.done():  # nobody waits for it any more
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
