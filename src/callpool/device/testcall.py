"""`callpool device test-call`: one real call through the device's own Kamailio.

The feature comes with the local license key only (seed 004). The call is judged by the gate as
any other: it counts as a session while it is up.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from callpool.device.control import ask
from callpool.device.errors import DeviceError
from callpool.device.running import Running
from callpool.device.settings import Layout
from callpool.device.status import Status
from callpool.host.addresses import address
from callpool.host.sipp import SippResult, caller
from callpool.licensing.key import FEATURES

#: How long the call is held, in milliseconds, and the most it may take in all, in seconds.
HOLD_MS: Final = 500
LIMIT: Final = 20.0


class TestCall(msgspec.Struct, frozen=True, kw_only=True):
    """How one test call went."""

    #: Whether it was answered and ended as a call should.
    answered: bool
    #: The final answer's code, 0 where there was none.
    code: int
    #: Milliseconds from INVITE to the answer; 0 where there was none.
    milliseconds: float
    sentence: str


def place_test_call(layout: Layout, destination: str) -> TestCall:
    """Place one call to `destination` and return how it went.

    Raises DeviceError `not_running`, `feature_not_licensed`, `bad_destination`; SippError.
    """
    if not destination.isascii() or not destination.replace("+", "").isalnum():
        raise DeviceError("bad_destination", "A test call's destination is a plain number.")
    status = msgspec.convert(ask(layout.control, "status", timeout=10.0), Status)
    if FEATURES["test_call"] not in status.features:
        raise DeviceError(
            "feature_not_licensed",
            f"The local license key of {status.serial} does not carry the feature "
            f"{FEATURES['test_call']}.",
        )
    running = msgspec.convert(ask(layout.control, "running", timeout=10.0), Running)
    return _judge(asyncio.run(_call(address(running.sip), destination)), destination)


async def _call(remote: tuple[str, int], destination: str) -> SippResult:
    call = await caller(
        remote, calls=1, hold_ms=HOLD_MS, number=destination, name="test-call", host=remote[0]
    )
    try:
        return await call.wait(LIMIT)
    finally:
        await call.stop()


def _judge(result: SippResult, destination: str) -> TestCall:
    finals = [c for c in result.answers if c not in (401, 407)] or list(result.answers)
    code = finals[0] if finals else 0
    answered = result.completed == 1 and code == 200
    if answered:
        sentence = f"The test call to {destination} was answered and ended well."
    elif code:
        sentence = f"The test call to {destination} was refused with {code}."
    else:
        sentence = f"The test call to {destination} was not answered."
    return TestCall(
        answered=answered,
        code=code,
        milliseconds=result.response_ms if answered else 0.0,
        sentence=sentence,
    )
