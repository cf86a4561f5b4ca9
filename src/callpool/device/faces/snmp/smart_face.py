"""Smart licensing's side of the SNMP agent: its objects, its notifications, its switches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
import structlog

from callpool.device.control import ask
from callpool.device.faces.reader import PATIENCE
from callpool.device.faces.snmp import smart_tree as tree
from callpool.device.faces.snmp.smart_notify import Sending, exceeding, sendings, wanted
from callpool.device.settings import Layout
from callpool.device.smart_switches import SmartNotices, Switches
from callpool.device.status import Status
from callpool.host.snmp.notify import Receiver
from callpool.host.snmp.values import Live, Oid, Value
from callpool.host.snmp.writing import Writable
from callpool.licensing.call_rates import CallRates, exceeded
from callpool.licensing.errors import CallpoolError

#: Failures of a change of which it is known that nothing was changed. A core that ends or is
#: late while it is asked may have made it.
_UNCHANGED: Final = ("switches_not_saved", "bad_switch", "control_busy")


class SmartKept(msgspec.Struct, frozen=True, kw_only=True):
    """What must be remembered across restarts of the faces."""

    #: The last notice that the receivers were told of; None before the first reading.
    told: int | None = None
    #: Since when calls are counted (trusted time), and the counts of then; None before the first.
    since: float | None = None
    base: tuple[int, ...] = ()
    #: More calls than licensed have been told of, and that is not over.
    exceeded: bool = False


class SmartFace:
    """One device's smart licensing by SNMP. Nothing is served where there is nothing of it."""

    def __init__(self, layout: Layout, kept: SmartKept, receivers: list[Receiver]) -> None:
        """Serve the device in `layout`; `receivers` hear what is turned off."""
        self._layout, self._receivers = layout, receivers
        self.kept = kept
        self._rates = CallRates()
        self._switches = Switches()
        self._serves = False

    @property
    def writable(self) -> Writable:
        """What a v3 user may write."""

        def served() -> Collection[Oid]:
            return tree.SWITCHES if self._serves else ()

        return Writable(oids=tree.SWITCHES, served=served, change=self._change)

    async def _change(self, wished: Mapping[Oid, bool], user: str) -> None:
        """Have the core write a change; what is off is sent no more, not even from a queue.

        Raises CallpoolError where nothing was changed, TimeoutError where nobody knows.
        """
        names = {tree.SWITCHES[oid]: on for oid, on in wished.items()}
        try:
            told = await asyncio.to_thread(
                ask, self._layout.control, "switch", switches=names, who=f"snmp:{user}",
                timeout=PATIENCE,
            )  # fmt: skip
        except CallpoolError as error:
            log: Any = structlog.get_logger("callpool.device.snmp")
            log.error("snmp_set_failed", code=error.code, text=error.sentence)
            if error.code in _UNCHANGED:
                raise
            raise TimeoutError from error
        self._heed(msgspec.convert(told, Switches))

    def _heed(self, switches: Switches) -> None:
        if switches.revision <= self._switches.revision:
            return
        self._switches = switches
        for receiver in self._receivers:
            receiver.drop(self._unwanted)

    def _unwanted(self, oid: str) -> bool:
        return not wanted(tuple(int(n) for n in oid.split(".")), self._switches)

    async def look(self, status: Status) -> SmartNotices | None:
        """Read the core's notices and count its calls; None where there is nothing of it."""
        self._serves = status.smart is not None
        if not self._serves:
            return None
        notices = await self._ask(self.kept.told or 0)
        if self.kept.told is None or notices.sequence < self.kept.told:
            # Not read before, or set up anew: what was before this run of the device is past,
            # and a notification without a date would tell it as of now.
            notices = await self._ask(notices.before)
        self._heed(notices.switches)
        self._count(status)
        return notices

    async def _ask(self, after: int) -> SmartNotices:
        told = await asyncio.to_thread(
            ask, self._layout.control, "notices", after=after, timeout=PATIENCE
        )
        return msgspec.convert(told, SmartNotices)

    def _count(self, status: Status) -> None:
        counts = tree.counts_of(status)
        kept = self.kept
        if kept.since is None or len(kept.base) != len(counts):
            self.kept = msgspec.structs.replace(kept, since=status.time, base=counts)
        elif any(now < then for now, then in zip(counts, kept.base, strict=True)):
            zero = tuple(0 for _ in counts)
            self.kept = msgspec.structs.replace(kept, since=status.time, base=zero)
        self._rates.look(time.monotonic(), *counts)

    def objects(self, status: Status, *, uptime: float) -> dict[Oid, Value]:
        """Return what is served; `uptime` is the core's, in seconds."""
        now = status.smart
        if now is None:
            return {}
        # A switch that was just turned is read as it is now.
        switches = {
            oid: Live(lambda oid=oid: tree.switch_objects(self._switches)[oid])  # type: ignore[misc]
            for oid in tree.SWITCHES
        }
        return {
            **tree.sla_objects(status, now),
            **tree.usp_objects(
                status, now, uptime=uptime, since=self.kept.since or status.time,
                base=self.kept.base, rates=self._rates,
            ),
            **switches,
        }  # fmt: skip

    def tell(self, status: Status, notices: SmartNotices) -> list[Sending]:
        """Return what is to be sent now, in order; what a switch stops is not told later."""
        sudi = tree.sudi(status)
        found = [
            s
            for told in notices.told
            for s in sendings(told.notice, sudi)
            if wanted(s.oid, self._switches, told.sequence)
        ]
        kept = msgspec.structs.replace(self.kept, told=notices.sequence)
        now = status.smart
        if now is not None:
            offered = self._rates.rate(tree.OFFERED)
            above = exceeded(offered.mean, now.limit, was=kept.exceeded, whole=self._rates.whole)
            alert = exceeding(tree.per_second(offered.now), tree.limit(now))
            if above and not kept.exceeded and wanted(alert.oid, self._switches):
                found.append(alert)
            kept = msgspec.structs.replace(kept, exceeded=above)
        self.kept = kept
        return found
