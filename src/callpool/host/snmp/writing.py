"""SET: switches (TruthValue) that a v3 user may turn, all of one request or none.

The order of the checks and their errors are those of RFC 3416, 4.2.5; who may is the access
control's word (VACM). A request is answered when its change is made, not before; the engine goes
on meanwhile. As in `engine.py`, what crosses to pysnmp is `Any`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pysnmp.entity.rfc3413 import cmdrsp
from pysnmp.proto.api import v2c
from pysnmp.proto.rfc1902 import Integer32
from pysnmp.smi import error as smi

from callpool.host.snmp.values import Oid
from callpool.licensing.errors import CallpoolError

TRUE: Final = 1
FALSE: Final = 2
#: Requests under way at once; one more is told `resourceUnavailable`.
MOST: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Writable:
    """The switches of one agent."""

    #: Their OIDs, instances (`.0`), as they may be written.
    oids: Collection[Oid]
    #: The ones that are served now.
    served: Callable[[], Collection[Oid]]
    #: Makes a change that `user` asked for; raises CallpoolError where nothing was changed and
    #: TimeoutError where that is not known.
    change: Callable[[Mapping[Oid, bool], str], Awaitable[None]]


class SetResponder(cmdrsp.SetCommandResponder):  # type: ignore[misc]
    """Answers SET."""

    def __init__(self, engine: Any, here: Any, writable: Writable) -> None:
        """Answer for `writable`."""
        self._writable = writable
        self._under_way: dict[Any, asyncio.Task[None]] = {}
        super().__init__(engine, here)

    def handle_management_operation(
        self, engine: Any, state: Any, context_name: Any, pdu: Any
    ) -> None:
        """Check a request at once, and carry it out beside the engine's loop."""
        asked = v2c.apiPDU.get_varbinds(pdu)
        try:
            wanted = self._checked(engine, asked)
        except smi.MibOperationError as refused:
            # Answered here: the library's own answer miscounts which variable it was.
            self._answer(engine, state, asked, refused)
            return
        told = engine.observer.get_execution_context("rfc3412.receiveMessage:request")
        work = self._carry_out(engine, state, asked, wanted, str(told["securityName"]))
        self._under_way[state] = asyncio.get_running_loop().create_task(work)

    def release_state_information(self, state: Any) -> None:
        """Let go of a request that is answered; one that is under way is kept."""
        if state not in self._under_way:
            super().release_state_information(state)

    def give_up(self) -> None:
        """Answer nothing more."""
        for task in self._under_way.values():
            task.cancel()

    def _checked(self, engine: Any, asked: Sequence[tuple[Any, Any]]) -> dict[Oid, bool]:
        """Return what is wanted; raises the first variable's error that has one."""
        wanted: dict[Oid, bool] = {}
        served = self._writable.served()
        for index, (name, value) in enumerate(asked):
            oid = tuple(name)
            switch = (*oid[:-1], 0)
            if oid not in self._writable.oids:
                # A switch has one instance, and none can be made.
                known = any(oid[: len(s) - 1] == s[:-1] for s in served)
                raise (smi.NoCreationError if known else smi.NotWritableError)(idx=index)
            if self.verify_access("write", (oid, value), snmpEngine=engine, idx=index):
                raise smi.NoAccessError(idx=index)
            if switch not in served:
                raise smi.NotWritableError(idx=index)
            if value.tagSet != Integer32.tagSet:
                raise smi.WrongTypeError(idx=index)
            if int(value) not in (TRUE, FALSE):
                raise smi.WrongValueError(idx=index)
            on = int(value) == TRUE
            if wanted.setdefault(oid, on) is not on:
                raise smi.InconsistentValueError(idx=index)
        if len(self._under_way) >= MOST:
            raise smi.ResourceUnavailableError(idx=0)
        return wanted

    def _answer(
        self, engine: Any, state: Any, asked: Sequence[tuple[Any, Any]], refused: Any = None
    ) -> None:
        if refused is None:
            self.send_varbinds(engine, state, 0, 0, asked)
        else:
            name = self.SMI_ERROR_MAP[type(refused)]
            self.send_varbinds(engine, state, name, refused["idx"] + 1, asked)

    async def _carry_out(
        self, engine: Any, state: Any, asked: Any, wanted: Mapping[Oid, bool], user: str
    ) -> None:
        refused: Any = None
        try:
            await self._writable.change(wanted, user)
        except CallpoolError:
            refused = smi.CommitFailedError(idx=0)
        except TimeoutError:
            refused = smi.GenError(idx=0)
        finally:
            self._under_way.pop(state)
        self._answer(engine, state, asked, refused)
        super().release_state_information(state)
