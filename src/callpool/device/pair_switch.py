"""Handing the service address over: orders of the manager, each once, and what is asked locally.

An order's number is on the disk before it is begun and again when it has ended, so a core that
dies over it does not begin it a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import msgspec

from callpool.device.core import Core
from callpool.device.ports import Post
from callpool.wire.messages import SwitchOrder

#: Seconds that a switchover may take, and that it waits for the units to be synchronised first:
#: two comparisons and more.
SWITCH_LIMIT: Final = 10.0
SETTLE: Final = 5.0
#: Seconds between two looks.
LOOK_EVERY: Final = 0.05

UNDER_WAY: Final = "under way"
DONE: Final = "done"
NOT_SYNCHRONISED: Final = "the units are not synchronised"


class Place(Protocol):
    """Where this unit stands."""

    @property
    def serving(self) -> bool:
        """Whether this unit has the service address."""
        ...

    @property
    def peer_serves(self) -> bool:
        """Whether the other unit said last that it has it."""
        ...

    def why_not(self, to: str) -> str:
        """Return why the address cannot go to unit `to` now; empty where it can."""
        ...


class Switchover:
    """Hands the address over; `yielding` is what the rank is made of."""

    def __init__(
        self, *, core: Core, place: Place, post: Post, own: str, peer: str,
        begin: Callable[[Coroutine[Any, Any, None]], None], monotonic: Callable[[], float],
    ) -> None:  # fmt: skip
        """`own` and `peer` are serial numbers; `begin` starts a task that ends with the pair."""
        self._core, self._place, self._post, self._begin = core, place, post, begin
        self._own, self._peer, self._now = own, peer, monotonic
        #: The order that waits for the units to be synchronised.
        self._waiting = 0
        self.yielding = False
        #: Called when an order has ended, whatever came of it.
        self.on_end: Callable[[], None] = lambda: None

    def resume(self) -> None:
        """End the order that was under way when an earlier core died."""
        pool = self._core.opened.record.pool
        if pool.switch_result == UNDER_WAY:
            done = "failed: the core was restarted meanwhile" if self._place.serving else DONE
            self._post(lambda: self._ended(pool.switch_done, done))

    async def order(self, order: SwitchOrder) -> None:
        """Carry an order out once (inside the agent's loop); raises DeviceError on a full disk.

        Units that are not synchronised at this moment are waited for: under calls they are,
        are not and are again within seconds.
        """
        if order.number == self._waiting:
            return
        if self._place.why_not(order.to) != NOT_SYNCHRONISED:
            await self._carry_out(order)
            return
        self._waiting = order.number
        self._begin(self._once_synchronised(order))

    async def asked(self) -> str:
        """Hand the address over now; return `done` or why not. Asked for locally."""
        await self._settled(self._peer)
        why = self._place.why_not(self._peer)
        return f"refused: {why}" if why else await self._yield()

    async def _once_synchronised(self, order: SwitchOrder) -> None:
        await self._settled(order.to)
        self._post(lambda: self._carry_out(order))

    async def _settled(self, to: str) -> None:
        deadline = self._now() + SETTLE
        while self._now() < deadline:
            if self._place.why_not(to) != NOT_SYNCHRONISED:
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _carry_out(self, order: SwitchOrder) -> None:
        self._waiting = 0
        if order.number <= self._core.opened.record.pool.switch_done:
            return
        over = 0.0 < order.until <= self._core.time(self._core.now())
        why = "expired" if over else self._place.why_not(order.to)
        if why or (order.to == self._own and self._place.serving):
            await self._ended(order.number, f"refused: {why}" if why else DONE)
            return
        await self._write(order.number, UNDER_WAY)
        self._core.note("ha_switchover", cause="asked", number=order.number, to=order.to)
        self._begin(self._hand_over(order.number))

    async def _hand_over(self, number: int) -> None:
        result = await self._yield()
        self._post(lambda: self._ended(number, result))

    async def _yield(self) -> str:
        self.yielding = True
        deadline = self._now() + SWITCH_LIMIT
        try:
            while self._now() < deadline:
                if not self._place.serving and self._place.peer_serves:
                    return DONE
                await asyncio.sleep(LOOK_EVERY)
        finally:
            self.yielding = False
        if not self._place.serving:
            return DONE
        return f"failed: the other unit did not take the address within {SWITCH_LIMIT:.0f} s"

    async def _write(self, number: int, result: str) -> None:
        core = self._core
        pool = msgspec.structs.replace(
            core.opened.record.pool, switch_done=number, switch_result=result
        )
        await core.change(core.opened.recording(pool=pool))

    async def _ended(self, number: int, result: str) -> None:
        self._core.note("ha_switchover_ended", number=number, result=result)
        await self._write(number, result)
        self.on_end()
