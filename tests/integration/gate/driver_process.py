"""A driver in a process of its own, so that a test can kill or stop it.

    python driver_process.py SETTINGS.json STEPS.json

Attaches, prints `ready`, and lives until it is ended.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import msgspec

from callpool.device.gate import GateSettings, KamailioGate
from callpool.host.clock import SystemClock
from callpool.licensing.admission import AdmissionPolicy, Step


async def main(settings_json: bytes, steps_json: bytes) -> None:
    settings = msgspec.json.decode(settings_json, type=GateSettings)
    steps = msgspec.json.decode(steps_json)
    policy = AdmissionPolicy(steps=tuple(msgspec.convert(s, Step) for s in steps))
    gate = KamailioGate(settings, SystemClock())
    await gate.attach(policy)
    if "EVENT_BUFFER" in os.environ and gate._intake.events is not None:
        size = int(os.environ["EVENT_BUFFER"])
        gate._intake.events.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    print("ready", gate.kamailio_pid, flush=True)
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes()))
