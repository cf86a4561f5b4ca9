"""A local license key for an HA pair: its own procedure, with one switchover.

The active unit drives it (`facts/license-pool.md` 6, right column, mark [C]): a the key file is
loaded on the active unit, b it sends it to the redundant one, c that burns it and resets, d the
active unit burns it and does not reset, e switchover, f the former active unit resets. It is
hitless only where nothing but capacity changes; otherwise both units reset together and calls
are lost.

c, e and f are the three steps of `hitless.start(..., returns=False)`: the same preconditions,
deadlines and ways to stop hold, with a key's sequence for a version, `received` for a burnt key
and `running` for one in force.
"""

from __future__ import annotations

from typing import Final

import msgspec

from callpool.licensing.errors import LicenseError
from callpool.licensing.hitless import ONE_SWITCHOVER, Step
from callpool.licensing.key import LocalKey


class KeyStep(msgspec.Struct, frozen=True):
    """One step of the procedure."""

    letter: str
    #: Whether the unit that was active when it began carries it out.
    first: bool
    words: str
    #: The step of the plan that it is; None for what must be done before.
    plan: Step | None = None


#: The procedure. What has no step of the plan is done before `hitless.start`.
KEY_STEPS: Final = (
    KeyStep("a", True, "load the key on the active unit, which keeps it for its next restart"),
    KeyStep("b", True, "send the key to the redundant unit"),
    KeyStep("c", False, "burn it and restart", ONE_SWITCHOVER[0]),
    KeyStep("d", True, "burn it and do not restart"),
    KeyStep("e", True, "hand over to the redundant unit", ONE_SWITCHOVER[1]),
    KeyStep("f", True, "restart", ONE_SWITCHOVER[2]),
)


def check_pair_key(key: LocalKey, first: str, other: str) -> LocalKey:
    """Return `key` if it is for both units; raises LicenseError `key_for_another_pair`."""
    if set(key.serials) != {first, other}:
        raise LicenseError(
            "key_for_another_pair",
            f"This key is bound to {', '.join(key.serials)}; the pair is {first} and {other}.",
        )
    return key


def not_hitless(installed: LocalKey | None, key: LocalKey) -> tuple[str, ...]:
    """Return what but counts changes from the installed key to `key`; empty where it is hitless.

    Anything else (features, the maximum that the hardware is licensed for) makes both units
    restart together.
    """
    features = installed.features if installed else frozenset()
    found = [f"feature {name}" for name in sorted(features ^ key.features)]
    if installed is not None and installed.maximum != key.maximum:
        found.append("maximum capacity")
    return tuple(found)
