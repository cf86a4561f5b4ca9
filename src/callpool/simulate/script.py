"""A simulation's script: what is configured and bought, and what happens when.

Strict: an unknown field or event, a number out of range or of another type is refused with
its place (`$.events[2].count`) and the reason.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from callpool.licensing.capacity import MAX_COUNT
from callpool.licensing.compliance import COUNT_STEP
from callpool.simulate.reading import MAX_DAYS, MAX_EVENTS, read_strictly, refused

#: The furthest that a script may set the wall clock, in seconds: fifty years.
MAX_JUMP: Final = 50 * 365 * 86400.0

Days = Annotated[float, msgspec.Meta(ge=0, le=MAX_DAYS)]
Configured = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT, multiple_of=COUNT_STEP)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="do", forbid_unknown_fields=True):
    """Something that happens `at_days` days of true elapsed time after the start."""

    at_days: Days

    @property
    def do(self) -> str:
        """Return what is done, as the script names it."""
        return str(self.__struct_config__.tag)


class Enable(Step, frozen=True, kw_only=True, tag="enable"):
    """Smart licensing is turned on."""


class Disable(Step, frozen=True, kw_only=True, tag="disable"):
    """Smart licensing is turned off."""


class Register(Step, frozen=True, kw_only=True, tag="register"):
    """The device is given a registration token."""


class Deregister(Step, frozen=True, kw_only=True, tag="deregister"):
    """The device leaves the cloud."""


class RenewAuth(Step, frozen=True, kw_only=True, tag="renew_auth"):
    """An operator asks for a fresh authorization."""


class RenewId(Step, frozen=True, kw_only=True, tag="renew_id"):
    """An operator asks for a fresh ID certificate."""


class Restart(Step, frozen=True, kw_only=True, tag="restart"):
    """The machine restarts, in no time."""


class CloudDown(Step, frozen=True, kw_only=True, tag="cloud_down"):
    """The cloud cannot be reached from now on."""


class CloudUp(Step, frozen=True, kw_only=True, tag="cloud_up"):
    """The cloud can be reached again."""


class CloudRefuse(Step, frozen=True, kw_only=True, tag="cloud_refuse"):
    """The cloud answers the next `times` contacts with a signed refusal."""

    times: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class Purchase(Step, frozen=True, kw_only=True, tag="purchase"):
    """`count` calls a second are purchased in all from now on."""

    count: Count


class Configure(Step, frozen=True, kw_only=True, tag="configure"):
    """`count` calls a second are configured on this device from now on."""

    count: Configured


class Others(Step, frozen=True, kw_only=True, tag="others"):
    """`count` calls a second are configured on the account's other instances from now on."""

    count: Count


class ClockSet(Step, frozen=True, kw_only=True, tag="clock_set"):
    """The wall clock jumps by `seconds`."""

    seconds: Annotated[float, msgspec.Meta(ge=-MAX_JUMP, le=MAX_JUMP)]


AnyStep = (
    Enable | Disable | Register | Deregister | RenewAuth | RenewId | Restart
    | CloudDown | CloudUp | CloudRefuse | Purchase | Configure | Others | ClockSet
)  # fmt: skip


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One simulation of one device."""

    #: Calls a second configured on the device at the start.
    configured: Configured
    #: Calls a second purchased at the start.
    purchased: Count
    #: The simulation ends after so many days; what is due at its very end still happens.
    until_days: Annotated[float, msgspec.Meta(gt=0, le=MAX_DAYS)]
    policy: Literal["cccsp-15", "cusp", "cusp-mib"] = "cccsp-15"
    events: Annotated[tuple[AnyStep, ...], msgspec.Meta(max_length=MAX_EVENTS)] = ()

    def in_order(self) -> list[AnyStep]:
        """Return the events in order of time; those of one instant in the script's order."""
        return sorted(self.events, key=lambda event: event.at_days)


def read_script(raw: bytes) -> Script:
    """Read a script; raises LicenseError `bad_script` with the place and the reason."""
    script = read_strictly(raw, Script)
    for index, event in enumerate(script.events):
        if event.at_days > script.until_days:
            raise refused(
                f"$.events[{index}].at_days",
                f"{event.at_days:g} is after until_days, {script.until_days:g}.",
            )
    return script
