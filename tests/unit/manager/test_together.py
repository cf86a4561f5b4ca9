"""What is asked for at once is done together, by nobody's waiting and nobody's being forgotten."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from callpool.manager.together import Together


class Work:
    """Doubles numbers; a batch waits for `go` while it is closed."""

    def __init__(self, most: int = 10) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.together = Together(self._do, most=most)

    def _do(self, asked: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(asked))
        assert self.go.wait(60)
        if 13 in asked and len(asked) == 1:
            raise OSError("the whole batch")
        return [ValueError(n) if n < 0 else 2 * n for n in asked]


async def test_who_comes_during_a_batch_is_in_the_next_and_a_batch_has_its_bound() -> None:
    work = Work(most=3)
    work.go.clear()
    first = asyncio.create_task(work.together(1))
    async with asyncio.timeout(30):
        while not work.batches:  # noqa: ASYNC110  a thread's list tells nobody
            await asyncio.sleep(0.001)
    others = [asyncio.create_task(work.together(n)) for n in range(2, 7)]
    await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8, 10, 12]
    assert work.batches == [[1], [2, 3, 4], [5, 6]]


async def test_each_is_told_its_own_error_and_all_that_of_their_batch() -> None:
    work = Work()
    found = await asyncio.gather(
        work.together(1), work.together(-5), work.together(3), return_exceptions=True
    )
    assert [found[0], found[2]] == [2, 6]
    assert isinstance(found[1], ValueError)
    with pytest.raises(OSError, match="whole"):
        await work.together(13)
    assert await work.together(4) == 8


async def test_whoever_comes_in_the_moment_a_batch_ends_is_not_forgotten() -> None:
    work = Work()

    async def again(number: int) -> None:
        for _ in range(300):  # its next comes in the very step that its last was answered in
            assert await work.together(number) == 2 * number

    async with asyncio.timeout(60):
        await asyncio.gather(*(again(n) for n in range(2)))


async def test_who_gives_up_holds_nobody_up() -> None:
    work = Work()
    work.go.clear()
    gone = asyncio.create_task(work.together(1))
    await asyncio.sleep(0)
    gone.cancel()
    work.go.set()
    assert await work.together(2) == 4
