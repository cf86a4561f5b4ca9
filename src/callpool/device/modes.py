"""The license modes of a device: one managed mode at a time.

The local key counts in `none` and `fixed`. The pool's manager turns `fixed` on and off; the
other two are switched on the device, each refused while another mode is on (the vendor's
model: "Floating license cannot be enabled when device is managed by License Pool.").
"""

from __future__ import annotations

from typing import Final

from callpool.device.core import Core
from callpool.device.errors import DeviceError
from callpool.wire.messages import MANAGED, MODE_FIXED, MODE_NONE, MODE_SMART

#: Where no mode is on, for a sentence.
FLOATING_OFF: Final = "Floating licensing is off."


def mode(core: Core) -> str:
    """Return the managed mode that is on: MODE_NONE, MODE_FIXED or MODE_SMART."""
    if core.opened.record.smart.agent.enabled:
        return MODE_SMART
    return MODE_FIXED if core.fixed else MODE_NONE


def check_floating(core: Core) -> None:
    """Refuse to turn floating licensing on; this release has the switch, not yet the mode.

    Raises DeviceError `managed_by_smart`, `managed_by_license_pool` (a unit that the pool
    manages counts although nothing is allocated to it) or `floating_not_available`.
    """
    now = mode(core)
    if now == MODE_SMART:
        raise DeviceError(
            "managed_by_smart",
            "Floating licensing cannot be enabled while smart licensing is on: disable that "
            "first (`callpool device smart disable`).",
        )
    listed = core.opened.ring is not None and core.opened.record.pool.status == MANAGED
    if now == MODE_FIXED or listed:
        raise DeviceError(
            "managed_by_license_pool",
            "Floating licensing cannot be enabled while the Fixed License Pool manages this "
            "device: take it out of the pool at its manager first.",
        )
    raise DeviceError(
        "floating_not_available", "Floating licensing is not available in this release."
    )
