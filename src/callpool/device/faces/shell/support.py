"""The tech-support bundle: what whoever helps needs to see, and no secret.

It is put together from what the device says of itself; no settings file and no key is read for it.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from callpool.device.alarm_book import AlarmReport
from callpool.device.config_book import ConfigReport
from callpool.device.faces.shell import license_text as text
from callpool.device.faces.shell.alarm_text import active, history
from callpool.device.faces.shell.logs import tail
from callpool.device.status import Status

#: Lines of sml.log and of the journal that are in it.
LINES: Final = 500

#: Asks the core for what it only has to tell.
Read = Callable[..., Awaitable[Any]]


async def bundle(read: Read, root: Path) -> list[str]:
    """Return the lines of the bundle; raises CallpoolError where the core does not answer."""
    told = await read("status")
    status = msgspec.convert(told, Status)
    alarms = msgspec.convert(await read("alarms", after=0), AlarmReport)
    config = msgspec.convert(await read("config"), ConfigReport)
    calls: dict[str, Any] = await read("calls")
    log = await asyncio.to_thread(tail, root, LINES)
    journal = await asyncio.to_thread(tail, root, LINES, ("journal.jsonl", "journal.1.jsonl"))
    parts = {
        "show version": [
            status.software,
            f"Python {platform.python_version()}",
            platform.platform(),
        ],
        "show license all": text.whole(status),
        "show license pool": text.pool(status),
        "show alarms active": active(alarms),
        "show alarms history": history(alarms),
        "show calls": [f"{name:14} {value}" for name, value in calls.items()],
        "show running-config": list(config.running),
        "show startup-config": list(config.startup),
        "status": msgspec.json.format(msgspec.json.encode(told)).decode().splitlines(),
        f"sml.log, the last {LINES} lines": log,
        f"journal, the last {LINES} lines": journal,
    }
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [f"Tech-support bundle of {status.serial}, made {made}; it holds no secrets."]
    for title, part in parts.items():
        lines += ["", f"------ {title} ------", *part]
    return lines
