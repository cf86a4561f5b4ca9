"""The core's smart commands, as the socket brings them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from callpool.device.agent import Agent
from callpool.device.config_door import asker
from callpool.device.errors import DeviceError
from callpool.device.smart import Outcome

#: Seconds to wait for what becomes of a contact; after that it goes on by itself.
PATIENCE: Final = 75.0

_Work = Callable[[], Awaitable[asyncio.Future[Outcome] | None]]

#: Actions whose contact, if it fails, leaves nothing done.
_FAILING: Final = frozenset({"register", "renew_auth", "renew_id"})


class SmartDoor:
    """One device's smart commands."""

    def __init__(self, agent: Agent) -> None:
        """Serve `agent`."""
        self._agent = agent

    async def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out `action`; return the state after it, and why its contact failed.

        Raises CallpoolError: what is refused has changed nothing.
        """
        agent, smart = self._agent, self._agent.smart
        action = str(request.get("action", ""))
        code = sentence = ""
        if action != "status":
            agent.core.note("smart_asked", cause="asked", who=asker(request), action=action[:32])
            work = self._work(action, request)
            outcome: asyncio.Future[Outcome] | None = await agent.ask(work)
            if outcome is not None:
                try:
                    async with asyncio.timeout(PATIENCE):
                        code, sentence = await outcome
                except TimeoutError:
                    code, sentence = "no_answer", "The authority has not answered yet."
        if code and action in _FAILING:
            due = smart.agent.next_contact
            again = " It is tried again by itself." if due is not None else ""
            raise DeviceError(code, f"{sentence}{again}")
        return {"smart": agent.smart_status(), "code": code, "detail": sentence}

    def _work(self, action: str, request: dict[str, Any]) -> _Work:
        smart = self._agent.smart

        async def enable() -> None:
            await smart.enable()

        async def register() -> asyncio.Future[Outcome] | None:
            token, force = str(request.get("token", "")), request.get("force") is True
            return await smart.register(token, force=force)

        async def count() -> asyncio.Future[Outcome] | None:
            wanted = request.get("count")
            if isinstance(wanted, bool) or not isinstance(wanted, int):
                raise DeviceError("bad_count", "A count is a whole number.")
            return await smart.count(wanted)

        works: dict[str, _Work] = {
            "enable": enable,
            "disable": smart.disable,
            "register": register,
            "deregister": smart.deregister,
            "renew_auth": smart.renew_auth,
            "renew_id": smart.renew_id,
            "count": count,
        }
        if action not in works:
            raise DeviceError("unknown_command", "There is no such command.")
        return works[action]
