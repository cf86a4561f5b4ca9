"""A driver in a process of its own, so that a test can kill or stop it.

    python driver_process.py SETTINGS.json STEPS.json

Attaches, prints `ready`, and lives until it is ended. Steps that end within a day of 1970 end so
many seconds after the moment that is then in the file `ready` of the gate's directory.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from callpool.device.gate.driver import KamailioGate
from callpool.device.gate.settings import GateSettings
from callpool.host.clock import SystemClock
from callpool.licensing.admission import AdmissionPolicy, Step

#: Seconds.
DAY = 86_400.0


def from_now(policy: AdmissionPolicy, directory: Path) -> AdmissionPolicy:
    """Return the policy with its relative ends counted from now, a moment that is noted."""
    now = time.time()
    directory.mkdir(exist_ok=True)
    (directory / "ready").write_text(str(now))
    return AdmissionPolicy(
        steps=tuple(
            s if s.until is None or s.until > DAY else replace(s, until=now + s.until)
            for s in policy.steps
        )
    )


async def main(settings_json: bytes, steps_json: bytes) -> None:
    settings = msgspec.json.decode(settings_json, type=GateSettings)
    steps = msgspec.json.decode(steps_json)
    policy = AdmissionPolicy(steps=tuple(msgspec.convert(s, Step) for s in steps))
    gate = KamailioGate(settings, SystemClock())
    await gate.attach(from_now(policy, settings.path))
    if "EVENT_BUFFER" in os.environ and gate._intake.events is not None:
        size = int(os.environ["EVENT_BUFFER"])
        gate._intake.events.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    if any(s.until is not None and s.until < DAY for s in policy.steps):
        await gate.apply(from_now(policy, settings.path))
    print("ready", gate.kamailio_pid, flush=True)
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes()))
