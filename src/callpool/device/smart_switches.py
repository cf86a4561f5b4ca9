"""Which notifications of smart licensing are sent by SNMP: four switches in a file of their own.

A change is on disk before it counts, and journalled with who asked. It is made beside the agent's
loop, for it touches neither the flash nor the gate.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec

from callpool.device.core import Core
from callpool.device.errors import DeviceError
from callpool.host.files import write_durably
from callpool.licensing.notice_log import Told


class Switches(msgspec.Struct, frozen=True, kw_only=True):
    """The switches, each on unless it was turned off."""

    #: Which change made them so: of two readings, the higher is the newer.
    revision: int = 0
    #: Switch -> the last notice before it was turned on: what came while it was off stays untold.
    since: dict[str, int] = {}
    #: CISCO-SMART-LIC-MIB: all its notifications but one.
    sla_global: bool = True
    #: CISCO-SMART-LIC-MIB: the one about an entitlement's enforcement mode.
    sla_entitlement: bool = True
    #: CISCO-USP-MIB: more calls than licensed; another license state.
    usp_exceeded: bool = True
    usp_state: bool = True


NAMES: Final = tuple(n for n in Switches.__struct_fields__ if n not in ("revision", "since"))


class SmartNotices(msgspec.Struct, frozen=True, kw_only=True):
    """What the core tells of its notices: only what is on disk."""

    #: The number of the last one, and of the last of the runs before this one.
    sequence: int
    before: int
    told: tuple[Told, ...]
    switches: Switches


class SwitchBook:
    """One device's switches."""

    def __init__(self, file: Path, core: Core) -> None:
        """Keep them in `file`; `start` reads it."""
        self._file, self._core = file, core
        self._lock = asyncio.Lock()
        self.switches = Switches()

    async def start(self) -> None:
        """Read them; a file that cannot be read turns all on, and the journal says so."""
        try:
            raw = await asyncio.to_thread(self._file.read_bytes)
            self.switches = msgspec.json.decode(raw, type=Switches)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            self._core.note("switches_unreadable", text=str(error))

    async def change(self, wanted: dict[str, bool], *, who: str) -> Switches:
        """Set the switches in `wanted`, all or none; `who` asked.

        Raises DeviceError `bad_switch`, `switches_not_saved`: nothing has changed then.
        """
        if not wanted.keys() <= set(NAMES) or not all(isinstance(v, bool) for v in wanted.values()):
            raise DeviceError(
                "bad_switch", f"A switch is one of {', '.join(NAMES)}, true or false."
            )
        async with self._lock:
            before = self.switches
            changed = {n: on for n, on in wanted.items() if getattr(before, n) is not on}
            if not changed:
                return before
            last = self._core.opened.record.smart.notices.sequence
            since = {**before.since, **{name: last for name, on in changed.items() if on}}
            after = msgspec.structs.replace(
                before, revision=before.revision + 1, since=since, **changed
            )
            try:
                await asyncio.to_thread(write_durably, self._file, msgspec.json.encode(after))
            except OSError as error:
                raise DeviceError(
                    "switches_not_saved", f"The switches cannot be written: {error.strerror}."
                ) from error
            self.switches = after
        for name, on in changed.items():
            self._core.note("notifications_switched", cause="asked", who=who, switch=name, on=on)
        return after

    def notices(self, after: int) -> SmartNotices:
        """Return what the agent has told after number `after`, as far as it is on disk."""
        stored = self._core.stored
        log = (stored or self._core.opened.record).smart.notices
        return SmartNotices(
            sequence=log.sequence,
            before=self._core.notices_before,
            told=log.after(after),
            switches=self.switches,
        )
